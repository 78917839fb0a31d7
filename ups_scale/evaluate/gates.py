"""Gates: the bars that an evaluation holds the model to, per family and horizon, never on an average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def steps(table: Mapping[str, Any]) -> tuple[int, ...]:
    """The steps that a family's table of figures has, in order: not all that were asked for, if it is steady."""
    return tuple(sorted(int(name.partition("@")[2]) for name in table["model"] if name.startswith("nrmse@")))


def persistence_gates(families: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One gate per family and step: nRMSE must be under min(persistence, 1), so under both trivial predictors.

    Non-finite predictions fail their gate. `families` is the table of figures of `report.json`.
    """
    gates = []
    for family, table in families.items():
        for k in steps(table):
            value, bar = table["model"][f"nrmse@{k}"], table["persistence"][f"nrmse@{k}"]
            limit = min(1.0, math.inf if bar is None else bar)
            whole = value is not None and math.isfinite(value) and not table["model"].get(f"non_finite@{k}")
            gates.append(
                {
                    "name": "persistence",
                    "family": family,
                    "horizon": k,
                    "value": value if whole else None,
                    "limit": limit,
                    "passed": whole and value < limit,
                }
            )
    return gates
