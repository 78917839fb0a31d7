"""The run folder: its name, who may write in it, and what is kept beside the figures."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import TextIO

from ups_scale.atomic import write_json, write_text
from ups_scale.errors import CheckpointError
from ups_scale.observe import environment
from ups_scale.recipe.load import difference, identity
from ups_scale.recipe.types import Recipe


def run_folder(root: Path, recipe: Recipe, manifest_digest: str) -> Path:
    """`<root>/<name>-<hash8>`: the same experiment lands in the same folder, on any machine."""
    return root / f"{recipe.run.name}-{identity(recipe, manifest_digest)}"


def lock(folder: Path) -> TextIO:
    """Takes the run folder for this process; the lock ends with the returned file, or with the process.

    Raises:
        CheckpointError: another process has it, or the folder can't be written; says which process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{folder}: can't be written ({error.strerror}); choose another --run-root") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise CheckpointError(
            f"{folder}: in use by {holder}; wait for it or stop it, or change run.name for a second run of this recipe"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def record(folder: Path, recipe: Recipe, world_size: int) -> list[str]:
    """Writes `recipe.json`, `environment.json` and, where tracked files differ from the commit, `changes.patch`.

    Returns what differs from the recipe that was there before, a line per key.
    """
    path = folder / "recipe.json"
    changed = difference(json.loads(path.read_text(encoding="utf-8")), recipe.as_dict()) if path.exists() else []
    write_json(path, recipe.as_dict())
    write_json(folder / "environment.json", environment.describe(world_size))
    patch = environment.git_diff()
    if patch:
        write_text(folder / "changes.patch", patch)
    else:
        (folder / "changes.patch").unlink(missing_ok=True)
    return changed
