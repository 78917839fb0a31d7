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
import math
import re
from collections.abc import Iterator, Mapping, Sequence
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
NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
PDEBENCH_NAMES = {
    "1D_Advection": ("advection_1d", {"beta": f"beta{NUMBER}"}),
    "1D_Burgers": ("burgers_1d", {"nu": f"Nu{NUMBER}"}),
    "2D_diff-react": ("reaction_diffusion_2d", {}),
}
# How far a point of an even axis may lie from its place, in steps; files keep axes in float32, some as running sums.
EVEN_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Source:
    """One input file: what it holds, and how to read a trajectory of it.

    `splits` maps a split to the range of trajectories that belong to it. `parameters_np` is (N, P) float64, NaN where
    the file does not state one. `kind` is the container: "tensor", "fields" or "groups"; `names` its arrays or groups.
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
        """One trajectory as (C, T, *grid) float32, C-contiguous.

        Raises:
            DataError: the file is damaged there.
        """
        try:
            if self.kind == "groups":
                data = np.moveaxis(file[self.names[trajectory]]["data"][()], -1, 0)
            else:
                data = np.stack([file[name][trajectory] for name in self.names])
        except OSError as error:
            raise DataError(
                f"{self.path}: trajectory {trajectory} can't be read ({error}); the file is damaged, get it again"
            ) from None
        with np.errstate(over="ignore"):  # whoever writes it looks whether it is finite
            return np.ascontiguousarray(data, dtype=np.float32)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The open file, with a `DataError` in place of h5py's own when it is missing or not HDF5."""
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path, or make data with tools/generate.py") from None
    except OSError as error:
        raise DataError(
            f"{path}: not a readable HDF5 file ({error}); if it was downloaded or copied, do that again"
        ) from None
    with file:
        yield file


def inspect_pdebench(path: Path, family: str | None = None, parameters: Mapping[str, float] | None = None) -> Source:
    """What a PDEBench-layout file holds.

    Args:
        family: name in the registry, where neither the file's attributes nor its name tell.
        parameters: values for all the file's trajectories, where the file does not state them.

    Raises:
        DataError: arrays missing or of other shapes than the layout's, unknown family, uneven axes.
    """
    with open_hdf5(path) as file:
        chosen, patterns = _family(path, file, family)
        kind, names, shape = _container(path, file, chosen)
        num, frames, grid = shape[0], shape[1], shape[2:]
        boundary = _text(file.attrs.get("boundary", chosen.boundary))
        if boundary not in families.BOUNDARY_KINDS:
            raise DataError(
                f"{path}: attribute boundary is {boundary!r}; write one of {', '.join(families.BOUNDARY_KINDS)} into it"
            )
        if kind == "groups":
            _check_grids_alike(path, file, names, len(grid))
        return Source(
            path=path,
            kind=kind,
            family=chosen,
            splits=_splits(path, file, num),
            num_frames=frames,
            grid=grid,
            dt=_time_step(path, file, kind, names, frames),
            extents=_extents(path, file, kind, names, grid),
            boundary=boundary,
            parameters_np=_parameters(path, file, kind, names, num, chosen, patterns, parameters or {}),
            names=names,
        )


def _text(value: object) -> str:
    """An attribute as text; HDF5 has strings of fixed length too, which arrive as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _family(path: Path, file: h5py.File, stated: str | None) -> tuple[families.Family, Mapping[str, str]]:
    """The family, and the patterns of the parameters that the file's name gives."""
    by_name = next((entry for start, entry in PDEBENCH_NAMES.items() if path.name.startswith(start)), None)
    if stated is not None:
        name = stated
    elif "family" in file.attrs:
        name = _text(file.attrs["family"])
    elif by_name:
        name = by_name[0]
    else:
        raise DataError(
            f"{path}: neither an attribute `family` nor the file's name says which family this is; give --family, one "
            f"of {', '.join(sorted(families.FAMILIES))}"
        )
    if name not in families.FAMILIES:
        raise DataError(
            f"{path}: unknown family {name!r}; give --family, one of {', '.join(sorted(families.FAMILIES))}"
        )
    return families.family(name), by_name[1] if by_name and by_name[0] == name else {}


