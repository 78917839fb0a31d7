"""Why a candidate was promoted or not, a line for each thing that decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ups_scale.evaluate.bootstrap import Comparison, Gain
from ups_scale.evaluate.gates import Bars


def gain(found: Gain, step: int, bars: Bars, better: bool, single: Sequence[str]) -> str:
    """The line on the gain over all families at `step`; `better` is whether it is enough, `single` the families with
    one trajectory."""
    way = "lower" if found.improvement >= 0 else "higher"
    text = f"nRMSE at step {step} is {100 * abs(found.improvement):.2g} % {way} than the champion's, "
    if single:
        return text + f"but {', '.join(single)} has one trajectory: its noise is not known, so no promotion"
    text += f"one standard error {100 * found.sigma:.2g} %"
    if better:
        return text
    if found.improvement < bars.margin:
        return f"{text}; {100 * bars.margin:.2g} % lower is asked for"
    return f"{text}; more than {bars.sigmas:g} standard errors are asked for"


def failed(gates: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A line per kind of gate that failed, with the worst place; none for the one on the gain, which has its own."""
    lines = []
    for name in dict.fromkeys(gate["name"] for gate in gates if gate["name"] != "champion_nrmse"):
        those = [gate for gate in gates if gate["name"] == name and not gate["passed"]]
        if not those:
            continue
        higher_is_better = name == "horizon"
        worst = max(those, key=lambda gate: _excess(gate, higher_is_better))
        found = "not finite, or no figure" if worst["value"] is None else f"{worst['value']:.3g}"
        place = f"{worst['family']} at step {worst['horizon']}"
        count = f" in {len(those)} places, worst" if len(those) > 1 else ""
        lines.append(f"{name} failed{count}: {place}: {found}, limit {worst['limit']:.3g}")
    return tuple(lines)


def diverged(comparison: Comparison) -> tuple[str, ...]:
    """A line per family and model with trajectories that left the finite numbers."""
    lines = []
    for name, counts in comparison.diverged.items():
        for whose, count in zip(("candidate", "champion"), counts, strict=True):
            if count:
                lines.append(f"{name}: {count} of the {whose}'s trajectories diverged; they count as the worst of both")
    return tuple(lines)


def _excess(gate: Mapping[str, Any], higher_is_better: bool) -> float:
    if gate["value"] is None:
        return math.inf
    return gate["limit"] - gate["value"] if higher_is_better else gate["value"] / max(gate["limit"], 1e-300)
