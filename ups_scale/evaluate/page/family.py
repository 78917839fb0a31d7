"""A family's section of a report: facts, all figures, charts, super-resolution, rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ups_scale.evaluate.gates import steps
from ups_scale.evaluate.page import metrics, tables
from ups_scale.evaluate.page.charts import Line, colour_of, line_chart
from ups_scale.evaluate.page.numbers import number, plural
from ups_scale.physics.families import FAMILIES, FamilySpec
from ups_scale.physics.invariants import quantities

FLOOR = 1e-10
"""Of the truth's largest power: spectra are shown down to it."""
LEFT_OUT = "left_out"
INTERPOLATED = ("model", "persistence", "interpolation")
SCALED = "/ max(|Q(0)|, L1 norm of q(0)) over trajectories."
GAP_OF = {
    True: f"Mean of |Q(k) \u2212 Q(0)| {SCALED}",
    False: f"Mean of |Q(k) \u2212 the truth's Q(k)| {SCALED} The sides let some of it through.",
}
"""What a conservation gap is, by whether the sides are closed to the quantity."""


def section(report: Mapping[str, Any], spec: FamilySpec, rollouts: str) -> str:
    """HTML of everything about the family `spec`; `rollouts` is that of its pictures."""
    name = spec.name
    table, data = report["families"][name], report["data"][name]
    horizons = steps(table)
    known = FAMILIES.get(spec.family)
    charts = [growth(report, name, horizons), *spectra(report, spec), *budgets(report, spec), reliability(report, name)]
    parts = [
        f'<h2 id="{escape(name)}">{escape(name)}</h2>',
        f"<p><code>{escape(known.equation)}</code></p>" if known else "",
        f'<p class="muted">{escape(_facts(report, spec))}</p>',
        f"<p>Taken as {escape(data['taken_as'])}.</p>" if "taken_as" in data else "",
        f"<h3>Rollouts</h3>{rollouts}" if rollouts else "",
        f'<h3>Charts</h3><div class="grid">{"".join(charts)}</div>',
        _no_spectrum(report, spec),
        "<h3>All figures</h3>",
        metrics.figures_of(report, table),
        super_resolution(report.get("super_resolution", {}).get(name, {}), horizons),
    ]
    return "\n".join(part for part in parts if part)


def growth(report: Mapping[str, Any], name: str, horizons: Sequence[int]) -> str:
    """nRMSE against the step, of all predictors; the model with the band of its trajectories."""
    curves = report.get("growth", {}).get(name)
    if not curves:
        return ""
    lines = []
    for predictor in _ordered(report, curves):
        of = curves[predictor]
        band = {"low": of["q10"], "high": of["q90"]} if predictor == metrics.MODEL else {}
        lines.append(_line(report, predictor, range(1, len(of["mean"]) + 1), of["mean"], **band))
    if "zero" not in curves:
        count = max(len(of["mean"]) for of in curves.values())
        lines.append(_line(report, "zero", range(1, count + 1), [1.0] * count))
    lost = [line.label for line in lines if None in line.y]
    note = "Mean over trajectories; the model's band goes from their 10 % to their 90 % quantile."
    note += f" No longer finite, so the line ends: {', '.join(lost)}." if lost else ""
    return line_chart(
        lines,
        title="Error growth",
        x_label="step after the last given frame",
        y_label="nRMSE",
        log_y=True,
        whole_x=True,
        marks=horizons,
        note=note,
    )


def spectra(report: Mapping[str, Any], spec: FamilySpec) -> list[str]:
    """Power per wavenumber of the truth and all predictors, a chart per predicted field."""
    found = report.get("spectra", {}).get(spec.name)
    if not found:
        return []
    charts = []
    for c in spec.dynamic:
        if spec.fields[c] not in found["fields"]:
            continue
        place = found["fields"].index(spec.fields[c])
        power = {key: of[place] for key, of in found.items() if key not in ("step", "fields")}
        # Zero has no power, and persistence's is that of a frame that everybody was given.
        names = [name for name in _ordered(report, power) if name != "zero" and power[name] is not None]
        lines = [_line(report, name, range(1, len(power[name])), power[name][1:]) for name in names]
        truth = [value for value in power["truth"][1:] if value]
        above = [value for line in lines for value in line.y if value]
        if not truth or not above:
            continue
        least = max(FLOOR * max(truth), min(truth) / 5)
        charts.append(
            line_chart(
                lines,
                title=f"Power spectrum, {spec.fields[c]}, step {found['step']}",
                x_label="wavenumber (cycles per domain)",
                y_label="power",
                log_x=True,
                log_y=True,
                y_range=(least, 2 * min(max(above), 100 * max(truth))),
                note="Mean over trajectories.",
            )
        )
    return charts


def budgets(report: Mapping[str, Any], spec: FamilySpec) -> list[str]:
    """The gap of what the family conserves over the steps, a chart per invariant."""
    charts = []
    closed = {quantity.name: quantity.is_closed for quantity in quantities(spec)}
    for invariant, gaps in report.get("budgets", {}).get(spec.name, {}).items():
        names = [key for key in _ordered(report, gaps) if key != "zero"]
        lines = [_line(report, key, range(1, len(gaps[key]) + 1), gaps[key]) for key in names]
        if not any(value for line in lines for value in line.y):
            continue
        charts.append(
            line_chart(
                [line for line in lines if any(line.y)],
                title=f"Conservation gap, {invariant.replace('_', ' ')}",
                x_label="step after the last given frame",
                y_label="relative gap",
                log_y=True,
                whole_x=True,
                note=f"{GAP_OF[closed[invariant]]} 0 is not drawn.",
            )
        )
    return charts


