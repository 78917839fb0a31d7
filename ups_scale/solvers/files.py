"""Writes generated trajectories as HDF5 in PDEBench's layouts (arXiv 2210.07182).

    <set>_<split>[-<part>].hdf5   1D, one field:   tensor (N, T, X)
                                  others:          an array per field (N, T, *grid), named as PDEBench names it
                                  static fields:   (N, *grid); a steady solution: tensor (N, 1, *grid)
                                  points:          fields (N, T, P), positions x and y (N, P)
                                  with x-, y-, z- and t-coordinate (T + 1 entries) and parameters/<name> (N,)
    <set>_<split>[-<part>].h5     reaction-diffusion on a grid: a group per trajectory, data (T, X, Y, C), grid/{x,y,t},
                                  YAML config

Root attributes describe the file; see `attributes`. Inside obstacles there is NaN.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml

from ups_scale.atomic import sync_folder
from ups_scale.data.layouts.pdebench_arrays import ARRAYS
from ups_scale.errors import DataError, remedy
from ups_scale.solvers.generate import Request, Trajectories, generate_batches, resolve
from ups_scale.solvers.setups import GENERATOR_VERSION, Case, Setup

GROUP_FAMILIES = ("reaction_diffusion_2d",)
# What an existing file must agree on to be kept.
IDENTITY = (
    "family",
    "split",
    "seed",
    "first_trajectory",
    "num_trajectories",
    "num_frames",
    "stride",
    "generator_version",
    "settings",
)
POSITIONS = ("x", "y")


@dataclass(frozen=True)
class Part:
    """A file to be: trajectories `first` .. `first` + `count` - 1 of a split of what is requested; `label` names the
    set that it belongs to."""

    label: str
    path: Path
    request: Request
    split: str
    first: int
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, T, C, *grid) or (N, T, C, P) of its predicted and static fields together."""
        chosen, case = resolve(self.request, self.split)
        space = case.grid if self.request.points is None else (self.request.points,)
        return (self.count, case.num_frames, len(chosen.family.fields), *space)

    @property
    def num_bytes(self) -> int:
        """Of its arrays, about."""
        chosen, _ = resolve(self.request, self.split)
        count, frames, fields, *space = self.shape
        moving = 1 if chosen.family.steady else frames
        static = sum(field.static for field in chosen.family.fields)
        positions = 0 if self.request.points is None else 2 * len(POSITIONS)  # in float64
        return 4 * count * (moving * (fields - static) + static + positions) * math.prod(space)


@dataclass(frozen=True)
class Written:
    """What became of a part: `seconds` is 0 and `kept` True where it was there already; `differed` says in what a file
    that was there was another."""

    part: Part
    num_bytes: int
    seconds: float
    kept: bool
    differed: str = ""


def file_name(label: str, request: Request, split: str, number: int | None) -> str:
    """`number` of the part, None if there is but one."""
    grouped = request.name in GROUP_FAMILIES and request.points is None
    return f"{label}_{split}{'' if number is None else f'-{number:04d}'}.{'h5' if grouped else 'hdf5'}"


def write_part(
    part: Part,
    *,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda count: None,
) -> Written:
    """Makes a part, unless its file is there with the same settings.

    Args:
        advance: is called with the number of trajectories done or kept.

    Raises:
        DataError: as `generate_batches`, or the file can't be written.
    """
    chosen, case = resolve(part.request, part.split)
    wanted = attributes(part)
    begin = time.perf_counter()
    difference = _difference(part.path, wanted)
    if difference is None:
        advance(part.count)
        return Written(part, part.path.stat().st_size, 0.0, True)
    batches = generate_batches(part.request, part.count, split=part.split, device=device, first=part.first)
    with _aside(part.path) as file:
        file.attrs.update(wanted)
        if part.path.suffix == ".h5":
            _write_groups(file, part, chosen, case, batches, advance)
        else:
            _write_arrays(file, part, chosen, case, batches, advance)
    return Written(part, part.path.stat().st_size, time.perf_counter() - begin, False, difference)


def is_there(part: Part) -> bool:
    """Whether the part's file is there with the same settings."""
    return _difference(part.path, attributes(part)) is None


def is_generated(path: Path) -> bool:
    """Whether a file is one of the generator's, of whatever version and settings, or what is left of one."""
    try:
        with h5py.File(path, "r") as file:
            return "generator_version" in file.attrs
    except OSError:
        return False


def attributes(part: Part) -> dict[str, Any]:
    """A file's root attributes: `extents` (of the whole domain) and `boundary` are JSON, [[low, high], ...] per axis,
    `dt` is in seconds; `settings` tell what was asked for apart from the rest, as JSON."""
    chosen, case = resolve(part.request, part.split)
    family, points = chosen.family, part.request.points
    settings: dict[str, Any] = {
        "setup": chosen.name,
        "grid": case.grid,
        "ranges": {name: (drawn.low, drawn.high) for name, drawn in case.ranges.items()},
    }
    if case.shapes:
        settings["obstacles"] = case.shapes
    found: dict[str, Any] = {
        "family": family.name,
        "split": part.split,
        "seed": part.request.seed,
        "first_trajectory": part.first,
        "num_trajectories": part.count,
        "num_frames": case.num_frames,
        "stride": part.request.stride,
        "generator_version": GENERATOR_VERSION,
        "settings": json.dumps(settings | {"boundary": case.boundary, "points": points}),
        "equation": family.equation,
        "boundary": json.dumps(chosen.sides_of(case.boundary)),
        "extents": json.dumps(chosen.extents),
    }
    if not family.steady:
        found["dt"] = chosen.dt * part.request.stride
    if points is not None:
        found["coordinates"] = json.dumps(POSITIONS)
    elif case.shapes:
        found["masked"] = True
    return found