def _container(path: Path, file: h5py.File, chosen: families.Family) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
    """(kind, names of its arrays or groups, (N, T, *grid))."""
    wanted = tuple(field.name for field in chosen.fields)
    axes = ", ".join(("N", "T", *"XYZ"[: chosen.dimensions]))
    names: tuple[str, ...]
    if "tensor" in file:
        kind, names = "tensor", ("tensor",)
        shape = _shape(file["tensor"])
        fits = len(wanted) == 1
    elif all(name in file for name in wanted):
        kind, names = "fields", wanted
        shape = _shape(file[names[0]])
        fits = all(_shape(file[name]) == shape for name in names)
    else:
        kind = "groups"
        names = tuple(
            sorted(name for name, item in file.items() if isinstance(item, h5py.Group) and name != "parameters")
        )
        shapes = {_shape(file[name].get("data")) for name in names}
        inner = shapes.pop() if len(shapes) == 1 else ()
        shape = (len(names), *inner[:-1])
        fits = inner[-1:] == (len(wanted),)
    if not fits or len(shape) != 2 + chosen.dimensions or 0 in shape:
        raise DataError(
            f"{path}: not PDEBench's layout of {chosen.name}. Expected numbers in "
            + (f"`tensor` ({axes}), or " if len(wanted) == 1 else "")
            + f"{' and '.join(f'`{name}`' for name in wanted)} ({axes}), or a group per trajectory with `data` "
            f"({axes[3:]}, {len(wanted)}); found {_contents(file, names if kind == 'groups' else ())}. Rearrange the "
            "arrays, or name another family (--family)"
        )
    if shape[1] < 2:
        raise DataError(f"{path}: trajectories of {shape[1]} frame; training on changes needs at least 2")
    return kind, names, shape


def _contents(file: h5py.File, groups: Sequence[str]) -> str:
    """A file's arrays with their shapes and, of groups, one of each shape."""
    arrays = [f"{name} {item.shape}" for name, item in file.items() if isinstance(item, h5py.Dataset)]
    examples = {_shape(file[name].get("data")): name for name in reversed(groups)}
    inside = [f"{name}/data {shape}" if shape else f"group {name} without data" for shape, name in examples.items()]
    return ", ".join((arrays + inside)[:8]) or "no arrays"


def _shape(item: h5py.Dataset | h5py.Group | None) -> tuple[int, ...]:
    """The shape of an array of real numbers, () for all else."""
    return item.shape if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu" else ()


def _splits(path: Path, file: h5py.File, num: int) -> dict[str, range]:
    """By the file's own attribute; else PDEBench's: test is the first tenth of `.hdf5`, the last tenth of `.h5`;
    validation is the tenth beside it."""
    if "split" in file.attrs:
        split = _text(file.attrs["split"])
        if split not in SPLITS:
            raise DataError(f"{path}: attribute split is {split!r}; write one of {', '.join(SPLITS)} into it")
        return {split: range(num)}
    tenth = num // 10
    if tenth == 0:
        raise DataError(
            f"{path}: {num} trajectories can't be split in tenths; write the attribute `split` "
            f"({', '.join(SPLITS)}) into the file"
        )
    if path.suffix == ".h5":
        last = num - tenth
        return {"train": range(last - tenth), "valid": range(last - tenth, last), "test": range(last, num)}
    return {"test": range(tenth), "valid": range(tenth, 2 * tenth), "train": range(2 * tenth, num)}


def _coordinate(path: Path, file: h5py.File, kind: str, names: tuple[str, ...], axis: str) -> np.ndarray:
    name = f"{names[0]}/grid/{axis}" if kind == "groups" else f"{axis}-coordinate"
    if not _shape(file.get(name)):
        raise DataError(
            f"{path}: no array `{name}`, which gives the {axis} axis; found {', '.join(list(file)[:12])}. Write it "
            "into the file"
        )
    return np.asarray(file[name][()], np.float64).reshape(-1)


def _check_grids_alike(path: Path, file: h5py.File, names: tuple[str, ...], dimensions: int) -> None:
    """Every group brings its own axes, and a family has but one grid and time step."""
    for axis in ("t", *"xyz"[:dimensions]):
        first = _coordinate(path, file, "groups", names, axis)
        for name in names[1:]:
            points = _coordinate(path, file, "groups", (name,), axis)
            if points.shape != first.shape or not np.allclose(points, first, rtol=1e-5, atol=1e-7 * np.ptp(first)):
                raise DataError(
                    f"{path}: group {name} has another {axis} axis than group {names[0]}; put it into a file of its own"
                )


