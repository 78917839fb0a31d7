"""leaderboard.csv: one row per evaluation; added to under a lock, and rewritten whole or not at all.

Columns: what was evaluated; per step the summaries; then every family's figures, named as everywhere else:
`<family>/<predictor>/nrmse@<step>`. Rows may have different families: columns are added as they come, and empty means
that a row has no such figure (or none that is finite: `diverged` says which).
"""

from __future__ import annotations

import csv
import fcntl
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups_scale import atomic
from ups_scale.errors import DataError, UserError, remedy
from ups_scale.evaluate import saved
from ups_scale.evaluate.leaderboard_row import FIXED, FORMAT, SUMMARIES, Row, is_number, row

IDENTITY = ("checkpoint_sha256", "suite", "suite_hash", "manifest_digest", "guards")
"""An evaluation with the same of these takes the place of the row that is there."""
COMPARABLE = ("suite", "suite_hash", "manifest_digest")
"""Rows with the same of these have figures of the same trajectories."""


FIGURE = re.compile(r"@\d+$")
"""Ends the names of the columns beside the fixed ones."""


@dataclass(frozen=True)
class Rebuilt:
    """The number of rows, a line for each report that was skipped, and where the file that was there lies now."""

    rows: int
    skipped: tuple[str, ...]
    before: Path | None


def append(path: Path, report: Mapping[str, Any], promoted: bool | None = None) -> None:
    """Adds an evaluation to the leaderboard `path` and writes the page beside it, `leaderboard.html`.

    The row of the same checkpoint, suite, data and guards is replaced. Any number of processes may do so at once.

    Raises:
        DataError: what is there is no leaderboard of this version, or can't be written.
    """
    new = row(report, promoted)
    with locked(path):
        rows = [old for old in read(path) if _identity(old) != _identity(new)]
        _write(path, [*rows, new])


def check(path: Path) -> None:
    """Returns if `append` could add to `path`: for those who want to know before hours of work.

    Raises:
        DataError: as `append`.
    """
    with locked(path):
        read(path)


def read(path: Path) -> list[Row]:
    """The rows of a leaderboard, as they stand there, without the empty columns; none if there is no file.

    Raises:
        DataError: it is of another version, damaged, or something else.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(path, f"it can't be read ({error})") from None
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise _refused(path, f"it is no CSV file ({error})") from None
    if not lines or lines[0][:1] != ["format"]:
        raise _refused(path, "it is no leaderboard, or one of an older version: its first column is not `format`")
    header, *entries = lines
    for number, entry in enumerate(entries, 1):
        if entry[:1] != [FORMAT]:
            raise _refused(path, f"row {number} is of format {entry[0] if entry else ''!r}, this version has {FORMAT}")
        if len(entry) != len(header):
            raise _refused(path, f"row {number} has {len(entry)} values for {len(header)} columns: it is damaged")
    missing = [name for name in FIXED if name not in header]
    if missing:
        raise _refused(path, f"it has no column {', '.join(missing)}")
    odd = [name for name in header if name not in FIXED and not FIGURE.search(name)]
    if odd:
        raise _refused(path, f"its columns {', '.join(odd)} are of no step: expected names that end in @<step>")
    rows = [{name: value for name, value in zip(header, entry, strict=True) if value} for entry in entries]
    for number, found in enumerate(rows, 1):
        for name, value in found.items():
            if is_number(name) and not _is_float(value):
                raise _refused(path, f"row {number} has {value!r} under {name}, where a number belongs")
        if "date" not in found:
            raise _refused(path, f"row {number} has no date")
    return rows


def rebuild(path: Path, runs: Path) -> Rebuilt:
    """Makes the leaderboard `path` anew from every `<run>/evaluation/<suite>/report.json` under `runs`.

    The file that was there is kept beside it, as `<name>.before` (`<name>.before-2` and so on if there is one), and is
    in its place until the new one is. Evaluations that were written elsewhere (with `--out`) are not found.

    Raises:
        DataError: there is no report, or it can't be written.
    """
    rows: dict[tuple[str, ...], Row] = {}
    skipped = []
    with locked(path):
        for file in saved.all_reports(runs):
            try:
                new = row(saved.read_report(file))
            except UserError as error:
                skipped.append(str(error))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                skipped.append(f"{file}: not a whole report ({error!r}); {saved.AGAIN}")
            else:
                rows[_identity(new)] = new
        if not rows:
            more = "".join(f"\n  {line}" for line in skipped)
            raise DataError(f"{runs}: no whole evaluation/<suite>/report.json under it; name the run root{more}")
        before = _kept(path) if path.exists() else None
        _write(path, sorted(rows.values(), key=lambda new: (new["date"], new["run_id"])))
    return Rebuilt(len(rows), tuple(skipped), before)


def comparable(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows in groups that can be compared (same suite and data); the group of the newest row first."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for entry in rows:
        groups.setdefault(tuple(entry.get(name, "") for name in COMPARABLE), []).append(entry)
    return sorted(groups.values(), key=lambda group: max(entry["date"] for entry in group), reverse=True)


def steps_of(rows: Sequence[Row]) -> list[int]:
    """The steps that rows have summaries of, in order."""
    return sorted({int(name.partition("@")[2]) for entry in rows for name in entry if name.startswith("worst_family@")})


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Rows of one group, the lowest mean ratio first, at the last step that has any; without one (diverged) last."""
    last = max(steps_of(rows), default=0)
    newest = sorted(rows, key=lambda entry: entry["date"], reverse=True)
    return sorted(newest, key=lambda entry: float(entry.get(f"geomean_ratio@{last}", math.inf)))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within it this process alone may change the leaderboard `path`; waits for its turn.

    The lock is a file beside it that is never deleted: a deleted one could be held by two at once.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        what = remedy(error, "name another folder")
        raise DataError(f"{path}: the leaderboard can't be written ({error.strerror}); {what}") from None


def _write(path: Path, rows: Sequence[Row]) -> None:
    from ups_scale.evaluate.leaderboard_page import page

    out = io.StringIO()
    writer = csv.DictWriter(out, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_text(path, out.getvalue())
    atomic.write_text(path.with_suffix(".html"), page(rows))
    atomic.sync_folder(path.parent)


def _kept(path: Path) -> Path:
    """Where a copy of the file at `path` was put, under a name of its own."""
    names = (f"{path.name}.before" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
    before = next(found for found in map(path.with_name, names) if not found.exists())
    atomic.write_bytes(before, path.read_bytes())
    return before


def _is_float(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _columns(rows: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(name for entry in rows for name in entry if name not in FIXED)
    summaries = [f"{name}@{k}" for k in steps_of(rows) for name in SUMMARIES]
    figures = sorted((name for name in names if name not in summaries), key=_natural)
    return [*FIXED, *summaries, *figures]


def _natural(name: str) -> list[Any]:
    """A key that sorts @4 before @16."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _identity(entry: Row) -> tuple[str, ...]:
    return tuple(entry.get(name, "") for name in IDENTITY)


def _refused(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: {why}. Move it aside, or make it anew from the reports with tools/leaderboard.py --runs "
        f"{path.parent} --rebuild, which keeps what is there as {path.name}.before"
    )
