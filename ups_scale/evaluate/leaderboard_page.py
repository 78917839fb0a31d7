"""The leaderboard to look at: as plain text, and as one self-contained page whose columns sort on a click."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from ups_scale.evaluate.leaderboard import best_first, comparable, steps_of
from ups_scale.evaluate.leaderboard_row import Row
from ups_scale.evaluate.page.document import document
from ups_scale.evaluate.report import number

STYLE = """
table.board thead th { cursor: pointer; user-select: none; }
table.board th[aria-sort=ascending]::after { content: " \\25B2"; }
table.board th[aria-sort=descending]::after { content: " \\25BC"; }
table.board td.told { white-space: normal; text-align: left; min-width: 16em; max-width: 30em; }
table.board td.told details { margin: 0; } table.board td.told summary { padding: 0; font-weight: 400; }
table.board tfoot td { color: var(--muted); font-style: italic; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.board")) {
  const body = table.tBodies[0];
  const sort = head => {
    const column = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.children[column].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
  };
  for (const head of table.tHead.rows[0].cells) {
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(head));
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(head); });
  }
}
"""


def page(rows: Sequence[Row]) -> str:
    """leaderboard.html: a table of summaries and one of every family's figures, for each group that can be compared."""
    body = [
        "<h1>Leaderboard</h1>",
        f'<p class="muted">{len(rows)} evaluation{"" if len(rows) == 1 else "s"}. Ratio is nRMSE / min(persistence, '
        "1): below 1 the model beats both trivial predictors. Means are geometric, over the families that have the "
        "step. The best of a column is marked. An empty figure is not finite, or there is none. Only evaluations of "
        "the same suite on the same data stand in one table. A click on a heading sorts.</p>",
    ]
    for group in comparable(rows):
        ordered = best_first(group)
        body += [f"<h2>{escape(title(group))}</h2>", _summaries(ordered), "<h3>nRMSE by family</h3>", _figures(ordered)]
    return document("Leaderboard", "\n".join(body), SCRIPT, STYLE)


def text(rows: Sequence[Row]) -> str:
    """The leaderboard as plain text: for each group that can be compared a table, the best row first."""
    parts = []
    for group in comparable(rows):
        ks = steps_of(group)
        worst = f"worst family@{ks[-1]}" if ks else "worst family"
        guards = ["guards"] if _guarded(group) else []
        header = ["run", "step", *guards, "date", "M params", *(f"ratio@{k}" for k in ks), worst, "gates", "promoted"]
        lines = [header]
        for entry in best_first(group):
            lines.append(
                [
                    entry["run_id"],
                    entry.get("step", "-"),
                    *(entry.get("guards", "none") for _ in guards),
                    entry["date"][:16].replace("T", " "),
                    _shown(entry.get("params_m")),
                    *(_shown(entry.get(f"geomean_ratio@{k}")) for k in ks),
                    _worst(entry, ks[-1]) if ks else "-",
                    _gates(entry),
                    entry.get("promoted", "-"),
                ]
            )
            if "diverged" in entry:
                lines[-1][-1] += f"  not finite: {entry['diverged']}"
        widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]
        parts.append(title(group))
        parts += [
            "  ".join(
                [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:-1], widths[1:], strict=True)), line[-1]]
            ).rstrip()
            for line in lines
        ]
        parts.append("")
    notes = "ratio: geometric mean over families of nRMSE / min(persistence, 1); `-`: not finite, or there is none"
    return "\n".join([*parts, notes])


def title(group: Sequence[Row]) -> str:
    """What the rows of a group have in common, in a line."""
    first = group[0]
    suite = f"suite {first['suite']}" + (f" ({first['suite_hash'][:8]})" if "suite_hash" in first else "")
    return f"{suite} on {first.get('manifest', 'data')} (digest {first['manifest_digest'][:8]})"


