"""The folder of a sweep: made once for a space, a recipe and data, and refused to others."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ups_scale.atomic import write_json, write_text
from ups_scale.errors import CheckpointError
from ups_scale.observe import environment
from ups_scale.recipe.load import difference
from ups_scale.sweep.space import Space

FORMAT = 1
SAME = ("space", "resolved", "manifest_digest", "all")
"""What a sweep that goes on must have as it was."""


def describe(
    space: Space, recipe: str, overrides: Sequence[str], resolved: dict[str, Any], digest: str, everything: bool
) -> dict[str, Any]:
    """The content of sweep.json."""
    return {
        "format": FORMAT,
        "recipe": recipe,
        "overrides": list(overrides),
        "manifest": resolved["data"]["manifest"],
        "manifest_digest": digest,
        "seed": space.seed,
        "all": everything,
        "commit": environment.commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "space": dict(space.document),
        "resolved": resolved,
    }


def read_setting(out: Path) -> dict[str, Any] | None:
    """The content of a folder's sweep.json, None if there is none.

    Raises:
        CheckpointError: it is not readable, or of another version.
    """
    path = out / "sweep.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); name another --out") from None
    if found != FORMAT:
        raise CheckpointError(f"{path}: a sweep of format {found!r}, this version reads {FORMAT}; name another --out")
    return content


def check_same(out: Path, setting: dict[str, Any]) -> None:
    """Raises a `CheckpointError` that lists what differs, if the folder belongs to another sweep."""
    before = read_setting(out)
    if before is None:
        if out.exists() and any(out.iterdir()):
            raise CheckpointError(f"{out}: not empty, and no sweep; name another --out")
        return
    lines = difference({key: before[key] for key in SAME}, {key: setting[key] for key in SAME})
    if lines:
        told = "\n".join(f"  {line.removeprefix('resolved.')}" for line in lines)
        raise CheckpointError(
            f"{out} belongs to another sweep: go on with what it was begun with, or name another --out; it differs "
            f"in\n{told}"
        )


def establish(out: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """Makes the folder, if it is not there, and gives the content of its sweep.json."""
    before = read_setting(out)
    if before is not None:
        return before
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "recipe.json", setting["resolved"])
    write_json(out / "space.json", setting["space"])
    write_json(out / "sweep.json", setting)  # last: it says that the folder is whole
    return setting


def write_batch(out: Path, workers: int, command: str, accelerators: int) -> Path:
    """Writes a Slurm script: an array of `workers`, each of which runs `command` in the folder it is submitted from."""
    path = out / "sweep.sbatch"
    write_text(
        path,
        f"""#!/bin/bash
#SBATCH --job-name=sweep-{out.name}
#SBATCH --array=0-{workers - 1}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={8 * accelerators}
#SBATCH --gpus-per-node={accelerators}
#SBATCH --output={out / "logs" / "slurm-%A-%a.log"}
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

# Two minutes before the time limit the worker is asked to stop: it ends its trial, which goes on when the job does.
{command} &
worker=$!
trap 'kill -TERM $worker; wait $worker' TERM
wait $worker
""",
    )
    (out / "logs").mkdir(exist_ok=True)
    return path
