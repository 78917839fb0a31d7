"""Readers of the HDF5 layouts that people have. A layout states its axes; nothing is guessed.

PDEBench (arXiv 2210.07182) keeps its data in three kinds of container:
    `tensor (N, T, X)`                                  one scalar field (1D advection, Burgers)
    `<field> (N, T, X[, Y])`, an array per field        several fields (compressible flow), here also vorticity
    a group per trajectory, `data (T, X[, Y], C)`       `.h5` files (2D reaction-diffusion)
with `x-coordinate`, `t-coordinate` (one entry more than frames) and so on beside them. Files of tools/generate.py are
of these kinds and state family, split, extents and boundary in root attributes; for others the family comes from the
file's name as PDEBench gives it, or from the caller.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import yaml

from ups_scale.errors import DataError
from ups_scale.physics import families

SPLITS = ("train", "valid", "test")
# PDEBench's file names -> (family, {parameter: pattern of its value in the name}).
PDEBENCH_NAMES = {
    "1D_Advection": ("advection_1d", {"beta": r"beta([0-9.]+)"}),
    "1D_Burgers": ("burgers_1d", {"nu": r"Nu([0-9.]+)"}),
    "2D_diff-react": ("reaction_diffusion_2d", {}),
}
UNIFORM_RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Source:
    """One input file: what it holds, and how to read a trajectory of it.

    `splits` maps a split to the range of trajectories that belong to it. `parameters_np` is (N, P) float64, NaN where
    the file does not state one. `kind` is the container: "tensor", "fields" or "groups".
    """

    path: Path
    kind: str
    family: families.Family
    splits: Mapping[str, range]
    num_frames: int
    grid: tuple[int, ...]
    dt: float
    extents: tuple[tuple[float, float], ...]
    boundary: str
    parameters_np: np.ndarray
    names: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.family.fields)

    def read(self, file: h5py.File, trajectory: int) -> np.ndarray:
        """One trajectory as (C, T, *grid) float32, C-contiguous."""
        if self.kind == "tensor":
            data = file["tensor"][trajectory][None]
        elif self.kind == "fields":
            data = np.stack([file[name][trajectory] for name in self.names])
        else:
            data = np.moveaxis(file[self.names[trajectory]]["data"][()], -1, 0)
        return np.ascontiguousarray(data, dtype=np.float32)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The open file, with a `DataError` in place of h5py's own when it is missing or not HDF5."""
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error})") from None
    with file:
        yield file


def inspect_pdebench(path: Path, family: str | None = None, parameters: Mapping[str, float] | None = None) -> Source:
    """What a PDEBench-layout file holds.

    Args:
        family: name in the registry, where neither the file's attributes nor its name tell.
        parameters: values for all the file's trajectories, where the file does not state them.

    Raises:
        DataError: arrays missing or of other shapes than the layout's, unknown family, uneven time steps.
    """
    with open_hdf5(path) as file:
        found = ", ".join(f"{name} {getattr(item, 'shape', '(group)')}" for name, item in list(file.items())[:12])
        chosen, patterns = _family(path, file, family)
        dimensions, num_fields = chosen.dimensions, len(chosen.fields)
        names: tuple[str, ...]
        if "tensor" in file:
            kind, names, shape = "tensor", ("tensor",), file["tensor"].shape
            expected = "tensor (N, T, X)"
            fits = len(shape) == 2 + dimensions and num_fields == 1
        elif all(field.name in file for field in chosen.fields):
            kind, names = "fields", tuple(field.name for field in chosen.fields)
            shape = file[names[0]].shape
            expected = f"{', '.join(names)}, each (N, T, X, ...) of the same shape"
            fits = len(shape) == 2 + dimensions and all(file[name].shape == shape for name in names)
        else:
            kind = "groups"
            names = tuple(sorted(name for name, item in file.items() if isinstance(item, h5py.Group) and "data" in item))
            expected = f"tensor, or {', '.join(f.name for f in chosen.fields)}, or a group per trajectory with `data`"
            shapes = {file[name]["data"].shape for name in names}
            fits = len(shapes) == 1 and len(next(iter(shapes))) == 2 + dimensions and next(iter(shapes))[-1] == num_fields
            shape = (len(names), *next(iter(shapes))[:-1]) if fits else ()
        if not fits or 0 in shape:
            raise DataError(
                f"{path}: not PDEBench's layout of {chosen.name}: expected {expected}, with {dimensions} space axes and "
                f"{num_fields} field(s); found {found or 'an empty file'}"
            )
        num, frames, grid = shape[0], shape[1], tuple(shape[2:])
        return Source(
            path=path,
            kind=kind,
            family=chosen,
            splits=_splits(path, file, num),
            num_frames=frames,
            grid=grid,
            dt=_time_step(path, file, kind, names, frames),
            extents=_extents(path, file, kind, names, grid),
            boundary=str(file.attrs.get("boundary", chosen.boundary)),
            parameters_np=_parameters(path, file, kind, names, num, chosen, patterns, parameters or {}),
            names=names,
        )


