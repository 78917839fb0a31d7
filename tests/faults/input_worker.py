"""Inspects and reads inputs one after another, told by lines of JSON: a process of its own, since the HDF5 library may
crash or hang on a mutated file, and neither must end the tests.

Reads `{"path": ..., "layout": ..., "family": ...}` from standard input; answers with a line `{"verdict": ..., "text":
...}`: "refused" (a typed error), "read" (all of it, arrays of the stated shape) or "wrong" (anything else).
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ups_scale.data.layouts import input_files, inspect
from ups_scale.errors import UserError

ADDRESS_SPACE_BYTES = 6 * 2**30
MOST = 3  # trajectories looked at from either end


def attempt(request: dict[str, Any]) -> dict[str, str]:
    try:
        (path,) = input_files([Path(request["path"])])  # as the tool does: pipes and devices are no inputs
        source = inspect(path, request["layout"], family=request["family"], split="seed:0")
        with source.contents.open() as read:
            for field, entry in enumerate(source.fields):
                last = 1 if entry.static else source.num_frames
                for trajectory in {*range(source.num_trajectories)[:MOST], *range(source.num_trajectories)[-MOST:]}:
                    for frames in {range(min(last, 4)), range(last - 1, last)}:
                        values = read(field, trajectory, frames)
                        if values.shape != (len(frames), *source.grid) or values.dtype.kind != "f":
                            return wrong(f"{values.dtype} {values.shape} of {len(frames)} frames on {source.grid}")
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
    return {"verdict": "read", "text": ""}


def wrong(text: str) -> dict[str, str]:
    return {"verdict": "wrong", "text": text[:500]}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        print(json.dumps(attempt(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
