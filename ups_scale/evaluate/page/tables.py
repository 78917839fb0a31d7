"""Tables of a page: cells, rows, and a box that scrolls where the table is wider than the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ups_scale.evaluate.page.numbers import shown


def table(header: Sequence[str], rows: Iterable[str], wide: bool = True, kinds: Sequence[str] = ()) -> str:
    """A table in its own scrolling box. `header` is plain text, `rows` are from `row`; `kinds` are CSS classes of the
    header's cells, in order."""
    classes = [*kinds, *[""] * (len(header) - len(kinds))]
    cells = "".join(
        f'<th scope="col"{_class(kind)}>{escape(name)}</th>' for name, kind in zip(header, classes, strict=True)
    )
    body = "".join(rows)
    # A box that scrolls must be reachable with the keyboard.
    return (
        f'<div class="scroll" tabindex="0"><table{_class("wide" if wide else "")}><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def row(cells: Iterable[str], kind: str = "") -> str:
    """A row of `cells`, from `cell` or `figure`; `kind` is its CSS class: first, failed."""
    return f"<tr{_class(kind)}>{''.join(cells)}</tr>"


def group_row(text: str, columns: int) -> str:
    """A row that names the rows under it."""
    return f'<tr class="group"><td>{escape(text)}</td><td colspan="{columns - 1}"></td></tr>'


def cell(text: str, kind: str = "") -> str:
    """A cell of plain text; `kind` is its CSS class: name, text (left, wraps), model, trivial, gate."""
    return f"<td{_class(kind)}>{escape(text)}</td>"


def figure(value: float | None, kind: str = "", best: bool = False) -> str:
    """A cell with a figure of three digits, `not finite` for None; the `best` of a row or column is marked."""
    classes = " ".join(part for part in (kind, "best" if best else "", "lost" if value is None else "") if part)
    return f"<td{_class(classes)}>{shown(value)}</td>"


def bar(share: float | None) -> str:
    """A cell with a bar that is full at 1 or more, and where there is no figure."""
    filled = 1.0 if share is None else min(1.0, max(0.0, share))
    return f'<td class="bar"><div class="track"><div class="fill" style="width:{100 * filled:.1f}%"></div></div></td>'


def facts(entries: dict[str, str]) -> str:
    """A list of names and values (plain text); those without a value are left out."""
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entries.items() if value)
    return f"<dl>{lines}</dl>"


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""
