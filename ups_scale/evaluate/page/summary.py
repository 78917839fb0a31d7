"""The top of a report: what failed first, the champion and the verdict, and one table of everybody's nRMSE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ups_scale.evaluate.gates import label
from ups_scale.evaluate.page import metrics, tables
from ups_scale.evaluate.page.numbers import number, plural, shown

AT_LEAST = ("horizon",)
"""Gates whose limit is a least value."""
SHOWN = 12
"""Lines of a box, before the rest is folded."""
NAMES = {
    "persistence": "nRMSE against min(persistence, 1)",
    "champion_nrmse": "nRMSE against the champion",
    "wall_clock": "seconds",
    "horizon": "correlation horizon in steps",
}


def head(report: Mapping[str, Any], contents: Mapping[str, str]) -> str:
    """The title and what was evaluated, with links to the sections `contents` (id: name)."""
    trajectories = sum(report["data"][name]["num_trajectories"] for name in report["families"])
    families = len(report["families"])
    step = "" if report.get("step") is None else f"step {report['step']:,} \u00b7 "
    date = report["date"].replace("T", " ").replace("+00:00", " UTC")
    guards = f" \u00b7 guards {', '.join(report['guards'])}" if report.get("guards") else ""
    links = "".join(f'<li><a href="#{escape(key)}">{escape(name)}</a></li>' for key, name in contents.items())
    counts = f"{plural(families, 'family', 'families')}, {plural(trajectories, 'test trajectory', 'test trajectories')}"
    return (
        f"<h1>{escape(report['run'])}</h1>\n"
        f'<p class="muted" style="max-width:none">{step}{report["params_m"]:.3g} M parameters'
        f" \u00b7 suite <code>{escape(report['suite'])}</code> \u00b7 {counts}{escape(guards)}"
        f" \u00b7 {escape(date)}</p>\n"
        f'<nav aria-label="sections"><ul class="contents">{links}</ul></nav>'
    )


def gates(report: Mapping[str, Any]) -> str:
    """How many gates passed; the failed ones as red lines."""
    failed = [gate for gate in report["gates"] if not gate["passed"]]
    total = len(report["gates"])
    lines = [f'<li class="failed">{escape(gate_line(gate))}</li>' for gate in failed]
    names = dict.fromkeys(gate["name"] for gate in report["gates"])
    told = "Below persistence and below zero on every family and step." if list(names) == ["persistence"] else ""
    if not failed and not told:
        told = ", ".join(name.replace("_", " ") for name in names) + "."
    verdict = f"{total - len(failed)} of {total} gates passed"
    kind = "verdict failed" if failed else "verdict"
    return f'<div class="{kind}"><strong>{verdict}</strong>{"" if failed else escape(told)}{_folded(lines)}</div>'


def gate_line(gate: Mapping[str, Any]) -> str:
    """A failed gate in words: where, what, its value and its limit."""
    name, value = gate["name"], gate["value"]
    family = "all families" if gate["family"] == "all" else gate["family"]
    at = f", step {gate['horizon']}" if gate.get("horizon") is not None else ""
    what = NAMES.get(name, label(name).replace("_", " "))
    if value is None:
        return f"{family}{at}: {what} is not finite, or there is none (limit {shown(gate['limit'])})"
    least = name.startswith(AT_LEAST)
    return f"{family}{at}: {what} {number(value)}, {'at least' if least else 'limit'} {shown(gate['limit'])}"


def champion(report: Mapping[str, Any]) -> str:
    """The comparison with the champion, and the verdict's lines; nothing where neither is known."""
    found, lines = report.get("champion"), report.get("verdict") or []
    if not found and not lines:
        return ""
    title, told = "Verdict", ""
    if found:
        title = "Promoted" if found.get("promoted") else "Not promoted"
        against = found.get("against")
        task = f" of {found['task']}" if found.get("task") else ""
        told = f"against the champion{task}, {against}" if against else f"the first{task}: there was no champion"
        if found.get("improvement") is not None:
            told += f": nRMSE {_gain(found['improvement'])}"
            parts = []
            if found.get("step") is not None:
                parts.append(f"at step {found['step']}")
            if found.get("sigma") is not None:
                parts.append(f"\u03c3 {100 * found['sigma']:.2g} %")
            if found.get("margin") is not None:
                parts.append(f"asked for {100 * found['margin']:.3g} %")
            told += f" ({', '.join(parts)})" if parts else ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    kind = "verdict" if found and found.get("promoted") else "verdict plain"
    return f'<div class="{kind}"><strong>{title}</strong>{escape(told)}{f"<ol>{items}</ol>" if items else ""}</div>'


