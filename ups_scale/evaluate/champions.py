"""`champions/<task>/`: who the champion of a task is, everything that was judged, and what waits for the full suite.

    champions/<data folder>-<digest8>/
        lock                                one process at a time
        history.jsonl                       a line per judgement
        queue.jsonl                         evaluations that wait (`waiting.py`)
        small/champion.json                 the winner, per suite; names the folder below that holds its files
        small/0001-<sha8>/{report,trajectories,recipe}.json
        full/...

`champion.json` is replaced at once, after the files that it names lie on disk, and former winners stay: whatever a
crash leaves, there is one whole champion. Every file is written whole, under the lock.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups_scale import atomic
from ups_scale.data.remote import is_url
from ups_scale.errors import UserError, remedy
from ups_scale.evaluate.champion import Judgement

FORMAT = 1
FILES = ("report.json", "trajectories.json", "recipe.json")
KEYS = ("run", "checkpoint", "checkpoint_sha256", "step", "config_hash", "suite_hash", "guards", "manifest", "date")
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Champion:
    """A winner: what champion.json says of it, and its files; `recipe` is None if it was not known."""

    entry: Mapping[str, Any]
    report: Mapping[str, Any]
    trajectories: Mapping[str, Any]
    recipe: Mapping[str, Any] | None


def default_root(run: Path) -> Path:
    """`champions/` beside the root of a run's folder: `runs/demo-1a2b3c4d` -> `champions`."""
    return run.resolve().parent.parent / "champions"


def task_name(report: Mapping[str, Any]) -> str:
    """The name of the data's folder and 8 hex digits of their digest: checkpoints of other data don't compete."""
    parts = str(report["manifest"]).replace("\\", "/").split("/")
    folder = parts[-2] if len(parts) > 1 else "data"
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', folder).strip('.-') or 'data'}-{report['manifest_digest'][:8]}"


def told(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a report beside its files; paths don't depend on the folder that one stands in."""
    kept = {key: report[key] for key in KEYS if key in report}
    for key in ("checkpoint", "manifest"):
        if not is_url(kept[key]):
            kept[key] = str(Path(kept[key]).resolve())
    return kept


def champion(root: Path, task: str, suite: str) -> Champion | None:
    """The champion of a task by a suite, None if there is none yet. Needs no lock.

    Raises:
        UserError: its files are damaged or not ours.
    """
    path = root / task / suite / "champion.json"
    if not path.exists():
        return None
    entry = _read(path)
    if entry.get("format") != FORMAT or not isinstance(entry.get("files"), Mapping) or "folder" not in entry:
        raise UserError(f"{path}: no champion of format {FORMAT} (found format {entry.get('format')}); {_aside(path)}")
    folder = path.parent / str(entry["folder"])
    contents: dict[str, Any] = {}
    for name, digest in entry["files"].items():
        data = _bytes(folder / name, path)
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{folder / name}: not what {path} was written for (its SHA-256 differs); {_aside(path)}")
        contents[name] = json.loads(data)
    missing = [name for name in FILES[:2] if name not in contents]
    if missing:
        raise UserError(f"{path}: names no {' and no '.join(missing)}; {_aside(path)}")
    return Champion(entry, contents["report.json"], contents["trajectories.json"], contents.get("recipe.json"))


@contextmanager
def open_task(root: Path, task: str, patience_s: float = PATIENCE_S) -> Iterator[Path]:
    """The folder of a task, which no other process changes meanwhile. The lock ends with the block, or the process.

    Raises:
        UserError: the folder can't be written, or another process had it for `patience_s`.
    """
    folder = root / task
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        what = remedy(error, "name another --champions")
        raise UserError(f"{folder}: can't be written ({error.strerror}); {what}") from None
    with file:
        end = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise UserError(f"{folder}: in use by {holder} for {patience_s:g} s; wait, or stop it") from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield folder


def promote(
    folder: Path,
    report: Mapping[str, Any],
    trajectories: Mapping[str, Any],
    recipe: Mapping[str, Any] | None,
    judgement: Judgement,
) -> None:
    """Makes this evaluation the champion of its suite in the task's `folder` (`open_task`)."""
    place = folder / str(report["suite"])
    place.mkdir(exist_ok=True)
    number = 1 + max((int(of.name[:4]) for of in place.glob("[0-9][0-9][0-9][0-9]-*")), default=0)
    own = place / f"{number:04d}-{report['checkpoint_sha256'][:8]}"
    own.mkdir()
    contents = dict(zip(FILES, (report, trajectories, recipe), strict=True))
    files = {}
    for name, content in contents.items():
        if content is not None:
            atomic.write_json(own / name, content)
            files[name] = hashlib.sha256((own / name).read_bytes()).hexdigest()
    atomic.sync_folder(own)
    entry = {
        "format": FORMAT,
        "task": folder.name,
        "suite": report["suite"],
        **told(report),
        "promoted": _now(),
        **{key: value for key, value in judgement.as_dict().items() if key not in ("promoted", "families", "reasons")},
        "figures": {
            name: {key: x for key, x in table["model"].items() if key.startswith("nrmse@")}
            for name, table in report["families"].items()
        },
        "folder": own.name,
        "files": files,
    }
    atomic.write_json(place / "champion.json", entry)
    atomic.sync_folder(place)


def record(folder: Path, report: Mapping[str, Any], judgement: Judgement) -> None:
    """Adds a judgement's line to history.jsonl in the task's `folder` (`open_task`)."""
    line = {
        "date": _now(),
        "suite": report["suite"],
        **{key: value for key, value in told(report).items() if key != "date"},
        **judgement.as_dict(),
        "verdict": list(judgement.verdict),
        "failsafe": judgement.tried,
    }
    path = folder / "history.jsonl"
    write_lines(path, [*read_lines(path), line])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; none if it isn't there.

    Raises:
        UserError: a line that is none. Nothing is written then, so nothing is lost.
    """
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(_bytes(path, path).decode("utf-8", "replace").splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not JSON ({error}); mend or remove that line") from None
        if not isinstance(line, dict):
            raise UserError(f"{path}: line {number} is no JSON object; mend or remove that line")
        lines.append(line)
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Replaces a JSON-lines file as a whole."""
    atomic.write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_bytes(path, path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {_aside(path)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: no JSON object; {_aside(path)}")
    return content


def _bytes(path: Path, of: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); {remedy(error, _aside(of))}") from None


def _aside(path: Path) -> str:
    return (
        f"put it back from a copy, or move {path.parent} aside and evaluate its champion again: the next evaluation "
        "that passes takes the place"
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
