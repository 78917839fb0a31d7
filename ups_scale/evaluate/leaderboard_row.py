"""A row of the leaderboard: what was evaluated, per step the summaries over families, and every family's figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ups_scale.evaluate import saved

FORMAT = "ups-leaderboard-1"
FIXED = (
    "format",
    "date",
    "run_id",
    "suite",
    "suite_hash",
    "guards",
    "manifest",
    "manifest_digest",
    "commit",
    "config_hash",
    "checkpoint_sha256",
    "step",
    "params_m",
    "families",
    "gates_passed",
    "gates_failed",
    "failed",
    "diverged",
    "wall_clock_s",
    "promoted",
)
NUMBERS = ("step", "params_m", "gates_passed", "gates_failed", "wall_clock_s")
"""Of `FIXED`; all other columns but `worst_family@k` hold numbers too."""
SUMMARIES = ("geomean_nrmse", "geomean_ratio", "worst_ratio", "worst_family")
SHOWN_PREDICTORS = ("model", "persistence")

Row = dict[str, str]


def row(report: Mapping[str, Any], promoted: bool | None = None) -> Row:
    """The leaderboard's row of a report.json, column by column, all text; a column without a value is left out.

    `promoted` is by default what the report's `champion` says. The geometric means of a step are over the families that
    have that step, and empty as soon as one of them isn't finite: what diverged is never averaged away.
    """
    if promoted is None:
        promoted = (report.get("champion") or {}).get("promoted")
    gates = report.get("gates", [])
    failed = [_gate(gate) for gate in gates if not gate["passed"]]
    values: dict[str, Any] = {
        "format": FORMAT,
        "date": report["date"],
        "run_id": report["run"],
        "suite": report["suite"],
        "suite_hash": report.get("suite_hash"),
        "guards": " ".join(report.get("guards", [])),
        "manifest": report.get("manifest"),
        "manifest_digest": report["manifest_digest"],
        "commit": report.get("commit"),
        "config_hash": report.get("config_hash"),
        "checkpoint_sha256": report["checkpoint_sha256"],
        "step": report["step"],
        "params_m": report["params_m"],
        "families": " ".join(report["families"]),
        "gates_passed": len(gates) - len(failed),
        "gates_failed": len(failed),
        "failed": "; ".join(failed),
        "diverged": "; ".join(_diverged(report["families"])),
        "wall_clock_s": report.get("wall_clock_s"),
        "promoted": None if promoted is None else "yes" if promoted else "no",
    }
    for k in steps(report["families"]):
        values |= summary(report["families"], k)
    for predictor in SHOWN_PREDICTORS:
        for family, metric, value in saved.predictors(report, predictor):
            if metric.startswith("nrmse@"):
                values[f"{family}/{predictor}/{metric}"] = value
    texts = {name: _text(value) for name, value in values.items()}
    return {name: value for name, value in texts.items() if value}


def steps(families: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """All steps at which any family has an nRMSE, in order."""
    names = {name for table in families.values() for name in table["model"] if name.startswith("nrmse@")}
    return sorted(int(name.partition("@")[2]) for name in names)


def summary(families: Mapping[str, Mapping[str, Any]], k: int) -> dict[str, Any]:
    """The columns that sum up step `k` over the families: geometric means, and the worst ratio with its family.

    Ratio is nRMSE / min(persistence, 1): below 1 the model beats both trivial predictors.
    """
    values, ratios = {}, {}
    for family, table in families.items():
        if f"nrmse@{k}" in table["model"]:
            value, bar = table["model"][f"nrmse@{k}"], table["persistence"][f"nrmse@{k}"]
            values[family] = math.inf if value is None else value
            limit = 1.0 if bar is None else min(1.0, bar)
            ratios[family] = values[family] / limit if limit else math.inf
    worst = max(ratios, key=lambda family: ratios[family])
    return {
        f"geomean_nrmse@{k}": geometric_mean(values.values()),
        f"geomean_ratio@{k}": geometric_mean(ratios.values()),
        f"worst_ratio@{k}": ratios[worst],
        f"worst_family@{k}": worst,
    }


def is_number(column: str) -> bool:
    """Whether a column of the leaderboard holds numbers."""
    return column in NUMBERS or (column not in FIXED and not column.startswith("worst_family@"))


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; 0 if one is 0, infinity if one is infinite."""
    values = list(values)
    if math.inf in values or 0.0 in values:
        return math.inf if math.inf in values else 0.0
    return math.exp(sum(map(math.log, values)) / len(values))


def _diverged(families: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for family, table in families.items():
        counts = {name: count for name, count in table["model"].items() if name.startswith("non_finite@")}
        lost = {int(name.partition("@")[2]): count for name, count in counts.items() if count}
        if lost:
            yield f"{family}: {lost[max(lost)]} by step {max(lost)}"


def _gate(gate: Mapping[str, Any]) -> str:
    where = f" {gate['family']}" if gate.get("family") else ""
    return gate["name"] + where + (f"@{gate['horizon']}" if gate.get("horizon") else "")


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)
