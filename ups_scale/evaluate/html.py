"""report.html: one self-contained page; pictures are inside it, and it links to nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ups_scale.evaluate import pictures
from ups_scale.evaluate.gates import steps
from ups_scale.evaluate.report import PREDICTORS, gate_rows, number
from ups_scale.evaluate.suite import Example
from ups_scale.evaluate.super_resolution import LEFT_OUT
from ups_scale.evaluate.super_resolution import PREDICTORS as INTERPOLATED
from ups_scale.evaluate.variants import describe_size
from ups_scale.physics.families import FAMILIES, FamilySpec

STYLESHEET = """
:root { --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb; --soft: #f5f7fa; --model: #2563eb; --good: #18794e;
  --bad: #b42318; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 28px 64px; }
h1 { font-size: 25px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 20px; margin: 52px 0 4px; padding-top: 22px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 24px 0 8px; }
p { margin: 0 0 10px; max-width: 100ch; }
.muted, figcaption { color: var(--muted); font-size: 13.5px; }
code, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .92em; }
.verdict { display: flex; flex-wrap: wrap; align-items: baseline; gap: 6px 18px; margin: 22px 0 8px; padding: 16px 20px;
  border-radius: 8px; border-left: 5px solid var(--good); background: #f0f9f4; }
.verdict.failed { border-color: var(--bad); background: #fef3f2; }
.verdict strong { font-size: 19px; color: var(--good); }
.verdict.failed strong { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 10px 0 14px; font-variant-numeric: tabular-nums; font-size: 14px; }
table.wide { width: 100%; }
th, td { padding: 5px 14px 5px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--muted); font-size: 12.5px; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td.name { font-weight: 600; }
td.model { font-weight: 600; color: var(--model); }
tr.first td { border-top: 1px solid #cbd2d9; }
tr.failed td.ratio, tr.failed td.gate { color: var(--bad); font-weight: 600; }
td.gate { color: var(--good); }
table.grouped th, table.grouped td { padding: 5px 8px 5px 0; font-size: 13px; }
table.grouped th { font-weight: 500; border-bottom-color: #cbd2d9; }
table.grouped tr:first-child th { border-bottom: 0; padding-bottom: 0; font-weight: 600; color: var(--ink); }
table.grouped td.persistence, table.grouped td.zero { color: var(--muted); }
td.reason { text-align: left; }
td.bar { width: 190px; padding-left: 4px; }
.track { position: relative; height: 8px; border-radius: 4px; background: #edf0f3; overflow: hidden; }
.fill { position: absolute; inset: 0 auto 0 0; border-radius: 4px; background: var(--model); }
tr.failed .fill { background: var(--bad); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; align-items: start; }
@media (max-width: 760px) { .pair { grid-template-columns: 1fr; } }
figure { margin: 10px 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; }
details { margin: 6px 0; }
summary { cursor: pointer; padding: 5px 0; font-weight: 600; font-size: 14px; }
summary .muted { font-weight: 400; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 22px; margin: 12px 0; font-size: 14px; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: 14px 16px; border-radius: 8px; overflow: auto; font-size: 12.5px;
  max-height: 460px; }
@media print { main { max-width: none; padding: 0; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""

LABELS = {
    "good": "A good trajectory (best tenth)",
    "median": "The median trajectory",
    "worst": "The worst trajectory",
}


def page(
    report: Mapping[str, Any],
    specs: Mapping[str, FamilySpec],
    spectra: Mapping[str, Mapping[str, np.ndarray]],
    examples: Mapping[str, Sequence[Example]],
    recipe: Mapping[str, Any],
) -> str:
    """The whole page. `spectra` and `examples` are by family, as `evaluate.suite` gives them."""
    body = [_head(report), _overview(report)]
    for name in report["families"]:
        body.append(_family(report, specs[name], spectra[name], examples[name]))
    body += [_facts(report, recipe), _conventions(report)]
    title = f"{report['run']}: evaluation, suite {report['suite']}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLESHEET}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(report: Mapping[str, Any]) -> str:
    gates, data = report["gates"], report["data"]
    passed = sum(gate["passed"] for gate in gates)
    trajectories = sum(entry["num_trajectories"] for entry in data.values())
    step = "" if report["step"] is None else f"step {report['step']:,}, "
    failed = sorted({gate["family"] for gate in gates if not gate["passed"]})
    told = (
        "Below persistence and below zero on every family and horizon."
        if not failed
        else f"Not below min(persistence, 1) everywhere: {', '.join(failed)}."
    )
    return (
        f"<h1>{escape(report['run'])}</h1>\n"
        f'<p class="muted">{step}{report["params_m"]:.3g} M parameters, suite <code>{escape(report["suite"])}</code>, '
        f"{len(data)} {_plural('family', 'families', len(data))}, {trajectories:,} test trajectories, "
        f"{escape(report['date'].replace('T', ' ').replace('+00:00', ' UTC'))}</p>\n"
        f'<div class="verdict{" failed" if failed else ""}"><strong>{passed} of {len(gates)} gates passed</strong>'
        f"<span>{escape(told)}</span></div>" + _diverged(report)
    )


def _diverged(report: Mapping[str, Any]) -> str:
    lines = []
    for name, table in report["families"].items():
        last = max(steps(table))
        count = table["model"][f"non_finite@{last}"]
        if count:
            rollouts = report["data"][name]["num_trajectories"]
            lines.append(f"{name}: {count} of {rollouts} rollouts by step {last}")
    if not lines:
        return ""
    return (
        '<div class="verdict failed"><strong>Diverged</strong><span>Predictions that are not finite: '
        f"{escape('; '.join(lines))}. Their figures are shown as not finite, none is left out.</span></div>"
    )


def _lost(report: Mapping[str, Any], family: str) -> bool:
    table = report["families"][family]
    return bool(table["model"][f"non_finite@{max(steps(table))}"])


def _overview(report: Mapping[str, Any]) -> str:
    header = ("family", "step", *(f"{predictor}" for predictor in PREDICTORS), "model / bar", "", "gate")
    lines, before = [], None
    for row in gate_rows(report):
        first = row["family"] != before
        before = row["family"]
        classes = " ".join(name for name, on in (("first", first), ("failed", not row["passed"])) if on)
        lines.append(
            f'<tr class="{classes}"><td class="name">{escape(before) if first else ""}</td><td>{row["horizon"]}</td>'
            + "".join(f'<td class="{predictor}">{_figure(row["nrmse"][predictor])}</td>' for predictor in PREDICTORS)
            + f'<td class="ratio">{_figure(row["ratio"])}</td><td class="bar">{_bar(row["ratio"])}</td>'
            + f'<td class="gate">{"passed" if row["passed"] else "failed"}</td></tr>'
        )
    return (
        "<h3>nRMSE after the last given frame</h3>\n"
        + _table(header, lines, wide=True)
        + '<p class="muted">The bar is min(persistence, 1): persistence repeats the last given frame, zero predicts 0. '
        "A gate passes when the model is below the bar, so when model / bar is below 1.</p>"
    )


def _family(
    report: Mapping[str, Any],
    spec: FamilySpec,
    spectra: Mapping[str, np.ndarray],
    examples: Sequence[Example],
) -> str:
    name, horizons = spec.name, steps(report["families"][spec.name])
    data, speed = report["data"][name], report["efficiency"][name]
    known = FAMILIES.get(spec.family)
    equation = f"<p><code>{escape(known.equation)}</code></p>\n" if known else ""
    facts = (
        f"{data['num_trajectories']:,} trajectories, {describe_size(spec)}, {_times(data, spec)}, "
        f"{report['context_frames']} given {_plural('frame', 'frames', report['context_frames'])}, "
        f"{speed['seconds_per_step'] * 1e3:.3g} ms per rollout step (batch {speed['batch']}, {speed['device']})"
    )
    if "peak_memory_mib" in speed:
        facts += f", peak memory {speed['peak_memory_mib']:,.0f} MiB"
    parts = [
        f'<h2 id="{escape(name)}">{escape(name)}</h2>',
        equation + f'<p class="muted">{escape(facts)}</p>',
        _taken_as(data),
        _metrics_table(report["families"][name], horizons),
    ]
    if len(spec.dynamic) > 1:
        for field, table in report["families"][name]["fields"].items():
            parts.append(
                f'<details><summary>Field {escape(field)} <span class="muted">the same figures, this field alone</span>'
                f"</summary>{_metrics_table(table, horizons)}</details>"
            )
    growth = pictures.growth(report["growth"][name], horizons)
    if spectra:
        spectrum = _image(
            pictures.spectrum(spectra, spec, max(horizons)), "Power spectrum: mean over trajectories, truth and model."
        )
    else:
        reason = "some points have no value, and a spectrum needs all"
        if spec.geometry == "points":
            reason = "the points are scattered, and a spectrum needs a grid"
        spectrum = f'<p class="muted">No power spectrum: {reason}.</p>'
    parts.append(
        '<div class="pair">'
        + _image(
            growth,
            "Error growth: mean over trajectories; the band goes from their 10 % to their 90 % quantile."
            + (" The mean ends where a rollout is no longer finite." if _lost(report, name) else ""),
        )
        + spectrum
        + "</div>"
    )
    parts.append(_super_resolution(report.get("super_resolution", {}).get(name, {}), horizons))
    parts.append("<h3>Rollouts</h3>")
    for example in examples:
        label = LABELS[example.label] if data["num_trajectories"] > 1 else "The only trajectory"
        images = "".join(_image(pictures.rollout(example, c, spec, horizons), "") for c in spec.dynamic)
        parts.append(
            f'<details open><summary>{label} <span class="muted">{escape(example.key)}, nRMSE '
            f"{_figure(example.nrmse if np.isfinite(example.nrmse) else None)} (mean over steps 1 to "
            f"{max(horizons)})</span></summary>{images}</details>"
        )
    return "\n".join(parts)


def _taken_as(data: Mapping[str, Any]) -> str:
    return f"<p>Taken as {escape(data['taken_as'])}.</p>" if "taken_as" in data else ""


def _super_resolution(of_factor: Mapping[str, Any], horizons: Sequence[int]) -> str:
    """A line per factor; a group of columns per step."""
    if not of_factor:
        return ""
    groups = "".join(f'<th class="group" colspan="{len(INTERPOLATED)}">step {k}</th>' for k in horizons)
    names = "".join(f'<th class="{predictor}">{predictor}</th>' for _ in horizons for predictor in INTERPOLATED)
    lines = []
    for factor, table in of_factor.items():
        if LEFT_OUT in table:
            width = len(horizons) * len(INTERPOLATED)
            figures = f'<td class="reason muted" colspan="{width}">left out: {escape(table[LEFT_OUT])}</td>'
        else:
            figures = "".join(
                f'<td class="{predictor}">{_figure(table[predictor][f"nrmse@{k}"])}</td>'
                for k in horizons
                for predictor in INTERPOLATED
            )
        lines.append(f'<tr><td class="name">{escape(factor)}</td>{figures}</tr>')
    return (
        "<h3>Super-resolution</h3>\n"
        '<p class="muted">nRMSE on the full grid, from given frames averaged over cells of so many points an axis. '
        "Persistence interpolates the last of them; interpolation interpolates the averaged truth of the step, which a "
        "perfect model of the coarse grid would predict.</p>\n"
        f'<div class="scroll"><table class="wide grouped"><thead><tr><th></th>{groups}</tr>'
        f"<tr><th></th>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _times(data: Mapping[str, Any], spec: FamilySpec) -> str:
    if spec.steady:
        return "steady"
    return f"dt {data['dt_s']:g} s" + ("" if data["regular"] else " (the median; times are irregular)")


def _metrics_table(table: Mapping[str, Any], horizons: Sequence[int]) -> str:
    """A line per metric; a group of columns per step, in it a column per predictor."""
    kinds = dict.fromkeys(key.partition("@")[0] for key in table["model"])
    groups = "".join(f'<th class="group" colspan="{len(PREDICTORS)}">step {k}</th>' for k in horizons)
    names = "".join(f'<th class="{predictor}">{predictor}</th>' for _ in horizons for predictor in PREDICTORS)
    lines = []
    for kind in kinds:
        if kind in ("nrmse_mean", "non_finite"):
            continue
        figures = "".join(
            f'<td class="{predictor}">{_figure(table[predictor][f"{kind}@{k}"])}</td>'
            for k in horizons
            for predictor in PREDICTORS
        )
        lines.append(f'<tr><td class="name">{escape(kind)}</td>{figures}</tr>')
    return (
        f'<div class="scroll"><table class="wide grouped"><thead><tr><th></th>{groups}</tr>'
        f"<tr><th></th>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _facts(report: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    processes = f"{report['num_processes']} {_plural('process', 'processes', report['num_processes'])}"
    facts = {
        "checkpoint": f"{report['checkpoint']} (sha256 {report['checkpoint_sha256'][:16]})",
        "data": f"{report['manifest']} (digest {report['manifest_digest'][:16]})",
        "left out": "; ".join(f"{name}: {reason}" for name, reason in report.get("left_out", {}).items()),
        "code": report.get("commit"),
        "device": f"{report['device']}, {processes}",
        "environment": ", ".join(f"{name} {version}" for name, version in report["environment"].items()),
        "evaluation took": f"{report['wall_clock_s']:.1f} s",
        "recipe": recipe.get("description"),
    }
    facts |= {section: _brief(recipe.get(section)) for section in ("model", "optimizer", "schedule", "curriculum")}
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items() if value)
    whole = escape(json.dumps(recipe, indent=2))
    return (
        f"<h2>The run</h2>\n<dl>{lines}</dl>\n"
        f"<details><summary>The whole recipe, resolved</summary><pre>{whole}</pre></details>"
    )


def _brief(section: Any) -> str:
    """One line for a section of the recipe: its plain values."""
    if not isinstance(section, Mapping):
        return ""
    return ", ".join(f"{key} {_plain(value)}" for key, value in section.items() if not isinstance(value, Mapping))


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _conventions(report: Mapping[str, Any]) -> str:
    last = max(report["horizons"])
    low = {name: entry.get(f"low_variance@{last}", 0) for name, entry in report["data"].items()}
    note = "; ".join(f"{name} {count}" for name, count in low.items() if count)
    empty = {
        name: sum(count for key, count in entry.items() if key.startswith("no_value@"))
        for name, entry in report["data"].items()
    }
    left_out = "; ".join(f"{name} {count}" for name, count in empty.items() if count)
    lines = {
        "nrmse": "mean over trajectories and fields of RMS(error) / RMS(truth), RMS over space at that step",
        "vrmse": "the same with the root of (unbiased spatial variance of the truth + 1e-7) below"
        + (f"; frames with a variance under 1e-7 at step {last}: {note}" if note else ""),
        "rel_l2": "joint: L2 norm of the error / that of the truth, over space, fields and steps 1 to k; mean over "
        "trajectories",
        "rmse, mae": "root of the mean squared, and the mean absolute error over trajectories and space, in the "
        "field's unit; over several fields only where they share a unit",
        "max_error": "mean over trajectories of the largest absolute error in space, in the field's unit",
        "masks": "points without a value, in the truth or in the last given frame, count in no figure"
        + (f"; frames without any are left out: {left_out}" if left_out else ""),
        "point sets": "means over space are over the points, all alike; no conservation gap and no power spectrum",
        "conservation_gap": "|Q(k) - Q(0)| / max(|Q(0)|, L1 norm of q(0)); only for what the family conserves",
    }
    entries = "".join(f"<dt><code>{key}</code></dt><dd>{escape(value)}</dd>" for key, value in lines.items())
    return f'<h2>Conventions</h2>\n<p class="muted">k is the step after the last given frame.</p><dl>{entries}</dl>'


def _table(header: Iterable[str], lines: Iterable[str], wide: bool = False) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in header)
    return (
        f'<div class="scroll"><table{" class=wide" if wide else ""}><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _bar(ratio: float | None) -> str:
    share = 1.0 if ratio is None else min(1.0, ratio)
    return f'<div class="track"><div class="fill" style="width:{100 * share:.1f}%"></div></div>'


def _figure(value: float | None) -> str:
    return "not finite" if value is None else number(value)


def _image(png: bytes, caption: str) -> str:
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    data = base64.b64encode(png).decode()
    return f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">{text}</figure>'


def _plural(one: str, many: str, count: int) -> str:
    return one if count == 1 else many
