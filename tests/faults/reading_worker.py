"""Inspects and reads inputs one after another, told by lines of JSON: a process of its own, since the HDF5 library may
crash or hang on a mutated file, and neither must end the tests.

Says `ready` when it is; reads `{"path": ..., "layout": ..., "family": ...}` from standard input; answers with a line
`{"verdict": ..., "text": ...}`: "refused" (a typed error), "read" (all of it, arrays of the stated shape) or "wrong"
(anything else). What was read is told by `structure` (names and sizes), `axes` (digest of times, parameters and
extents), `values` (digest of the fields, see `digest_of`) and `notes`.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ups_scale.data.layouts import input_files, inspect
from ups_scale.data.source import Source
from ups_scale.errors import UserError

ADDRESS_SPACE_BYTES = 6 * 2**30
MOST = 3  # trajectories looked at from either end


def read_all(source: Source, read: Callable[[int, int, range], np.ndarray]) -> tuple[str, str]:
    """Digest of what is looked at of the fields, and what is wrong with it."""
    digest = hashlib.sha256()
    for field, entry in enumerate(source.fields):
        last = 1 if entry.static else source.num_frames
        for trajectory in sorted({*range(source.num_trajectories)[:MOST], *range(source.num_trajectories)[-MOST:]}):
            for frames in sorted({range(min(last, 4)), range(last - 1, last)}, key=lambda frames: frames.start):
                values = read(field, trajectory, frames)
                if values.shape != (len(frames), *source.grid) or values.dtype.kind != "f":
                    return "", f"{values.dtype} {values.shape} of {len(frames)} frames on {source.grid}"
                digest.update(as_bytes(values))
    return digest.hexdigest(), ""


def as_bytes(values: np.ndarray) -> bytes:
    """The same for the same numbers; all NaN are one."""
    values = np.array(values, np.float64)
    values[np.isnan(values)] = np.nan
    return values.tobytes()


def digest_of(u_ntx: np.ndarray) -> str:
    """`read_all`'s digest of a source with one field, whose values are these."""
    last = u_ntx.shape[1]
    spans = sorted({range(min(last, 4)), range(last - 1, last)}, key=lambda frames: frames.start)
    rows = sorted({*range(len(u_ntx))[:MOST], *range(len(u_ntx))[-MOST:]})
    parts = (u_ntx[row, frames.start : frames.stop] for row in rows for frames in spans)
    return hashlib.sha256(b"".join(map(as_bytes, parts))).hexdigest()


def attempt(request: dict[str, Any]) -> dict[str, str]:
    try:
        (path,) = input_files([Path(request["path"])])  # as the tool does: pipes and devices are no inputs
        source = inspect(path, request["layout"], family=request["family"], split="seed:0")
        with source.contents.open() as read:
            values, problem = read_all(source, read)
        if problem:
            return wrong(problem)
        if source.times_nt.shape[0] < 1 or source.parameters_np.shape != (
            *(source.num_trajectories, len(source.parameters)),
        ):
            return wrong(f"times {source.times_nt.shape}, parameters {source.parameters_np.shape}")
        if not source.steady and not (np.isfinite(source.times_nt).all() and (np.diff(source.times_nt) > 0).all()):
            return wrong("times that do not increase")
    except UserError as error:
        return {"verdict": "refused", "text": str(error)}
    except Exception as error:
        return wrong(f"{type(error).__name__}: {error}")
    structure = (
        *([(field.name, field.static) for field in source.fields], source.parameters, source.grid, source.boundaries),
        *(source.num_trajectories, source.num_frames, source.steady, source.geometry, source.coordinates),
    )
    axes = (source.times_nt, source.parameters_np, np.array(source.extents))
    return {
        "verdict": "read",
        "text": "",
        "structure": repr(structure),
        "axes": hashlib.sha256(b"".join(map(as_bytes, axes))).hexdigest(),
        "values": values,
        "notes": "\n".join(source.notes),
    }


def wrong(text: str) -> dict[str, str]:
    return {"verdict": "wrong", "text": text[:500]}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(attempt(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
