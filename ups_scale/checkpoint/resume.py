"""Finding the checkpoint to go on from: the newest that is whole; broken ones are refused by name and set aside."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ups_scale.checkpoint.publish import FORMAT, STEP_NAME, published
from ups_scale.errors import CheckpointError


def verify(folder: Path, without: Sequence[str] = ()) -> None:
    """Checks every file of a checkpoint, but those in its folders `without`, against its manifest's size and SHA-256.

    Raises:
        CheckpointError: says which file differs and how.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{path}: checkpoint of format {manifest['format']!r}, this version reads {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: no readable checkpoint manifest ({error})") from None
    for name, entry in files.items():
        if name.partition("/")[0] in without:
            continue
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: listed in the checkpoint's manifest but missing")
        if file.stat().st_size != entry["bytes"]:
            raise CheckpointError(f"{file}: {file.stat().st_size} bytes, the manifest says {entry['bytes']}")
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != entry["sha256"]:
                raise CheckpointError(f"{file}: its SHA-256 differs from the manifest's: the file is damaged")


def rename_aside(folder: Path, why: str) -> Path:
    """Renames a checkpoint to `<name>.<why>` (with a number, if that is taken), so that its step can be saved again."""
    number = 0
    while (target := folder.with_name(f"{folder.name}.{why}{number or ''}")).exists():
        number += 1
    os.replace(folder, target)
    return target


def newest_whole(checkpoints: Path, set_aside: bool = False, without: Sequence[str] = ()) -> Path | None:
    """The newest checkpoint that verifies, or None; says on standard output what is wrong with those it passes over.

    With `set_aside` a broken one is renamed to `<name>.broken`, so that its step can be saved again.
    """
    for _, folder in reversed(published(checkpoints)):
        try:
            verify(folder, without)
        except CheckpointError as error:
            print(f"checkpoint {folder.name} is broken and passed over: {error}", flush=True)
            if set_aside:
                rename_aside(folder, "broken")
            continue
        return folder
    return None


def find_checkpoint(path: str | Path, without: Sequence[str] = ()) -> Path:
    """The checkpoint folder that `path` means: itself, or the newest whole one of a run folder.

    Its folders `without` are not looked at.

    Raises:
        CheckpointError: neither, or none that is whole.
    """
    path = Path(path)
    if STEP_NAME.fullmatch(path.resolve().name) and path.is_dir():
        verify(path, without)
        return path
    if not (path / "checkpoints").is_dir():
        raise CheckpointError(f"{path}: neither a run folder (with checkpoints/) nor a checkpoint (step-<N>/)")
    found = newest_whole(path / "checkpoints", without=without)
    if found is None:
        raise CheckpointError(f"{path / 'checkpoints'}: no whole checkpoint in it; train first, or name another run")
    return found


def read_state(folder: Path) -> dict[str, Any]:
    """The checkpoint's `state.json`."""
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))