def _is_even(points: np.ndarray) -> bool:
    """Whether points increase in even steps."""
    if len(points) < 2 or not np.isfinite(points).all() or points[-1] <= points[0]:
        return False
    step = (points[-1] - points[0]) / (len(points) - 1)
    return bool(np.abs(points - np.linspace(points[0], points[-1], len(points))).max() <= EVEN_TOLERANCE * step)


def _time_step(path: Path, file: h5py.File, kind: str, names: tuple[str, ...], frames: int) -> float:
    times = _coordinate(path, file, kind, names, "t")
    if len(times) not in (frames, frames + 1):
        raise DataError(
            f"{path}: the time axis has {len(times)} entries for {frames} frames; expected {frames}, or {frames + 1} "
            "as PDEBench has it"
        )
    times = times[:frames]
    if not _is_even(times):
        raise DataError(
            f"{path}: the time axis is not increasing in even steps (starts {times[:5].tolist()}); resample the "
            "trajectories to even steps"
        )
    return float((times[-1] - times[0]) / (frames - 1))


def _extents(
    path: Path, file: h5py.File, kind: str, names: tuple[str, ...], grid: tuple[int, ...]
) -> tuple[tuple[float, float], ...]:
    """(low, high) of the domain per axis: stated by the file, else half a cell beyond the points (cell centres)."""
    if "extents" in file.attrs:
        stated = _text(file.attrs["extents"])
        try:
            extents = tuple((float(low), float(high)) for low, high in json.loads(stated))
        except (ValueError, TypeError):
            extents = ()
        if len(extents) != len(grid) or not all(-math.inf < low < high < math.inf for low, high in extents):
            raise DataError(
                f"{path}: attribute extents is {stated!r}; write JSON [[low, high], ...] into it, a pair for each of "
                f"{len(grid)} axes"
            )
        return extents
    pairs = []
    for axis, size in zip("xyz", grid, strict=False):
        points = _coordinate(path, file, kind, names, axis)
        if len(points) != size or not _is_even(points):
            raise DataError(
                f"{path}: the {axis} axis has {len(points)} coordinates for {size} points (starts "
                f"{points[:5].tolist()}); expected as many, increasing in even steps"
            )
        half = (points[-1] - points[0]) / (size - 1) / 2
        pairs.append((float(points[0] - half), float(points[-1] + half)))
    return tuple(pairs)


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
    unknown = sorted(set(stated) - set(chosen.parameters))
    if unknown:
        raise DataError(
            f"{path}: {chosen.name} has no parameter {', '.join(unknown)}; --parameter can set "
            f"{', '.join(chosen.parameters)}"
        )
    values = np.full((num, len(chosen.parameters)), np.nan)
    for column, name in enumerate(chosen.parameters):
        match = re.search(patterns[name], path.stem) if name in patterns else None
        if name in stated:
            values[:, column] = stated[name]
        elif f"parameters/{name}" in file:
            shape = _shape(file[f"parameters/{name}"])
            if shape != (num,):
                raise DataError(
                    f"{path}: parameters/{name} has shape {shape}; expected a number for each of {num} trajectories"
                )
            values[:, column] = file[f"parameters/{name}"][()]
        elif match:
            values[:, column] = float(match.group(1))
        elif kind == "groups":
            values[:, column] = [_from_config(path, file[trajectory], name) for trajectory in names]
    return values


def _from_config(path: Path, group: h5py.Group, name: str) -> float:
    """A parameter out of the YAML `config` attribute of a trajectory's group; NaN where it isn't stated."""
    try:
        config = yaml.safe_load(_text(group.attrs.get("config", ""))) or {}
        simulation = config.get("sim", config) if isinstance(config, dict) else {}
        for key, value in simulation.items():
            if str(key).lower() == name.lower():
                return float(value)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: group {group.name}: {name} can't be read out of its attribute config ({reason}); expected YAML "
            f"such as `sim: {{{name}: 0.001}}`"
        ) from None
    return float("nan")