def _summaries(rows: Sequence[Row]) -> str:
    ks = steps_of(rows)
    names = [f"{kind}@{k}" for k in ks for kind in ("geomean_nrmse", "geomean_ratio", "worst_ratio")]
    heads = [f"{kind} @{k}" for k in ks for kind in ("mean nRMSE", "mean ratio", "worst ratio")]
    guards = ["guards"] if _guarded(rows) else []
    header = ["run", "step", *guards, "date", "M params", "gates", "promoted", *heads]
    header += ["evaluation, s", "commit", "not passed"]
    best = _best(rows, names)
    lines = []
    for entry in rows:
        cells = [_text(entry["run_id"]), _figure(entry.get("step")), *(_guards(entry) for _ in guards)]
        cells += [_date(entry), _figure(entry.get("params_m"))]
        cells.append(f'<td data-key="{escape(entry.get("gates_failed", ""))}">{escape(_gates(entry))}</td>')
        cells.append(_text(entry.get("promoted", ""), ""))
        for name in names:
            note = entry.get(f"worst_family@{name.partition('@')[2]}", "") if name.startswith("worst") else ""
            cells.append(_figure(entry.get(name), name in best and entry.get(name) == best[name], note))
        cells += [_figure(entry.get("wall_clock_s")), _text(entry.get("commit", "")[:10], "")]
        cells.append(_not_passed(entry))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return _table(header, lines, [])


def _figures(rows: Sequence[Row]) -> str:
    names = [name for name in _ordered(rows) if "/model/" in name]
    guards = ["guards"] if _guarded(rows) else []
    header = ["run", "step", *guards, *(name.replace("/model/nrmse", " ") for name in names)]
    best = _best(rows, names)
    lines = [
        f"<tr>{_text(entry['run_id'])}{_figure(entry.get('step'))}{_guards(entry) if guards else ''}"
        + "".join(_figure(entry.get(name), name in best and entry.get(name) == best[name]) for name in names)
        + "</tr>"
        for entry in rows
    ]
    # The same for all rows of a group, which have the same trajectories; families may differ.
    bars = [_first(rows, name.replace("/model/", "/persistence/")) for name in names]
    foot = (
        f'<tr class="bar">{_text("persistence")}<td></td>{"<td></td>" * len(guards)}{"".join(map(_figure, bars))}</tr>'
    )
    return _table(header, lines, [foot])


def _ordered(rows: Sequence[Row]) -> dict[str, None]:
    return dict.fromkeys(name for entry in rows for name in entry if "/" in name)


def _best(rows: Sequence[Row], names: Sequence[str]) -> Mapping[str, str]:
    """By column the lowest value, where there is more than one to choose from."""
    found = {}
    for name in names:
        values = [entry[name] for entry in rows if name in entry]
        if len(values) > 1:
            found[name] = min(values, key=float)
    return found


def _first(rows: Sequence[Row], name: str) -> str | None:
    return next((entry[name] for entry in rows if name in entry), None)


def _table(header: Sequence[str], lines: Sequence[str], foot: Sequence[str]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in header)
    return (
        f'<div class="scroll" tabindex="0"><table class="wide board"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody><tfoot>{''.join(foot)}</tfoot></table></div>"
    )


def _figure(value: str | None, best: bool = False, note: str = "") -> str:
    kind = ' class="best"' if best else ""
    told = f' title="{escape(note)}"' if note else ""
    return f'<td{kind}{told} data-key="{escape(value or "")}">{_shown(value)}</td>'


def _text(value: str, kind: str = "name") -> str:
    return f'<td class="{kind}" data-key="{escape(value)}">{escape(value)}</td>'


def _guarded(rows: Sequence[Row]) -> bool:
    return any("guards" in entry for entry in rows)


def _guards(entry: Row) -> str:
    return _text(entry.get("guards", "none"), "")


def _not_passed(entry: Row) -> str:
    """A cell with what diverged, and the failed gates folded under their number."""
    diverged, failed = entry.get("diverged", ""), entry.get("failed", "")
    told = escape(f"{diverged} not finite") if diverged else ""
    if failed:
        count = len(failed.split("; "))
        told += f"<details><summary>{count} gate{'' if count == 1 else 's'}</summary>{escape(failed)}</details>"
    return f'<td class="told" data-key="{escape("; ".join(part for part in (diverged, failed) if part))}">{told}</td>'


def _date(entry: Row) -> str:
    return f'<td data-key="{escape(entry["date"])}">{escape(entry["date"][:16].replace("T", " "))}</td>'


def _shown(value: str | None) -> str:
    if value is None:
        return "-"
    return value if value.isdigit() else number(float(value) if math.isfinite(float(value)) else None)


def _worst(entry: Row, k: int) -> str:
    return f"{entry.get(f'worst_family@{k}', '-')} {_shown(entry.get(f'worst_ratio@{k}'))}"


def _gates(entry: Row) -> str:
    passed, failed = int(entry["gates_passed"]), int(entry["gates_failed"])
    return f"{passed}/{passed + failed}" + (" FAILED" if failed else "")
