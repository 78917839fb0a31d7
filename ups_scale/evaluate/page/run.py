"""The end of a report: what it cost, what was evaluated and with what, the recipe, and what the figures mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from ups_scale.evaluate.page import metrics, tables
from ups_scale.evaluate.page.numbers import number, plural


def cost(report: Mapping[str, Any]) -> str:
    """Seconds of everybody's rollouts, memory and energy where they are known; and the zoo's entries."""
    found = report.get("efficiency")
    if not found:
        return ""
    zoo = [name for name in metrics.predictors(report) if any(name in of.get("zoo", {}) for of in found.values())]
    extra = {
        "metrics, s": ("metrics_s", 1.0),
        "peak memory, MiB": ("peak_memory_mib", 1.0),
        "J per step": ("joules_per_step", 1.0),
    }
    there = [title for title, (key, _) in extra.items() if any(key in of for of in found.values())]
    header = ("family", "batch", "steps", "rollout, s", "model, ms/step", *(f"{name}, ms/step" for name in zoo), *there)
    rows = []
    for family, of in found.items():
        cells = [tables.cell(family, "name"), tables.cell(str(of["batch"])), tables.cell(str(of["steps"]))]
        cells += [tables.figure(of["wall_clock_s"]), tables.figure(1e3 * of["seconds_per_step"], metrics.MODEL)]
        for name in zoo:
            seconds = of.get("zoo", {}).get(name, {}).get("seconds_per_step")
            kind = metrics.kind_of(name)
            cells.append(tables.cell("-", kind) if seconds is None else tables.figure(1e3 * seconds, kind))
        for title in there:
            value = of.get(extra[title][0])
            cells.append(tables.cell("-", "trivial") if value is None else tables.figure(value))
        rows.append(tables.row(cells))
    devices = ", ".join(dict.fromkeys(of["device"] for of in found.values()))
    kinds = ("", "", "", "", metrics.MODEL)
    return (
        f'<h2 id="cost">Cost</h2>\n<p class="muted">A rollout of a whole batch on {escape(devices)}; the median over '
        "the batches, after a first call that is not timed, without reading data.</p>\n"
        + tables.table(header, rows, kinds=kinds)
        + _entries(report)
    )


def facts(report: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """Which checkpoint, data and suite, on what; and the recipe."""
    settings = report.get("suite_settings", {})
    entries = {
        "checkpoint": f"{report['checkpoint']} (sha256 {report['checkpoint_sha256'][:16]})",
        "recipe's hash": report.get("config_hash") or "",
        "data": f"{report['manifest']} (digest {report['manifest_digest'][:16]})",
        "suite": report["suite"] + (f" (hash {report['suite_hash']})" if report.get("suite_hash") else ""),
        "suite's settings": ", ".join(f"{key} {_plain(value)}" for key, value in settings.items() if key != "name"),
        "guards": ", ".join(report.get("guards", ())) or ("none" if "guards" in report else ""),
        "guards that do not apply": _guards_left_out(report),
        "noise scale": ", ".join(f"{key} {number(value)}" for key, value in report.get("noise_scale", {}).items()),
        "left out": "; ".join(f"{name}: {reason}" for name, reason in report.get("left_out", {}).items()),
        "code": report.get("commit") or "",
        "device": f"{report['device']}, {plural(report['num_processes'], 'process', 'processes')}",
        "environment": ", ".join(f"{name} {version}" for name, version in report["environment"].items()),
        "evaluation took": f"{report['wall_clock_s']:.1f} s",
        "recipe": recipe.get("description") or "",
    }
    entries |= {section: _brief(recipe.get(section)) for section in ("model", "optimizer", "schedule", "curriculum")}
    return (
        f'<h2 id="run">The run</h2>\n{tables.facts(entries)}\n<details><summary>The whole recipe, resolved</summary>'
        f'<pre tabindex="0">{escape(json.dumps(recipe, indent=2))}</pre></details>'
    )


def conventions(report: Mapping[str, Any]) -> str:
    """What the figures that this report has mean."""
    last = max(report["horizons"])
    low = {name: entry.get(f"low_variance@{last}", 0) for name, entry in report["data"].items()}
    note = "; ".join(f"{name} {count}" for name, count in low.items() if count)
    empty = {
        name: sum(count for key, count in entry.items() if key.startswith("no_value@"))
        for name, entry in report["data"].items()
    }
    left_out = "; ".join(f"{name} {count}" for name, count in empty.items() if count)
    lines = MEANINGS | {
        "vrmse": MEANINGS["vrmse"] + (f"; frames with a variance under 1e-7 at step {last}: {note}" if note else ""),
        "masks": MEANINGS["masks"] + (f"; frames without any are left out: {left_out}" if left_out else ""),
    }
    measured = {
        metric.partition("@")[0]
        for table in report["families"].values()
        for name, of in table.items()
        if name != "fields"
        for metric in of
    }
    shown = {
        key: value
        for key, value in lines.items()
        if key in ALWAYS or any(kind.startswith(part) for part in key.split(", ") for kind in measured)
    }
    entries = "".join(f"<dt><code>{key}</code></dt><dd>{escape(value)}</dd>" for key, value in shown.items())
    return (
        '<h2 id="conventions">Conventions</h2>\n<p class="muted">k is the step after the last given frame. Where a '
        f"figure is called not finite, a prediction was not; none is left out.</p><dl>{entries}</dl>"
    )


ALWAYS = ("masks", "point sets")
MEANINGS = {
    "nrmse": "mean over trajectories and fields of RMS(error) / RMS(truth), RMS over space at that step",
    "vrmse": "the same with the root of (unbiased spatial variance of the truth + 1e-7) below",
    "rel_l2": "joint: L2 norm of the error / that of the truth, over space, fields and steps 1 to k; mean over "
    "trajectories",
    "rmse, mae": "root of the mean squared, and the mean absolute error over trajectories and space, in the field's "
    "unit; over several fields only where they share a unit",
    "max_error": "mean over trajectories of the largest absolute error in space, in the field's unit",
    "psnr": "decibels: 20 log10 of the truth's range in the trajectory / RMS(error)",
    "brmse": "RMS of the error over the cells at the boundary",
    "frmse": "root of the error's power in a band of wavenumbers (low 0-3, mid 4-11, high 12 and more) / points",
    "band_error": "root of the error's power in a band / the truth's",
    "spectral_error": "mean over wavenumbers of |log power of the prediction - log power of the truth|",
    "conservation_gap": "|Q(k) - Q(0)| / max(|Q(0)|, L1 norm of q(0)); only for what the family conserves. Where the "
    "sides let some of it through, |Q(k) - the truth's Q(k)| over the same",
    "bc_violation": "RMS of the boundary condition's residual / RMS(truth)",
    "divergence": "RMS of the velocity's divergence x length / RMS of the velocity; the truth's own stands beside it",
    "shock_iou, shock_precision": "of the cells with the steepest gradients, dilated by one: intersection / union, and "
    "the share of the predicted ones that are true",
    "horizon": "first step with a correlation under 0.8, mean over trajectories; the last step where there is none",
    "crps": "fair continuous ranked probability score of the ensemble / RMS(truth)",
    "spread_skill": "spread of the ensemble / error of its mean: 1 is calibrated",
    "ece": "mean over levels of |coverage - level| of the ensemble's intervals",
    "masks": "points without a value, in the truth or in the last given frame, count in no figure",
    "point sets": "means over space are over the points, all alike; no conservation gap and no power spectrum",
}


def _entries(report: Mapping[str, Any]) -> str:
    zoo = report.get("zoo")
    if not zoo:
        return ""
    rows = [_entry(metrics.MODEL, report), *(_entry(name, told) for name, told in zoo.items())]
    header = ("", "M parameters", "step", "run", "checkpoint's sha256")
    return "<h3>Who stands beside the model</h3>" + tables.table(header, rows, False, ("", "", "", "text", "text"))


def _entry(name: str, told: Mapping[str, Any]) -> str:
    step = told.get("step")
    return tables.row(
        [
            tables.cell(name, "name"),
            tables.cell(number(told.get("params_m"))),
            tables.cell("-" if step is None else f"{step:,}"),
            tables.cell(str(told.get("run", "-")), "text"),
            tables.cell(str(told.get("checkpoint_sha256", "-"))[:16], "text mono"),
        ]
    )


def _guards_left_out(report: Mapping[str, Any]) -> str:
    found = report.get("guards_left_out", {})
    return "; ".join(f"{family}, {guard}: {reason}" for family, of in found.items() for guard, reason in of.items())


def _brief(section: Any) -> str:
    """One line for a section of the recipe: its plain values."""
    if not isinstance(section, Mapping):
        return ""
    return ", ".join(f"{key} {_plain(value)}" for key, value in section.items() if not isinstance(value, Mapping))


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
