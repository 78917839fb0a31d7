"""Evaluations that lie on disk: found by run folder, evaluation folder or file, and read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ups_scale.errors import DataError, remedy

FORMAT = 1
REPORT = "report.json"
TRAJECTORIES = "trajectories.json"
SUITES = ("full", "small")
"""The one to take first comes first."""
NEEDED = ("format", "suite", "run", "step", "date", "checkpoint_sha256", "manifest_digest", "params_m", "families")
AGAIN = "evaluate again with tools/evaluate.py --force"


def read_report(path: Path) -> dict[str, Any]:
    """The content of a report.json.

    Raises:
        DataError: no such file, cut off, of another format, or something else.
    """
    content = read_object(path)
    if content.get("format") != FORMAT:
        found = json.dumps(content.get("format"))
        raise DataError(f"{path}: a report of format {found}, this version reads {FORMAT}; {AGAIN}")
    missing = [key for key in NEEDED if key not in content]
    if missing or not isinstance(content["families"], Mapping):
        raise DataError(f"{path}: not a whole report ({', '.join(missing) or 'families'} not in it); {AGAIN}")
    return content


def read_trajectories(path: Path) -> dict[str, Any] | None:
    """The content of a trajectories.json, None if there is none.

    Raises:
        DataError: it is cut off, or of another format.
    """
    if not path.exists():
        return None
    content = read_object(path)
    if content.get("format") != FORMAT or not isinstance(content.get("families"), Mapping):
        raise DataError(f"{path}: not figures per trajectory of format {FORMAT}; {AGAIN}")
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an evaluation.

    Raises:
        DataError: no such file, not readable, cut off, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; evaluate first, with tools/evaluate.py") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {remedy(error, 'name another')}") from None
    except ValueError as error:
        raise DataError(f"{path}: cut off or damaged ({error}); {AGAIN}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: a JSON {type(content).__name__} where an object was expected; {AGAIN}")
    return content


def find_report(path: Path, suite: str | None = None) -> Path:
    """The report.json that `path` means: itself, that of an evaluation folder, or that of a run folder.

    Of a run folder it is that of `suite`, by default the full one if there is one, else the small one.

    Raises:
        DataError: there is none.
    """
    if path.is_file():
        return path
    if (path / REPORT).is_file():
        return path / REPORT
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; name a run folder, an evaluation folder or a report.json")
    there = {file.parent.name: file for file in sorted((path / "evaluation").glob(f"*/{REPORT}"))}
    for name in (suite,) if suite else (*SUITES, *there):
        if name in there:
            return there[name]
    which = f"no evaluation of suite {suite} in it" if suite else "no evaluation in it"
    also = f" (there is {', '.join(there)})" if there else ""
    raise DataError(
        f"{path}: {which}{also}; make one with tools/evaluate.py --checkpoint {path} --suite {suite or SUITES[0]}"
    )


def suites_in(path: Path) -> set[str]:
    """The suites whose evaluation a run folder has; empty if `path` is none."""
    return {file.parent.name for file in (path / "evaluation").glob(f"*/{REPORT}")}


def all_reports(runs: Path) -> Iterator[Path]:
    """Every `<run>/evaluation/<suite>/report.json` under a run root, however deep, in the order of their names."""
    yield from sorted(runs.glob(f"**/evaluation/*/{REPORT}"))


def predictors(report: Mapping[str, Any], predictor: str) -> Iterator[tuple[str, str, float | None]]:
    """(family, metric, value) of all figures of one predictor, over all fields; other splits' families are called
    `<split>/<family>`."""
    tables = {**report["families"]}
    for split, entries in report.get("splits", {}).items():
        tables |= {f"{split}/{family}": table for family, table in entries.items()}
    for family, table in tables.items():
        for metric, value in table.get(predictor, {}).items():
            yield family, metric, value
