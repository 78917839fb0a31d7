"""The page of a training run: what became of it, its curves, its newest evaluation, its recipe and where it ran."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from ups_scale.evaluate.leaderboard_row import steps, summary
from ups_scale.evaluate.page.charts import PALETTE, Line, line_chart
from ups_scale.evaluate.page.document import document
from ups_scale.evaluate.page.tables import cell, facts, figure, row, table
from ups_scale.evaluate.run_record import Run, from_defaults, series

POINTS = 400
"""A curve has at most so many points; longer ones are means over equal parts."""
PATCH_LINES = 200
FAMILY_LOSS = "loss/"
CURVES = (
    # key, title, label of the axis, logarithmic, factor
    ("loss", "Loss of the last step", "loss", True, 1.0),
    ("lr", "Learning rate", "", False, 1.0),
    ("grad_norm", "Gradient norm", "norm before clipping", True, 1.0),
    ("tokens_per_s", "Throughput of all ranks", "thousand tokens / s", False, 1e-3),
    ("data_wait_share", "Waiting for data", "% of the time", False, 100.0),
    ("mfu", "Model FLOPs utilisation", "% of the peak", False, 100.0),
    ("peak_memory_gib", "Peak memory", "GiB, first rank", False, 1.0),
)


def verdict(run: Run) -> str:
    """What became of the run, in a line."""
    took = f"{duration(run.seconds)} of logged training"
    if run.state == "diverged":
        return f"Diverged: the loss or gradient was not finite by step {run.lost:,} of {run.steps:,}, after {took}."
    if run.state == "finished":
        return f"Finished: {run.step:,} of {run.steps:,} steps in {took}."
    if run.stop is not None:
        why = f"{run.stop['stopped']}: {run.stop.get('reason', 'no reason is given')}"
        return f"Stopped: after step {run.stop['step']:,} of {run.steps:,} and {took}, by the rule {why}."
    if run.written is None or not run.records:
        return f"Not begun: no step of {run.steps:,} is logged yet."
    return (
        f"Not finished: step {run.step:,} of {run.steps:,} after {took}; still training, or killed. The last line was "
        f"written {run.written:%Y-%m-%d %H:%M:%S} UTC."
    )


def values(run: Run) -> dict[str, Any]:
    """What the page says, as plain JSON values."""
    last = run.records[-1] if run.records else {}
    step, figures = run.validations[-1] if run.validations else (None, {})
    return {
        "format": 1,
        "run": run.name,
        "state": run.state,
        "verdict": verdict(run),
        "step": run.step,
        "steps": run.steps,
        "seconds": run.seconds,
        "damage": list(run.damage),
        "stop": dict(run.stop) if run.stop else None,
        "last": dict(last),
        "validation": {"step": step, "figures": dict(figures)},
        "checkpoints": list(run.checkpoints),
        "evaluation": _gates(run.evaluation) if run.evaluation else None,
        "unread_evaluations": list(run.unread),
        "recipe_from_defaults": from_defaults(run.recipe),
        "environment": dict(run.environment),
        "changed_files": run.patch.count("\ndiff --git ") + run.patch.startswith("diff --git "),
    }


def page(run: Run) -> str:
    """The whole page."""
    body = [_head(run), _curves(run), _validation(run), _evaluation(run), _recipe(run), _environment(run)]
    return document(f"{run.name}: training", "\n".join(part for part in body if part))


def duration(seconds: float) -> str:
    """`47 s`, `5 min 12 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _head(run: Run) -> str:
    first, _, rest = verdict(run).partition(": ")
    kind = {"finished": "", "diverged": " failed", "stopped": " plain", "unfinished": " plain"}[run.state]
    notes = list(run.damage)
    quarantined = run.records[-1].get("quarantined") if run.records else 0
    if quarantined:
        notes.append(f"{quarantined:,} damaged trajectories were left out")
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    description = run.recipe.get("description") or ""
    return (
        f'<h1>{escape(run.name)}</h1>\n<p class="muted">{escape(description)}</p>\n'
        f'<div class="verdict{kind}"><strong>{escape(first)}</strong><span>{escape(rest)}</span>'
        + (f"<ul>{items}</ul>" if items else "")
        + "</div>"
    )


def _curves(run: Run) -> str:
    charts = []
    for key, title, label, log, factor in CURVES:
        xs, ys = series(run.records, key, POINTS)
        scaled = [None if y is None else y * factor for y in ys]
        if any(y is not None for y in scaled):
            charts.append(_chart([Line(label, xs, scaled, "var(--model)")], title, label, log))
        if key == "loss":
            charts += _family_losses(run)
    if not charts:
        return ""
    many = len(run.records) > POINTS
    note = f" Curves are means over equal parts, at most {POINTS} of them." if many else ""
    told = (
        "The loss of a family is its mean since the line before; the loss above is that of the last step, whatever "
        f"families it drew.{note}"
    )
    return f'<h2>Training</h2>\n<p class="muted">{told}</p>\n<div class="grid">{"".join(charts)}</div>'


def _family_losses(run: Run) -> Iterator[str]:
    names = sorted({key for record in run.records for key in record if key.startswith(FAMILY_LOSS)})
    lines = [
        Line(name.removeprefix(FAMILY_LOSS), *series(run.records, name, POINTS), colour=PALETTE[i % len(PALETTE)])
        for i, name in enumerate(names)
    ]
    if lines:
        yield _chart(lines, "Loss by family", "loss", True)


def _validation(run: Run) -> str:
    """A chart per family: nRMSE of model and persistence over the steps of the training, a colour per horizon."""
    if not run.validations:
        return ""
    names = dict.fromkeys(name for _, figures in run.validations for name in figures)
    by_family: dict[str, list[str]] = {}
    for name in names:
        family, predictor, metric = name.split("/")
        if predictor == "model" and metric.startswith("nrmse@"):
            by_family.setdefault(family, []).append(metric)
    charts = []
    at = [float(step) for step, _ in run.validations]
    for family, metrics in by_family.items():
        lines = []
        for i, metric in enumerate(metrics):
            colour, k = PALETTE[i % len(PALETTE)], metric.partition("@")[2]
            for predictor, dash in (("model", ""), ("persistence", "5 3")):
                ys = [figures.get(f"{family}/{predictor}/{metric}") for _, figures in run.validations]
                if any(y is not None for y in ys):
                    lines.append(Line(f"{predictor} @{k}", at, ys, colour, dash, dots=not dash))
        if lines:
            charts.append(_chart(lines, family, "nRMSE", True))
    lost = [
        f"{name.split('/')[0]} at training step {step:,}"
        for step, figures in run.validations
        for name, value in figures.items()
        if "/model/nrmse@" in name and value is None
    ]
    warning = f'<p class="bad">Not finite: {escape("; ".join(dict.fromkeys(lost)))}.</p>' if lost else ""
    return (
        '<h2>Validation</h2>\n<p class="muted">nRMSE at steps after the last given frame, of the model (solid) and of '
        f'persistence (dashed).</p>\n{warning}<div class="grid">{"".join(charts)}</div>'
    )


def _evaluation(run: Run) -> str:
    parts = ["<h2>Newest evaluation</h2>"]
    parts += [f'<p class="bad">{escape(line)}</p>' for line in run.unread]
    report = run.evaluation
    if report is None:
        told = f"None yet: tools/evaluate.py --checkpoint {run.folder} makes one."
        return "\n".join([*parts, f'<p class="muted">{escape(told)}</p>'])
    gates = _gates(report)
    failed = "".join(f'<li class="failed">{escape(name)}</li>' for name in gates["failed"])
    parts.append(
        f'<p class="muted">Suite {escape(report["suite"])}, step {report["step"] or "not known"}, '
        f"{escape(report['date'][:16].replace('T', ' '))} UTC</p>"
        f'<div class="verdict{" failed" if failed else ""}"><strong>{gates["passed"]} of {gates["number"]} gates passed'
        f"</strong>{f'<ul>{failed}</ul>' if failed else ''}</div>"
    )
    ks = steps(report["families"])
    header = ["family", *(f"{kind} @{k}" for k in ks for kind in ("nRMSE", "ratio"))]
    rows = []
    for family, of in report["families"].items():
        cells = [cell(family, "name")]
        for k in ks:
            if f"nrmse@{k}" in of["model"]:
                ratio = summary({family: of}, k)[f"worst_ratio@{k}"]
                cells += [figure(of["model"][f"nrmse@{k}"], "model"), figure(ratio if ratio < float("inf") else None)]
            else:
                cells += [cell("-"), cell("-")]
        rows.append(row(cells))
    parts.append(table(header, rows))
    parts.append('<p class="muted">ratio: nRMSE / min(persistence, 1); below 1 the model beats both.</p>')
    return "\n".join(parts)


def _gates(report: Mapping[str, Any]) -> dict[str, Any]:
    gates = report.get("gates", [])
    failed = [
        " ".join(str(part) for part in (gate["name"], gate.get("family"), _at(gate)) if part)
        for gate in gates
        if not gate["passed"]
    ]
    return {
        "suite": report["suite"],
        "step": report["step"],
        "date": report["date"],
        "number": len(gates),
        "passed": len(gates) - len(failed),
        "failed": failed,
    }


def _at(gate: Mapping[str, Any]) -> str:
    return f"step {gate['horizon']}" if gate.get("horizon") else ""


def _recipe(run: Run) -> str:
    lines = from_defaults(run.recipe)
    size = run.recipe.get("model", {}).get("size")
    base = f"the defaults and model size {size}" if size else "the defaults"
    return (
        f'<h2>Recipe</h2>\n<p class="muted">What differs from {escape(base)}:</p>\n'
        f"<pre>{escape(chr(10).join(lines))}</pre>\n<details><summary>The whole recipe, resolved</summary>"
        f"<pre>{escape(json.dumps(run.recipe, indent=1))}</pre></details>"
    )


def _environment(run: Run) -> str:
    known = dict(run.environment)
    entries = {
        "command": " ".join(known.pop("command", [])),
        "commit": str(known.pop("commit", None) or "not known (no git checkout)"),
        "gpus": ", ".join(known.pop("gpus", [])) or "none",
        "packages": ", ".join(f"{name} {version}" for name, version in known.pop("packages", {}).items()),
        "checkpoints": ", ".join(f"{step:,}" for step in run.checkpoints) or "none",
        "folder": str(run.folder),
    }
    entries |= {name: str(value) for name, value in known.items()}
    parts = ["<h2>Environment</h2>", facts(entries)]
    if run.patch:
        lines = run.patch.splitlines()
        cut = f"\n... {len(lines) - PATCH_LINES:,} more lines in changes.patch" if len(lines) > PATCH_LINES else ""
        excerpt = "\n".join(lines[:PATCH_LINES]) + cut
        parts.append(
            f"<details><summary>Changes on top of the commit ({len(lines):,} lines)</summary>"
            f"<pre>{escape(excerpt)}</pre></details>"
        )
    return "\n".join(parts)


def _chart(lines: list[Line], title: str, label: str, log: bool) -> str:
    return line_chart(lines, title=title, x_label="training step", y_label=label, log_y=log, whole_x=True)