def prepare_folder(folder: Path) -> None:
    """Makes the output folder.

    Raises:
        DataError: it can't be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"--out {folder}: can't write there ({error.strerror}); choose a folder that you may write to"
        ) from None


def _difference(path: Path, wanted: Mapping[str, Any]) -> str | None:
    """None where the file is what is wanted, "" where there is none, else in what it differs."""
    if not path.exists():
        return ""
    try:
        with h5py.File(path, "r") as file:
            found = {key: file.attrs.get(key) for key in IDENTITY}
    except OSError:
        return "not a readable HDF5 file"
    found = {key: value.item() if isinstance(value, np.generic) else value for key, value in found.items()}
    different = [f"{key} is {found[key]}, wanted {wanted[key]}" for key in IDENTITY if found[key] != wanted[key]]
    return "; ".join(different) or None


@contextmanager
def _aside(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file that becomes `path` when the block ends well, and vanishes otherwise."""
    aside = path.with_name(path.name + ".tmp")
    try:
        with h5py.File(aside, "w") as file:
            yield file
        with aside.open("rb") as closed:
            os.fsync(closed.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"{path}: can't be written ({error}); {remedy(error, 'choose another --out')}") from error
    finally:
        aside.unlink(missing_ok=True)


def _times(chosen: Setup, part: Part, count: int) -> np.ndarray:
    return np.arange(count) * chosen.dt * part.request.stride


def _write_arrays(
    file: h5py.File,
    part: Part,
    chosen: Setup,
    case: Case,
    batches: Iterator[Trajectories],
    advance: Callable[[int], None],
) -> None:
    fields = chosen.family.fields
    tensor = sum(not field.static for field in fields) == 1 and (len(case.grid) == 1 or chosen.family.steady)
    space = part.shape[3:]
    arrays = []
    for field in fields:
        name = "tensor" if tensor and not field.static else ARRAYS.get(field.name, field.name)
        frames = () if field.static else (1 if chosen.family.steady else case.num_frames,)
        arrays.append(file.create_dataset(name, (part.count, *frames, *space), "float32"))
    parameters = {
        name: file.create_dataset(f"parameters/{name}", (part.count,), "float64") for name in chosen.family.parameters
    }
    positions = []
    if part.request.points is not None:
        positions = [file.create_dataset(name, (part.count, *space), "float64") for name in POSITIONS]
    else:
        for axis, points in zip("xyz", chosen.coordinates(case.grid), strict=False):
            file[f"{axis}-coordinate"] = points
    if not chosen.family.steady:
        file["t-coordinate"] = _times(chosen, part, case.num_frames + 1)
    first = 0
    for batch in batches:
        rows = slice(first, first + len(batch.fields_btcx))
        for index, (field, array) in enumerate(zip(fields, arrays, strict=True)):
            values_btx = batch.fields_btcx[:, :, index]
            # The last frame of a steady problem is its solution; what is static is the same in all.
            array[rows] = (
                values_btx[:, -1] if field.static else values_btx[:, -1:] if chosen.family.steady else values_btx
            )
        for name, values in parameters.items():
            values[rows] = batch.parameters[name]
        for number, position in enumerate(positions):
            assert batch.positions_bdp is not None
            position[rows] = batch.positions_bdp[:, number]
        advance(rows.stop - first)
        first = rows.stop


def _write_groups(
    file: h5py.File,
    part: Part,
    chosen: Setup,
    case: Case,
    batches: Iterator[Trajectories],
    advance: Callable[[int], None],
) -> None:
    digits = max(4, len(str(part.count - 1)))
    index = 0
    for batch in batches:
        for row, fields_tcxy in enumerate(batch.fields_btcx):
            group = file.create_group(f"{index:0{digits}d}")
            group["data"] = np.moveaxis(fields_tcxy, 1, -1)
            for axis, points in zip("xyz", chosen.coordinates(case.grid), strict=False):
                group[f"grid/{axis}"] = points
            times = _times(chosen, part, case.num_frames)
            group["grid/t"] = times
            group.attrs["config"] = _config(
                chosen, case, times, {k: float(v[row]) for k, v in batch.parameters.items()}
            )
            index += 1
        advance(len(batch.fields_btcx))


def _config(chosen: Setup, case: Case, times: np.ndarray, parameters: Mapping[str, float]) -> str:
    """The YAML that PDEBench attaches to a trajectory, with its names Du and Dv."""
    (x_left, x_right), (y_bottom, y_top) = chosen.extents
    named: Sequence[tuple[str, Any]] = [
        *((name.capitalize() if name in ("du", "dv") else name, value) for name, value in parameters.items()),
        ("t", float(times[-1])),
        ("tdim", len(times)),
        ("x_left", x_left),
        ("x_right", x_right),
        ("xdim", case.grid[0]),
        ("y_bottom", y_bottom),
        ("y_top", y_top),
        ("ydim", case.grid[1]),
    ]
    return yaml.safe_dump({"sim": dict(named)}, sort_keys=False)