def diverged(report: Mapping[str, Any]) -> str:
    """Which predictors' rollouts stopped being finite numbers, when, and on what; the model first."""
    lines = [
        f'<li class="failed">{escape(line)}</li>' if model else f"<li>{escape(line)}</li>"
        for model, line in sorted(_diverged_lines(report), key=lambda pair: not pair[0])
    ]
    if not lines:
        return ""
    return (
        '<div class="verdict failed"><strong>Diverged</strong>Predictions that are not finite. Their figures are shown '
        f"as not finite, none is left out.{_folded(lines)}</div>"
    )


def failsafes(report: Mapping[str, Any]) -> str:
    """What was tried after a gate failed."""
    found = report.get("failsafe")
    if not found:
        return ""
    rows = [tables.row(tables.cell(str(entry[key]), "text") for key in ("reason", "what", "result")) for entry in found]
    return "<h3>Fail-safes</h3>\n" + tables.table(("reason", "what was tried", "result"), rows, kinds=["text"] * 3)


def overview(report: Mapping[str, Any]) -> str:
    """nRMSE of everybody on the test split."""
    return (
        "<h3>nRMSE after the last given frame</h3>\n"
        + metrics.nrmse_table(report, report["families"], report["gates"])
        + '<p class="muted">A dot marks the best of a line. The bar is min(persistence, 1): persistence repeats the '
        "last given frame, zero predicts 0. A gate passes when model / bar is below 1.</p>"
    )


def splits(report: Mapping[str, Any]) -> str:
    """nRMSE of everybody on the other splits: regimes, boundaries and resolutions that were not trained on."""
    if not report.get("splits"):
        return ""
    parts = [
        '<h2 id="splits">Out of distribution</h2>\n<p class="muted">Without gates: what happens beyond the training '
        "data. Red: not below min(persistence, 1).</p>"
    ]
    for split, families in report["splits"].items():
        taken = {
            name: entry["taken_as"]
            for name in families
            if "taken_as" in (entry := report["data"].get(f"{name} ({split})", report["data"].get(name, {})))
        }
        told = "".join(f"<li>{escape(f'{name}: taken as {what}.')}</li>" for name, what in taken.items())
        title = split.removeprefix("ood_").replace("_", " ")
        parts.append(f"<h3>{escape(f'Other {title}' if split.startswith('ood_') else title)}</h3>")
        parts.append(metrics.nrmse_table(report, families))
        parts.append(f'<ul class="muted">{told}</ul>' if told else "")
    return "\n".join(parts)


def _diverged_lines(report: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """(whether it is the model, the line) per entry of the data and predictor."""
    known = report.get("diverged", {})
    for name, of_predictor in known.items():
        total = report["data"].get(name, {}).get("num_trajectories", "?")
        for predictor, first in of_predictor.items():
            if first:
                key, step = min(first.items(), key=lambda pair: (pair[1], pair[0]))
                yield (
                    predictor == metrics.MODEL,
                    f"{name}, {predictor}: {len(first)} of {total} rollouts, the first at step {step} ({key})",
                )
    for name, table in report["families"].items():
        if name in known:
            continue
        last = max(metrics.steps(table))
        count = table[metrics.MODEL].get(f"non_finite@{last}")
        if count:
            total = report["data"][name]["num_trajectories"]
            yield True, f"{name}, model: {count} of {total} rollouts by step {last}"


def _folded(lines: Sequence[str]) -> str:
    """A list whose end is folded where it is long."""
    if not lines:
        return ""
    first = f"<ul>{''.join(lines[:SHOWN])}</ul>"
    if len(lines) <= SHOWN:
        return first
    return f"{first}<details><summary>{len(lines) - SHOWN} more</summary><ul>{''.join(lines[SHOWN:])}</ul></details>"


def _gain(improvement: float) -> str:
    return f"{abs(100 * improvement):.3g} % {'lower' if improvement >= 0 else 'higher'}"
