"""A comparison to look at: as plain text, as JSON values, and as one self-contained page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape
from typing import Any

from ups_scale.evaluate.compare import Result, Versus
from ups_scale.evaluate.compare_figures import ALL, ENOUGH, MARK, Change, Figure, striking
from ups_scale.evaluate.page.document import document
from ups_scale.evaluate.report import number

LEGEND = (
    "ratio: second / first. sigma: log of the ratio (of a horizon, the difference) in standard errors; a mark (*) "
    f"stands only beyond {MARK:g}. all: geometric mean over families. ±: standard deviation over seeds."
)
PHYSICS = "physics and calibration"
STRIKING = f"those that differ at their last step, by more than {MARK:g} sigma or, without a sigma, {100 * ENOUGH:g} %"
HEADER = ("family", "figure", "first", "second", "ratio", "sigma")
STYLE = """
table.versus td:nth-child(2), table.versus th:nth-child(2) { text-align: left; }
table.versus td.better { color: var(--good); font-weight: 700; }
table.versus td.worse { color: var(--bad); font-weight: 700; }
table.versus td.other { font-weight: 700; }
table.versus tr.all td { border-top: 1px solid var(--line); font-weight: 600; }
"""


def text(result: Result, everything: bool = False) -> str:
    """The comparison as plain text; of physics and calibration what differs (`striking`), or `everything`."""
    lines = [f"CAUTION, not comparable: {line}" for line in result.anyway]
    lines += [f"{group.name}: {member.path}" for group in result.groups for member in group.members]
    for versus in result.against:
        lines += ["", f"{result.reference.name} (first) and {versus.name} (second)", versus.verdict]
        lines += [f"  {title}: {entry}" for title, entry in _told(versus)]
        errors = [change for change in versus.physics if change.metric.startswith("nrmse@")]
        others = [change for change in versus.physics if not change.metric.startswith("nrmse@")]
        shown = others if everything else striking(others)
        for name, changes in (("nRMSE", versus.figures), ("nRMSE of other splits", errors), (PHYSICS, shown)):
            if changes:
                lines += ["", name, *_columns([HEADER, *map(_row, changes)])]
        if len(shown) < len(others):
            lines += ["", f"{PHYSICS}: {len(shown)} of {len(others)} figures shown, {STRIKING}; all: --all"]
    if not any(versus.figures for versus in result.against):
        lines += ["", "no family and step that both have"]
    return "\n".join([*lines, "", LEGEND])


def values(result: Result) -> dict[str, Any]:
    """The comparison as plain JSON values."""
    return {
        "format": 1,
        "reference": result.reference.name,
        "groups": {
            group.name: [
                {"report": str(member.path), "run": member.report["run"], "step": member.report["step"]}
                for member in group.members
            ]
            for group in result.groups
        },
        "not_comparable": list(result.anyway),
        "against": [
            dataclasses.asdict(versus)
            | {"figures": [_plain(change) for change in versus.figures]}
            | {"physics": [_plain(change) for change in versus.physics]}
            for versus in result.against
        ],
    }


def page(result: Result) -> str:
    """The comparison as one page."""
    body = ["<h1>Comparison</h1>"]
    body += [
        f'<div class="verdict failed"><strong>Not comparable</strong><span>{escape(line)}</span></div>'
        for line in result.anyway
    ]
    members = [(group.name, str(member.path)) for group in result.groups for member in group.members]
    body.append("<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(path)}</dd>" for name, path in members) + "</dl>")
    body.append(f'<p class="muted">{escape(LEGEND)}</p>')
    for versus in result.against:
        body.append(f"<h2>{escape(result.reference.name)} and {escape(versus.name)}</h2>")
        body.append(f"<p><strong>{escape(versus.verdict)}</strong></p>")
        entries = "".join(f"<dt>{escape(title)}</dt><dd>{escape(entry)}</dd>" for title, entry in _told(versus))
        body.append(f"<dl>{entries}</dl>" if entries else "")
        for name, changes in (("nRMSE", versus.figures), ("Physics and calibration", versus.physics)):
            if changes:
                body.append(f"<h3>{name}</h3>{_table(changes)}")
    return document("Comparison", "\n".join(body), style=STYLE)


def _told(versus: Versus) -> list[tuple[str, str]]:
    """(title, line) of all that is said besides the figures."""
    told = [("recipe", line) for line in versus.recipe or ()]
    told += [("recipe, without effect on the mathematics", line) for line in versus.uncounted]
    told += [("differs", line) for line in versus.facts]
    return told + [("note", line) for line in versus.notes]


def _row(change: Change) -> tuple[str, ...]:
    return (
        change.family,
        change.metric,
        _figure(change.before),
        _figure(change.after),
        "-" if change.ratio is None else f"{change.ratio:.3f}",
        "-" if change.sigma is None else f"{change.sigma:+.1f}" + (" *" if change.marked else "  "),
    )


def _figure(figure: Figure) -> str:
    spread = "" if figure.spread is None else f" ±{number(figure.spread)}"
    return number(figure.value) + spread if figure.value is not None else "not finite"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _table(changes: Sequence[Change]) -> str:
    lines = []
    for change in changes:
        *cells, sigma = _row(change)
        kind = ""
        if change.marked:
            # Whether more is better depends on the figure, except where it is an error.
            lower = change.sigma is not None and change.sigma < 0
            kind = ("better" if lower else "worse") if change.metric.startswith("nrmse") else "other"
        plain = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        row = ' class="all"' if change.family == ALL else ""
        lines.append(f'<tr{row}>{plain}<td class="{kind}">{escape(sigma)}</td></tr>')
    heads = "".join(f"<th>{name}</th>" for name in HEADER)
    return (
        f'<div class="scroll"><table class="versus"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _plain(change: Change) -> dict[str, Any]:
    return dataclasses.asdict(change) | {"marked": change.marked}
