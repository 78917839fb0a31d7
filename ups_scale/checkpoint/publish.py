"""Publishing a checkpoint: written aside, checksummed, flushed, renamed. What has its final name is whole.

checkpoints/step-250.tmp/ -> files -> manifest.json (sizes, SHA-256) last -> fsync -> rename -> fsync the folder
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from ups_scale.atomic import sync_folder, write_json, write_text
from ups_scale.distributed import Ranks, gather, on_main, together
from ups_scale.errors import CheckpointError

T = TypeVar("T")
FORMAT = 1
TORCH_WRITER = ("inline_container", "PytorchStreamWriter")
STEP_NAME = re.compile(r"step-(\d+)")


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies once published."""
    return checkpoints / f"step-{step}"


def published(checkpoints: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the published checkpoints, oldest first; whether they are whole is not looked at."""
    found = [(match, path) for path in checkpoints.glob("step-*") if (match := STEP_NAME.fullmatch(path.name))]
    return sorted((int(match.group(1)), path) for match, path in found)


def publish(checkpoints: Path, step: int, ranks: Ranks, write: Callable[[Path], None]) -> Path:
    """Publishes what `write(folder)` writes on every rank as the checkpoint of `step`; every rank calls it.

    The folder is shared by all ranks. An error on any rank is raised on all, and nothing is published.
    """
    final = step_folder(checkpoints, step)
    aside = final.with_name(final.name + ".tmp")

    def guarded(work: Callable[[], T]) -> T:
        try:
            return work()
        except (OSError, SafetensorError, RuntimeError) as error:
            # torch.save says a full disk as a RuntimeError of its file writer; any other is our own bug.
            if type(error) is RuntimeError and not any(name in str(error) for name in TORCH_WRITER):
                raise
            raise CheckpointError(
                f"{final}: can't be published ({error}); those before it are intact: free some space, and resume"
            ) from error

    def prepare() -> None:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)

    def seal() -> dict[str, dict]:
        return {name: _seal(aside / name) for name in names[ranks.rank :: ranks.world_size]}

    on_main(ranks, lambda: guarded(prepare))
    # Not `together`: writing has collectives of its own, so a rank that fails leaves, and the launcher ends the rest.
    guarded(lambda: write(aside))
    gather(ranks, None)
    # Listed once, since a shared file system may show ranks different folders; hashing and flushing are shared out.
    names = on_main(ranks, lambda: sorted(str(p.relative_to(aside)) for p in aside.rglob("*") if p.is_file()))
    own = together(ranks, lambda: guarded(seal))
    entries = {name: entry for part in gather(ranks, own) for name, entry in part.items()}

    def finish() -> None:
        write_json(aside / "manifest.json", {"format": FORMAT, "step": step, "files": dict(sorted(entries.items()))})
        for folder in {(aside / name).parent for name in names}:
            sync_folder(folder)
        if final.exists():  # the same step saved again, after a run was rolled back by hand
            shutil.rmtree(final)
        os.replace(aside, final)
        sync_folder(checkpoints)
        write_text(checkpoints / "latest", final.name + "\n")  # a hint for people; resuming looks for itself

    on_main(ranks, lambda: guarded(finish))
    return final


def _seal(path: Path) -> dict:
    """Flushes a file to disk and returns its size and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest}


def clean(checkpoints: Path) -> None:
    """Deletes what an interrupted publishing or retention left behind; for the run that holds the folder."""
    for rest in checkpoints.glob("step-*.tmp"):
        shutil.rmtree(rest)


def retain(checkpoints: Path, keep_last: int, keep_every: int) -> None:
    """Deletes all published checkpoints but the last `keep_last` and those at multiples of `keep_every` (unless 0)."""
    for step, path in published(checkpoints)[:-keep_last]:
        if not keep_every or step % keep_every:
            # Renamed first: a folder half deleted must not look like a checkpoint.
            doomed = path.with_name(path.name + ".tmp")
            os.replace(path, doomed)
            shutil.rmtree(doomed)
