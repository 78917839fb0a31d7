"""A training run as it lies on disk: recipe, environment, the lines of metrics.jsonl, its evaluations. Read only, so
that a run may be looked at while it is written."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups_scale.errors import CheckpointError, UserError, remedy
from ups_scale.evaluate import saved
from ups_scale.recipe import presets
from ups_scale.recipe.load import difference
from ups_scale.recipe.validate import fill_defaults

METRICS = "metrics.jsonl"
STEP_FOLDER = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Run:
    """A run folder's content.

    Attributes:
        recipe: resolved.
        environment: environment.json; empty if there is none.
        records: the lines of training, in the order of their steps.
        validations: (step, figures `<family>/<predictor>/<metric>@<step>`).
        stop: the line that says by which rule and why the run ended before its last step; None if it did not, or went
            on later.
        damage: what of metrics.jsonl could not be read, a line each.
        written: when metrics.jsonl was last written; None without it.
        checkpoints: the steps of which there is one.
        patch: changes.patch; empty without changes.
        evaluation: the newest report.json of its evaluations; `unread` are those that could not be read, and why.
    """

    folder: Path
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    validations: Sequence[tuple[int, Mapping[str, Any]]]
    stop: Mapping[str, Any] | None
    damage: tuple[str, ...]
    written: datetime.datetime | None
    checkpoints: tuple[int, ...]
    patch: str
    evaluation: Mapping[str, Any] | None
    unread: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def step(self) -> int:
        """The last step that is logged."""
        return self.records[-1]["step"] if self.records else 0

    @property
    def steps(self) -> int:
        """The steps that the recipe asks for."""
        return self.recipe["schedule"]["steps"]

    @property
    def seconds(self) -> float:
        """Time that the logged steps took, without starts and what was done twice after a resume."""
        return math.fsum(record.get("seconds") or 0.0 for record in self.records)

    @property
    def lost(self) -> int | None:
        """The first step whose loss or gradient is not finite; None if there is none."""
        return next((record["step"] for record in self.records if record.get("finite") is False), None)

    @property
    def state(self) -> str:
        """`diverged`, `finished`, `stopped` (by a rule of its recipe) or `unfinished` (killed, or still training)."""
        if self.lost is not None:
            return "diverged"
        if self.step >= self.steps:
            return "finished"
        return "unfinished" if self.stop is None else "stopped"


def read_run(folder: Path) -> Run:
    """The run in `folder`.

    Raises:
        CheckpointError: it is no run folder, or not readable.
    """
    if not (folder / "recipe.json").is_file():
        raise CheckpointError(
            f"{folder}: no run folder (there is no recipe.json in it); name runs/<name>-<hash8> of a training"
        )
    recipe = _object(folder / "recipe.json")
    if not isinstance(recipe.get("schedule"), Mapping) or not isinstance(recipe["schedule"].get("steps"), int):
        raise CheckpointError(f"{folder / 'recipe.json'}: not a resolved recipe (no schedule.steps); name another run")
    environment = _object(folder / "environment.json") if (folder / "environment.json").is_file() else {}
    records, validations, stop, damage = _metrics(folder / METRICS)
    found = [STEP_FOLDER.fullmatch(path.name) for path in (folder / "checkpoints").glob("step-*")]
    evaluation, unread = _evaluation(folder)
    return Run(
        folder=folder,
        recipe=recipe,
        environment=environment,
        records=records,
        validations=validations,
        stop=stop,
        damage=damage,
        written=_written(folder / METRICS),
        checkpoints=tuple(sorted(int(match[1]) for match in found if match)),
        patch=_text(folder / "changes.patch") if (folder / "changes.patch").is_file() else "",
        evaluation=evaluation,
        unread=unread,
    )


def from_defaults(recipe: Mapping[str, Any]) -> list[str]:
    """What a resolved recipe states other than the schema's defaults and its `model.size`, a line per key."""
    size = recipe.get("model", {}).get("size")
    model = {"size": size, **presets.SIZES[size]} if size in presets.SIZES else {}
    base = fill_defaults({"model": model})
    same = {"format": recipe.get("format"), "description": recipe.get("description")}
    return [line for line in difference({**base, **same}, recipe) if not line.startswith(("$schema", "extends"))]


def _metrics(
    path: Path,
) -> tuple[list[dict[str, Any]], list[tuple[int, dict[str, Any]]], dict[str, Any] | None, tuple[str, ...]]:
    """The lines of training, those of validations, the one that ends it, and the damage."""
    records: dict[int, dict[str, Any]] = {}
    validations: dict[int, dict[str, Any]] = {}
    stop: dict[str, Any] | None = None
    damage = []
    lines = _text(path).splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line, parse_constant=lambda _: None)
            step = record["step"]
            if not isinstance(step, int):
                raise TypeError(f"step {step!r}")
        except (ValueError, KeyError, TypeError):
            last = number == len(lines)
            why = "is cut off: the run is being written, or was killed" if last else "is not readable, and left out"
            damage.append(f"line {number} of {path.name} {why}")
            continue
        # A later line of the same step is of a resumed run, which did it again.
        if "validation" in record:
            validations[step] = record["validation"]
        elif "stopped" in record:
            stop = record
        else:
            records[step], stop = record, None
    in_order = [records[step] for step in sorted(records)]
    return in_order, sorted(validations.items()), stop, tuple(damage)


def _evaluation(folder: Path) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    reports, unread = [], []
    for path in sorted((folder / "evaluation").glob(f"*/{saved.REPORT}")):
        try:
            reports.append(saved.read_report(path))
        except UserError as error:
            unread.append(str(error))
    return max(reports, key=lambda report: report["date"], default=None), tuple(unread)


def _written(path: Path) -> datetime.datetime | None:
    if not path.is_file():
        return None
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable JSON ({error}); restore it, or name another run") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: a JSON {type(content).__name__} where an object was expected")
    return content


def _text(path: Path) -> str:
    # A line that is cut off within a character is damage that is told, not an error.
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        what = remedy(error, "name another run")
        raise CheckpointError(f"{path}: can't be read ({error.strerror}); {what}") from None


def series(records: Iterable[Mapping[str, Any]], key: str, most: int) -> tuple[list[float], list[float | None]]:
    """(steps, values) of one figure over the records that have it, at most `most` points: means over equal parts.

    A part with a value that isn't finite (null) has None.
    """
    there = [(float(record["step"]), record[key]) for record in records if key in record]
    size = math.ceil(len(there) / most) if there else 1
    parts = [there[start : start + size] for start in range(0, len(there), size)]
    xs = [part[-1][0] for part in parts]
    values = [[value for _, value in part] for part in parts]
    ys = [None if None in part else math.fsum(part) / len(part) for part in values]
    return xs, ys