def _family(path: Path, file: h5py.File, stated: str | None) -> tuple[families.Family, Mapping[str, str]]:
    if stated is not None:
        return families.family(stated), {}
    if "family" in file.attrs:
        return families.family(str(file.attrs["family"])), {}
    for start, (name, patterns) in PDEBENCH_NAMES.items():
        if path.name.startswith(start):
            return families.family(name), patterns
    raise DataError(
        f"{path}: neither an attribute `family` nor the file's name says which family this is; give --family, one of "
        f"{', '.join(sorted(families.FAMILIES))}"
    )


def _splits(path: Path, file: h5py.File, num: int) -> dict[str, range]:
    """By the file's own attribute; else PDEBench's: test is the first tenth of `.hdf5`, the last tenth of `.h5`;
    validation is the tenth beside it."""
    if "split" in file.attrs:
        split = str(file.attrs["split"])
        if split not in SPLITS:
            raise DataError(f"{path}: attribute split is {split!r}; allowed: {', '.join(SPLITS)}")
        return {split: range(num)}
    tenth = num // 10
    if tenth == 0:
        raise DataError(f"{path}: {num} trajectories can't be split in tenths; write the attribute `split` into the file")
    if path.suffix == ".h5":
        return {"train": range(num - 2 * tenth), "valid": range(num - 2 * tenth, num - tenth), "test": range(num - tenth, num)}
    return {"test": range(tenth), "valid": range(tenth, 2 * tenth), "train": range(2 * tenth, num)}


def _coordinate(path: Path, file: h5py.File, kind: str, names: tuple[str, ...], axis: str) -> np.ndarray:
    name = f"{names[0]}/grid/{axis}" if kind == "groups" else f"{axis}-coordinate"
    if name not in file:
        raise DataError(f"{path}: no array {name!r}, which gives the {axis} axis; found {', '.join(list(file)[:12])}")
    return np.asarray(file[name][()], np.float64).reshape(-1)


def _time_step(path: Path, file: h5py.File, kind: str, names: tuple[str, ...], frames: int) -> float:
    times = _coordinate(path, file, kind, names, "t")
    if len(times) not in (frames, frames + 1):
        raise DataError(f"{path}: the time axis has {len(times)} entries for {frames} frames")
    steps = np.diff(times[:frames]) if frames > 1 else np.diff(times)
    if not len(steps) or not np.all(steps > 0) or np.ptp(steps) > UNIFORM_RELATIVE_TOLERANCE * steps.mean():
        raise DataError(f"{path}: the time axis is not increasing in even steps (steps {steps[:4]} ...); resample it first")
    return float(steps.mean())


def _extents(
    path: Path, file: h5py.File, kind: str, names: tuple[str, ...], grid: tuple[int, ...]
) -> tuple[tuple[float, float], ...]:
    if "extents" in file.attrs:
        return tuple((float(low), float(high)) for low, high in json.loads(file.attrs["extents"]))
    extents = []
    for axis, size in zip("xyz", grid, strict=False):
        points = _coordinate(path, file, kind, names, axis)
        if len(points) != size or size < 2:
            raise DataError(f"{path}: the {axis} axis has {len(points)} coordinates for {size} points")
        half = (points[-1] - points[0]) / (size - 1) / 2  # PDEBench's points are cell centres
        extents.append((float(points[0] - half), float(points[-1] + half)))
    return tuple(extents)


def _parameters(
    path: Path,
    file: h5py.File,
    kind: str,
    names: tuple[str, ...],
    num: int,
    chosen: families.Family,
    patterns: Mapping[str, str],
    stated: Mapping[str, float],
) -> np.ndarray:
    unknown = set(stated) - set(chosen.parameters)
    if unknown:
        raise DataError(f"{chosen.name} has no parameter {sorted(unknown)}; it has {list(chosen.parameters)}")
    values = np.full((num, len(chosen.parameters)), np.nan)
    for column, name in enumerate(chosen.parameters):
        match = re.search(patterns[name], path.stem) if name in patterns else None
        if name in stated:
            values[:, column] = stated[name]
        elif f"parameters/{name}" in file:
            array = file[f"parameters/{name}"]
            if array.shape != (num,):
                raise DataError(f"{path}: parameters/{name} has shape {array.shape} for {num} trajectories")
            values[:, column] = array[()]
        elif match:
            values[:, column] = float(match.group(1).rstrip("."))
        elif kind == "groups":
            values[:, column] = [_from_config(file[trajectory], name) for trajectory in names]
    return values


def _from_config(group: h5py.Group, name: str) -> float:
    """A parameter out of the YAML `config` attribute of a trajectory's group; NaN where it isn't stated."""
    try:
        config = yaml.safe_load(group.attrs.get("config", "")) or {}
    except yaml.YAMLError as error:
        raise DataError(f"{group.file.filename}: group {group.name}: config is not YAML ({error})") from None
    simulation = config.get("sim", config) if isinstance(config, dict) else {}
    for key, value in simulation.items():
        if key.lower() == name.lower():
            return float(value)
    return float("nan")
