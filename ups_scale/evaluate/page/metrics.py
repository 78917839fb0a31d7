"""Tables of a report's figures: nRMSE of everybody on everything, and all metrics of a family."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ups_scale.evaluate.gates import steps
from ups_scale.evaluate.page import tables
from ups_scale.evaluate.page.pickers import picker

MODEL, TRUTH = "model", "truth"
TRIVIAL = ("persistence", "extrapolation", "zero")
GROUPS = {
    "accuracy": ("nrmse", "vrmse", "rel_l2", "rmse", "mae", "max_error", "psnr", "brmse", "non_finite"),
    "spectral": ("spectral_error", "band_error", "frmse"),
    "physics": ("conservation_gap", "bc_violation", "divergence", "shock"),
    "reliability": ("ece", "crps", "spread_skill", "sharpness", "coverage"),
}
"""By group, what the names of its metrics begin with, in the order of the lines."""
OTHER, WHOLE = "other", "whole rollout"
LARGER_IS_BETTER = ("psnr", "shock_iou", "shock_precision", "horizon")
NOT_RANKED = ("spread_skill", "sharpness", "coverage", "non_finite", "horizon_censored", "frmse_pdebench")
"""Metrics of which neither the lowest nor the highest is the best."""
TRAINED_ONLY = ("conservation_gap", "bc_violation", "divergence")
"""Persistence and zero keep any law: the best is that of those that predict something."""


def predictors(report: Mapping[str, Any], tables_: Iterable[Mapping[str, Any]] | None = None) -> list[str]:
    """Who stands in `tables_` (the report's families), in order: the model, the zoo, the trivial predictors."""
    entries = list(report["families"].values() if tables_ is None else tables_)
    there = dict.fromkeys(name for table in entries for name in table if name not in ("fields", TRUTH))
    named = [MODEL, *report.get("zoo", {}), *TRIVIAL]
    # Zoo entries of a report without a list of them stand after the model.
    unnamed = [name for name in there if name not in named]
    return [name for name in (MODEL, *unnamed, *named[1:]) if name in there]


def nrmse_table(
    report: Mapping[str, Any], families: Mapping[str, Mapping[str, Any]], gates: Sequence[Mapping[str, Any]] = ()
) -> str:
    """nRMSE of all predictors on `families` at every step, the best marked, and model / min(persistence, 1).

    `gates` are a report's, of which those against persistence are shown; a line without one is red where the model is
    not below the bar.
    """
    names = predictors(report, families.values())
    passed = {(gate["family"], gate["horizon"]): gate["passed"] for gate in gates if gate["name"] == "persistence"}
    # The verdict stands beside the model: on a narrow screen the others lie beyond the edge.
    header = ("family", "step", *names[:1], "model / bar", *(["gate"] if passed else []), "", *names[1:])
    rows = []
    for family, table in families.items():
        for i, k in enumerate(steps(table)):
            metric = f"nrmse@{k}"
            ratio = over_bar(table, k)
            below = passed.get((family, k), ratio is not None and ratio < 1)
            best = best_of(table, names, "nrmse", metric)
            cells = [tables.cell(family if i == 0 else "", "name"), tables.cell(str(k))]
            figures = [figure(table, name, metric, name in best) for name in names]
            cells += [*figures[:1], tables.figure(ratio, "ratio")]
            if passed:
                gate = passed.get((family, k))
                cells.append(tables.cell("" if gate is None else "passed" if gate else "failed", "gate"))
            cells += [tables.bar(ratio), *figures[1:]]
            rows.append(tables.row(cells, " ".join(n for n, on in (("first", i == 0), ("failed", not below)) if on)))
    kinds = [kind_of(name) if name in names else "" for name in header]
    return tables.table(header, rows, kinds=kinds)


def over_bar(table: Mapping[str, Any], k: int) -> float | None:
    """nRMSE of the model at step k / min(persistence, 1); None if it isn't finite."""
    value, bar = table[MODEL].get(f"nrmse@{k}"), table.get("persistence", {}).get(f"nrmse@{k}")
    if value is None:
        return None
    limit = min(1.0, math.inf if bar is None else bar)
    return value / limit if limit else None


def figures_of(report: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """All metrics of a family, a table per step and field: a line per metric, a column per predictor."""
    fields = table.get("fields", {})
    of_field = {"all": table} | (dict(fields) if len(fields) > 1 else {})
    horizons = [str(k) for k in steps(table)]
    panels = {}
    for field, of in of_field.items():
        for k in horizons:
            pick = tuple(v for v, values in ((k, horizons), (field, of_field)) if len(values) > 1)
            where = f"step {k}" + (f", {field if field != 'all' else 'all fields'}" if len(of_field) > 1 else "")
            panels[pick] = f"<h4>{escape(where)}</h4>" + _metrics(report, of, k)
    return picker({"step": horizons, "field": list(of_field)}, panels)


def _metrics(report: Mapping[str, Any], table: Mapping[str, Any], k: str) -> str:
    names = predictors(report, [table])
    names += [TRUTH] if TRUTH in table else []
    rows = []
    for group, metrics in grouped(table, names, k):
        rows.append(tables.group_row(group, len(names) + 1))
        for metric in metrics:
            kind = metric.partition("@")[0]
            best = best_of(table, names, kind, metric)
            shown = metric if group == WHOLE else kind
            cells = [tables.cell(shown, "name"), *(figure(table, name, metric, name in best) for name in names)]
            rows.append(tables.row(cells))
    return tables.table(("", *names), rows, wide=False, kinds=("", *(kind_of(name) for name in names)))


def grouped(table: Mapping[str, Any], names: Sequence[str], k: str) -> Iterator[tuple[str, list[str]]]:
    """The metrics at step `k` (and those of the whole rollout) that a predictor has, by group, in order."""
    metrics = dict.fromkeys(metric for name in names for metric in table[name])
    lost = any(value for name in names for metric, value in table[name].items() if metric == f"non_finite@{k}")
    at = [metric for metric in metrics if metric.endswith(f"@{k}") and (lost or not metric.startswith("non_finite"))]
    known = set()
    for group, starts in GROUPS.items():
        found = [metric for start in starts for metric in at if metric.startswith(start)]
        found = [metric for metric in dict.fromkeys(found) if metric not in known]
        known |= set(found)
        if found:
            yield group, found
    rest = [metric for metric in at if metric not in known]
    if rest:
        yield OTHER, rest
    whole = [metric for metric in metrics if not metric.partition("@")[2].isdigit()]
    if whole:
        yield WHOLE, whole


def best_of(table: Mapping[str, Any], names: Sequence[str], kind: str, metric: str) -> list[str]:
    """Those of `names` with the best figure, if there are worse ones and the metric ranks them."""
    if kind.startswith(NOT_RANKED):
        return []
    among = [name for name in names if name != TRUTH and not (kind.startswith(TRAINED_ONLY) and name in TRIVIAL)]
    found = {name: table[name][metric] for name in among if table.get(name, {}).get(metric) is not None}
    if len([name for name in among if metric in table.get(name, {})]) < 2 or not found:
        return []
    if len(found) > 1 and len(set(found.values())) == 1:
        return []
    best = max(found.values()) if kind.startswith(LARGER_IS_BETTER) else min(found.values())
    return [name for name, value in found.items() if value == best]


def figure(table: Mapping[str, Any], name: str, metric: str, best: bool = False) -> str:
    """A predictor's cell; a dash where it has no such figure, `not finite` where its predictions weren't."""
    figures = table.get(name, {})
    if metric not in figures or (figures[metric] is None and _undefined(figures, metric)):
        return tables.cell("-", "trivial")
    return tables.figure(figures[metric], kind_of(name), best)


def _undefined(figures: Mapping[str, Any], metric: str) -> bool:
    """Whether null means that there is nothing to measure: all predictions are known to be finite."""
    at = metric.partition("@")[2]
    counts = [value for key, value in figures.items() if key.startswith("non_finite@") and at in (key[11:], "0.8")]
    return bool(counts) and not any(counts)


def kind_of(name: str) -> str:
    """The CSS class of a predictor's cells."""
    return MODEL if name == MODEL else "trivial" if name in (*TRIVIAL, TRUTH) else ""
