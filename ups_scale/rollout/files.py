"""Rollouts on disk: HDF5 in PDEBench's layout (arXiv 2210.07182), written frame by frame.

    an array per predicted field (N, T, *grid), named as PDEBench names it; `tensor` of a 1D family's only field
    static fields, and the positions of scattered points, (N, *grid); a steady solution (N, 1, *grid)
    x-, y-, z-coordinate; t-coordinate (T + 1), or (N, T) where trajectories have times of their own
    parameters/<name> (N), keys (N)

T counts the given frames and the predicted ones; the root attribute `first_predicted_frame` says where the latter
start. Points without a value, and frames that are never written, hold NaN. `tools/shard.py` and the readers of
PDEBench's files take it.

Dimensions: n trajectory, b trajectory of a batch, t frame, c field, x space axes or points, p parameter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from ups_scale.atomic import sync_folder
from ups_scale.data.layouts.pdebench_arrays import ARRAYS
from ups_scale.errors import DataError, remedy
from ups_scale.physics.families import FamilySpec


class RolloutFile:
    """A file open for writing: frames may come in any order of trajectories, each once."""

    def __init__(self, file: h5py.File, spec: FamilySpec, num_trajectories: int, num_frames: int) -> None:
        self._file, self._spec = file, spec
        self._arrays = []
        for number, name in enumerate(spec.fields):
            array = ARRAYS.get(name, name)
            if len(spec.dynamic) == 1 and number in spec.dynamic and (len(spec.grid) == 1 or spec.steady):
                array = "tensor"
            frames = () if name in spec.static else (num_frames,)
            self._arrays.append(
                file.create_dataset(array, (num_trajectories, *frames, *spec.grid), "float32", fillvalue=np.nan)
            )

    def write(self, first: int, frame: int, u_bcx: Tensor, mask_bcx: Tensor | None = None) -> None:
        """Writes a frame of the trajectories from number `first` on; NaN where `mask_bcx` is False."""
        values_bcx = u_bcx.float().cpu().numpy()
        if mask_bcx is not None:
            values_bcx = np.where(mask_bcx.cpu().numpy(), values_bcx, np.nan)
        rows = slice(first, first + len(values_bcx))
        for number, (name, array) in enumerate(zip(self._spec.fields, self._arrays, strict=True)):
            if name not in self._spec.static:
                array[rows, frame] = values_bcx[:, number]
            elif frame == 0:
                array[rows] = values_bcx[:, number]

    def write_array(self, name: str, first: int, num_trajectories: int, values_b: np.ndarray) -> None:
        """Writes the rows from number `first` on of an array (num_trajectories, ...) beside the fields."""
        if name not in self._file:
            self._file.create_dataset(name, (num_trajectories, *values_b.shape[1:]), values_b.dtype)
        self._file[name][first : first + len(values_b)] = values_b


@contextmanager
def rollout_file(
    path: Path,
    spec: FamilySpec,
    keys: Sequence[str],
    parameters_np: np.ndarray,
    times_nt: np.ndarray,
    facts: Mapping[str, Any],
) -> Iterator[RolloutFile]:
    """A new file that becomes `path` when the block ends well, and vanishes otherwise.

    Args:
        spec: the family as the data hold it.
        times_nt: (N, T) float64 in s of the frames that are written; NaN if the family is steady.
        facts: further root attributes.

    Raises:
        DataError: it can't be written.
    """
    aside = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: can't be written ({error}); {remedy(error, 'choose another --out')}") from None
    try:
        with h5py.File(aside, "w") as file:
            file.attrs.update({**_attributes(spec), **facts})
            for column, name in enumerate(spec.parameters):
                file[f"parameters/{name}"] = parameters_np[:, column].astype(np.float64)
            file["keys"] = np.array(keys, dtype=h5py.string_dtype())
            _write_coordinates(file, spec, times_nt)
            yield RolloutFile(file, spec, len(keys), times_nt.shape[1])
        with aside.open("rb") as closed:
            os.fsync(closed.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"{path}: can't be written ({error}); {remedy(error, 'choose another --out')}") from error
    finally:
        aside.unlink(missing_ok=True)


def _attributes(spec: FamilySpec) -> dict[str, Any]:
    found: dict[str, Any] = {
        "family": spec.family,
        "boundary": json.dumps(spec.boundaries),
        "extents": json.dumps(spec.extents),
    }
    if spec.coordinates:
        found["coordinates"] = json.dumps(spec.coordinates)
    if spec.masked:
        found["masked"] = True
    return found


def _write_coordinates(file: h5py.File, spec: FamilySpec, times_nt: np.ndarray) -> None:
    if spec.geometry == "grid":
        for axis, size, (low, high) in zip("xyz", spec.grid, spec.extents, strict=False):
            file[f"{axis}-coordinate"] = low + (high - low) * (np.arange(size) + 0.5) / size
    if spec.steady:
        return
    shared = np.allclose(times_nt, times_nt[:1], rtol=0, atol=1e-6 * float(np.ptp(times_nt) or 1.0))
    last = times_nt[0, -1:] + (times_nt[0, -1:] - times_nt[0, -2:-1])
    file["t-coordinate"] = np.concatenate([times_nt[0], last]) if shared else times_nt
