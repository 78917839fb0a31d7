"""Why a candidate was promoted or not, a line for each thing that decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ups_scale.evaluate.bootstrap import Comparison, Gain
from ups_scale.evaluate.gates import Bars, label


def percent(share: float, sign: str = "") -> str:
    """A share in percent with two digits that count, never as a power of ten: `110 %`; with sign "+" `+110 %`."""
    return f"{float(f'{100 * share:.2g}'):{sign}.12g} %"


def margin(improvement: float | None, sigma: float | None, asked: float) -> str:
    """The gain over the champion beside its standard error and what is asked for, of a gate's line."""
    if improvement is None:
        return "gain not known"
    noise = "not known" if sigma is None or not math.isfinite(sigma) else percent(sigma)
    return f"gain {percent(improvement, '+')} (sigma {noise}, asked for {percent(asked)})"


def options(of: Mapping[str, Any]) -> str:
    """The options of a second try: `guards conservation, helmholtz; noise_scale burgers_1d x 1.23`."""
    told = []
    for key, value in of.items():
        each = [f"{name} x {x:.3g}" for name, x in value.items()] if isinstance(value, Mapping) else value
        told.append(f"{key} {', '.join(each) or 'none'}")
    return "; ".join(told)


def gain(found: Gain, step: int, bars: Bars, better: bool, single: Sequence[str]) -> str:
    """The line on the gain over all families at `step`; `better` is whether it is enough, `single` the families with
    one trajectory."""
    way = "lower" if found.improvement >= 0 else "higher"
    text = f"nRMSE at step {step} is {percent(abs(found.improvement))} {way} than the champion's, "
    if single:
        return text + f"but {', '.join(single)} has one trajectory: its noise is not known, so no promotion"
    text += f"one standard error {percent(found.sigma)}"
    if better:
        return text
    if found.improvement < bars.margin:
        return f"{text}; {percent(bars.margin)} lower is asked for"
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
        lines.append(f"{label(name)} failed{count}: {place}: {found}, limit {worst['limit']:.3g}")
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