def reliability(report: Mapping[str, Any], name: str) -> str:
    """Coverage of the ensemble's intervals against their level, with the diagonal of a calibrated one."""
    found = report.get("reliability", {}).get(name)
    if not found:
        return ""
    levels = [0.0, *found["levels"], 1.0]
    coverage = [0.0, *found["coverage"], 1.0]
    k = found["step"]
    figures = report["families"][name][metrics.MODEL]
    told = [f"{found['members']} members, noise {number(found['noise'])}", f"sharpness {number(found['sharpness'])}"]
    for metric in ("ece", "crps", "spread_skill"):
        if figures.get(f"{metric}@{k}") is not None:
            told.append(f"{metric} {number(figures[f'{metric}@{k}'])}")
        if metric == "ece" and "interval" in found:
            low, high = (number(found["interval"][f"ece_{end}"]) for end in ("low", "high"))
            told.append(f"95 % of resampled trajectories give ece {low} to {high}")
    band = {end: found["interval"][end] for end in ("low", "high")} if "interval" in found else {}
    return line_chart(
        [
            Line("calibrated", (0.0, 1.0), (0.0, 1.0), "var(--trivial)", "5 3"),
            Line(metrics.MODEL, levels[1:-1], coverage[1:-1], dots=True, **band),
        ],
        title=f"Reliability, step {k}",
        x_label="level of the interval",
        y_label="share of truths in it",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        note=f"{', '.join(told)}. Below the diagonal the ensemble is too sure.",
    )


def super_resolution(of_factor: Mapping[str, Any], horizons: Sequence[int]) -> str:
    """nRMSE on the full grid from coarser frames: a line per factor and step."""
    if not of_factor:
        return ""
    rows = []
    for factor, table in of_factor.items():
        if LEFT_OUT in table:
            reason = (
                f'<td class="text muted" colspan="{len(INTERPOLATED) + 1}">left out: {escape(table[LEFT_OUT])}</td>'
            )
            rows.append(tables.row([tables.cell(factor, "name"), reason], "first"))
            continue
        for i, k in enumerate(horizons):
            metric = f"nrmse@{k}"
            best = metrics.best_of(table, INTERPOLATED, "nrmse", metric)
            cells = [tables.cell(factor if i == 0 else "", "name"), tables.cell(str(k))]
            cells += [metrics.figure(table, name, metric, name in best) for name in INTERPOLATED]
            rows.append(tables.row(cells, "first" if i == 0 else ""))
    return (
        "<h3>Super-resolution</h3>\n"
        '<p class="muted">nRMSE on the full grid, from given frames averaged over cells of so many points an axis. '
        "Persistence interpolates the last of them; interpolation interpolates the averaged truth of the step, which a "
        "perfect model of the coarse grid would predict.</p>\n"
        + tables.table(("factor", "step", *INTERPOLATED), rows, wide=False, kinds=("", "", metrics.MODEL))
    )


def best_entry(report: Mapping[str, Any], name: str) -> str | None:
    """The entry of the zoo with the lowest nRMSE at the last step of the recipe's horizons; None without a zoo."""
    table = report["families"][name]
    entries = [key for key in metrics.predictors(report, [table]) if key not in (metrics.MODEL, *metrics.TRIVIAL)]
    last = max(k for k in steps(table) if k <= max(report["horizons"]))
    finite = [key for key in entries if table[key].get(f"nrmse@{last}") is not None]
    return min(finite, key=lambda key: table[key][f"nrmse@{last}"]) if finite else next(iter(entries), None)


def _facts(report: Mapping[str, Any], spec: FamilySpec) -> str:
    data, speed = report["data"][spec.name], report.get("efficiency", {}).get(spec.name)
    size = f"{spec.grid[0]:,} points" if spec.geometry == "points" else f"grid {' x '.join(map(str, spec.grid))}"
    of = data.get("of_trajectories", data["num_trajectories"])
    number_of = plural(data["num_trajectories"], "trajectory", "trajectories")
    facts = [number_of if of == data["num_trajectories"] else f"{number_of} of {of:,}", size, _times(data, spec)]
    facts.append(f"{plural(report['context_frames'], 'given frame', 'given frames')}")
    if speed:
        facts.append(
            f"{speed['seconds_per_step'] * 1e3:.3g} ms per rollout step (batch {speed['batch']}, {speed['device']})"
        )
    return ", ".join(facts)


def _times(data: Mapping[str, Any], spec: FamilySpec) -> str:
    if spec.steady:
        return "steady"
    return f"dt {data['dt_s']:g} s" + ("" if data["regular"] else " (the median; times are irregular)")


def _no_spectrum(report: Mapping[str, Any], spec: FamilySpec) -> str:
    if spec.name in report.get("spectra", {}) or not (spec.masked or spec.geometry == "points"):
        return ""
    reason = "some points have no value, and a spectrum needs all"
    if spec.geometry == "points":
        reason = "the points are scattered, and a spectrum needs a grid"
    return f'<p class="muted">No power spectrum: {reason}.</p>'


def _ordered(report: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Who is in `found`, in the order of the legend; the truth first."""
    order = ["truth", *metrics.predictors(report)]
    return sorted((name for name in found if name in order), key=order.index)


def _line(report: Mapping[str, Any], name: str, x: Sequence[float], y: Sequence[float | None], **band: Any) -> Line:
    return Line(name, list(x), y, colour_of(name, list(report.get("zoo", {}))), **band)
