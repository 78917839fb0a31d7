"""The Well's layout (arXiv 2412.00568, `docs/data_format.md` of its package).

    @dataset_name, @grid_type, @n_spatial_dims, @n_trajectories, @simulation_parameters and an attribute for each
    dimensions               @spatial_dims; time (T) or (N, T), and the points of each axis
    boundary_conditions/<n>  @bc_type, @associated_dims; mask over these dims, true where the boundary is
    scalars                  @field_names; numbers, per trajectory and over time as @sample_varying, @time_varying say
    t0_fields, t1_fields, t2_fields   @field_names; scalars (N, T, *grid), vectors (..., D), tensors (..., D, D) or
                             (..., D D); @dim_varying, @sample_varying, @time_varying tell which axes are there

What becomes of it: a field per component (`velocity_x`, `D_xy`), constant along the axes that are absent; fields that
don't vary in time are static; scalars that don't are parameters, and those that do are fields too, uniform in space, so
that nothing is left out. Where a boundary's mask has points inside the domain (obstacles, inner walls), the mask is a
static field `boundary_<name>` of 0 and 1. The sides' kinds follow the package's own loader: open unless a mask says
otherwise; wall where the mask covers the side wholly, other kinds where it touches it; corners don't count. An axis
with a periodic boundary is periodic on both sides, whatever the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import h5py
import numpy as np

from ups_scale.data.layouts.axes import check_order, check_times, even_extents, same_points
from ups_scale.data.layouts.blocks import ArrayBlocks, unpacking_notes
from ups_scale.data.layouts.findings import Findings
from ups_scale.data.layouts.hdf5 import Hdf5
from ups_scale.data.layouts.storage import check_storage, check_written
from ups_scale.data.layouts.well_boundaries import boundaries_of
from ups_scale.data.layouts.well_parts import (
    Axes,
    Stored,
    axes_of,
    axis_names,
    clean,
    field_names,
    flag,
    number_array,
    text_list,
)
from ups_scale.data.source import (
    SPLITS,
    Dealt,
    Frames,
    Source,
    check_names,
    hdf5_attribute,
    hdf5_item,
    hdf5_reads,
    open_hdf5,
    split_by_seed,
    split_in_time,
    text_of,
    whole,
)
from ups_scale.errors import DataError
from ups_scale.physics.families import FAMILIES, Field

ROOT_ATTRIBUTES = ("dataset_name", "grid_type", "n_spatial_dims", "n_trajectories")
ORDERS = ("t0_fields", "t1_fields", "t2_fields")
GROUPS = ("dimensions", *ORDERS[:1])


@dataclass(frozen=True)
class Contents:
    path: Path
    stored: tuple[Stored, ...]
    grid: tuple[int, ...]

    @contextmanager
    def open(self) -> Iterator[Frames]:
        with open_hdf5(self.path) as file:
            arrays = ArrayBlocks(Hdf5(self.path, file, matlab=False), len(self.stored))

            def read(field: int, trajectory: int, frames: range) -> np.ndarray:
                entry = self.stored[field]
                axes = _axes(entry)[: -len(entry.component) or None]
                values = arrays.read(entry.array, axes, trajectory, frames, entry.component)
                space = [size if there else 1 for size, there in zip(self.grid, entry.dims, strict=True)]
                return np.broadcast_to(values.reshape(-1, *space), (len(frames), *self.grid))

            yield read


def _axes(entry: Stored) -> tuple[str | None, ...]:
    """Of its array, as in `Blocks`: components are read whole."""
    lead = [letter for letter, there in (("n", entry.sample), ("t", entry.time)) if there]
    return (*lead, *(None for there in entry.dims if there), *(None for _ in entry.component))


def missing_parts(path: Path, file: h5py.File) -> list[str]:
    """Which of the root attributes and groups that every file of The Well has are not there."""
    attributes = [f"@{name}" for name in ROOT_ATTRIBUTES if hdf5_attribute(path, file, name) is None]
    groups = [name for name in GROUPS if not isinstance(hdf5_item(path, file, name), h5py.Group)]
    return attributes + groups


def inspect_the_well(path: Path, family: str | None = None, parameters: Mapping[str, float] | None = None) -> Source:
    """What a file in The Well's layout holds.

    Args:
        family: name of the family instead of the data set's.
        parameters: values for all the file's trajectories, in place of the file's.

    Raises:
        DataError: parts missing, another grid than a Cartesian one, arrays that don't fit the axes, uneven axes, times
            that don't increase, links out of the file; all that can be found at once.
    """
    with open_hdf5(path) as file:
        missing = missing_parts(path, file)
        if missing:
            raise DataError(
                f"{path}: not The Well's layout, which has root attributes and groups that aren't there: "
                f"{', '.join(missing)}. Give another --layout, or describe the file in a mapping"
            )
        grid_type = text_of(hdf5_attribute(path, file, "grid_type"))
        if grid_type.lower() != "cartesian":
            raise DataError(
                f"{path}: its grid is {grid_type}; only cartesian ones are taken, as distances and boundaries would be "
                "wrong on others. Interpolate the fields to a Cartesian grid"
            )
        axes = axes_of(path, file)
        found = Findings(path)
        fields: list[tuple[Field, Stored]] = []
        for order, group in enumerate(ORDERS):
            for name in field_names(path, file, group):
                fields += found.attempt(_field, path, file, axes, group, order, name) or []
        values: dict[str, np.ndarray] = {}
        for name in field_names(path, file, "scalars"):
            scalar = found.attempt(_scalar, path, file, axes, name)
            if isinstance(scalar, Stored):
                fields.append((Field(clean(name), "1"), scalar))
            else:
                values[clean(name)] = scalar
        for name, value in (found.attempt(_simulation_parameters, path, file) or {}).items():
            values.setdefault(name, np.full(axes.num, value))
        sides, walls = found.attempt(boundaries_of, path, file, axes) or ((), [])
        fields += walls
        times_nt = found.attempt(_times, path, file, axes)
        extents = tuple(found.attempt(_extent, path, file, axes, name) for name in axes.names)
        name = family or clean(text_of(hdf5_attribute(path, file, "dataset_name")))
        order_of = FAMILIES[name].parameters if name in FAMILIES else tuple(values)
        found.attempt(_check_parameters, path, name, order_of, parameters or {})
        # A file may leave parameters of a registered family open, but have none that the family does not.
        has = order_of if set(values) <= set(order_of) else tuple(values)
        found.attempt(check_names, path, name, [field for field, _ in fields], has)
        if all(field.static for field, _ in fields) and not found.problems:
            found.problems.append(f"{path}: no field varies in time, so that there is nothing to predict")
        licence = hdf5_attribute(path, file, "license") or hdf5_attribute(path, file, "licence")
        found.raise_all()
        container = Hdf5(path, file, matlab=False)
        chunk_bytes = max(container.array(entry.array).chunk_bytes for _, entry in fields)
        slow = unpacking_notes(container, {entry.array: _axes(entry) for _, entry in fields}, len(fields))
    stated = parameters or {}
    splits, dealt, split_note = _splits(path, axes)
    unknown = np.full(axes.num, np.nan)
    replaced = [key for key, value in stated.items() if key in values and not np.allclose(values[key], value, 1e-4, 0)]
    columns = [np.full(axes.num, stated[key]) if key in stated else values.get(key, unknown) for key in order_of]
    return Source(
        path=path,
        layout="the_well",
        family=name,
        fields=tuple(field for field, _ in fields),
        parameters=order_of,
        grid=axes.grid,
        extents=extents,
        boundaries=sides,
        times_nt=times_nt,
        parameters_np=np.stack(columns, axis=1) if columns else np.empty((axes.num, 0)),
        splits=splits,
        dealt=dealt,
        contents=Contents(path, tuple(entry for _, entry in fields), axes.grid),
        licence=None if licence is None else text_of(licence),
        split_note=split_note,
        chunk_bytes=chunk_bytes,
        notes=slow
        + tuple(
            f"{key} is {stated[key]:g}, as --parameter says; the file says {values[key].flat[0]:g}" for key in replaced
        ),
    )


def _check_parameters(path: Path, family: str, names: tuple[str, ...], stated: Mapping[str, float]) -> None:
    unknown = sorted(set(stated) - set(names))
    if unknown:
        raise DataError(
            f"{path}: {family} has no parameter {', '.join(unknown)}; --parameter can set {', '.join(names) or 'none'}"
        )


def _splits(path: Path, axes: Axes) -> tuple[Mapping[str, np.ndarray], Dealt | None, str | None]:
    """By the folder, as the data sets are published; else one trajectory is cut in time, several are dealt by seed: the
    splits, how they were dealt, and a note on it."""
    folder = path.absolute().parent.name  # a file may be named from inside its folder
    folder = {"val": "valid", "validation": "valid"}.get(folder, folder)
    if folder in SPLITS:
        return {folder: whole(range(axes.num), axes.num_frames)}, None, None
    note = f"its folder is called {folder}, not train, valid or test: "
    if axes.num == 1:
        return split_in_time(axes.num, axes.num_frames), None, f"{note}its trajectory is cut in time, 8:1:1"
    dealt = Dealt(seed=0)
    splits = split_by_seed(axes.num, axes.num_frames, dealt)
    return splits, dealt, f"{note}its trajectories are dealt to them by seed 0, 8:1:1"


def _field(path: Path, file: h5py.File, axes: Axes, group: str, order: int, name: str) -> list[tuple[Field, Stored]]:
    """A field for every component."""
    array = number_array(path, file, f"{group}/{name}", scalar=True)
    sample, time = flag(path, array, "sample_varying"), flag(path, array, "time_varying")
    with hdf5_reads(path, f"attribute dim_varying of {array.name}"):
        dims = tuple(bool(there) for there in np.atleast_1d(hdf5_attribute(path, array, "dim_varying")))
    if len(dims) != len(axes.names):
        raise DataError(
            f"{path}: attribute dim_varying of {array.name} has {len(dims)} entries; expected one for each of "
            f"{', '.join(axes.names)}"
        )
    expected = axis_names(axes, sample, time, dims)
    number = len(axes.names)
    sizes = axes.sizes
    flat = order == 2 and len(array.shape) == len(expected) + 1  # D and D side by side
    components = ["DD"] if flat else [f"D{index}" for index in range(order)]
    for component in components:
        sizes[component] = (number**2 if flat else number,)
    if len(array.shape) != len(expected) + len(components):
        raise DataError(
            f"{path}: {array.name} has shape {array.shape}; by its attributes expected "
            f"({', '.join([*expected, *components])})"
        )
    check_order(path, str(array.name), array.shape, [*expected, *components], sizes)
    check_storage(path, array)
    check_written(path, array)
    unit = text_of(hdf5_attribute(path, array, "units") or hdf5_attribute(path, array, "unit") or "1")
    out = []
    for index in product(range(number), repeat=order):
        suffix = "".join(axes.names[axis] for axis in index)
        place = (index[0] * number + index[1],) if flat else index
        label = clean(f"{name}_{suffix}" if suffix else name)
        out.append((Field(label, unit, static=not time), Stored(f"{group}/{name}", sample, time, dims, place)))
    return out


def _scalar(path: Path, file: h5py.File, axes: Axes, name: str) -> Stored | np.ndarray:
    """(N,) values of a parameter; of a scalar that varies in time, where it lies."""
    array = number_array(path, file, f"scalars/{name}", scalar=True)
    sample, time = flag(path, array, "sample_varying"), flag(path, array, "time_varying")
    expected = axis_names(axes, sample, time, (False,) * len(axes.names))
    shape = array.shape
    if not expected and array.size == 1:  # published files have () and (1,)
        shape = ()
    if len(shape) != len(expected) or any(
        size != axes.sizes[axis][0] for size, axis in zip(shape, expected, strict=True)
    ):
        raise DataError(
            f"{path}: {array.name} has shape {array.shape}; by its attributes expected ({', '.join(expected)})"
        )
    check_storage(path, array)
    check_written(path, array)
    if time:
        return Stored(f"scalars/{name}", sample, time, (False,) * len(axes.names))
    with hdf5_reads(path, str(array.name)):
        return np.broadcast_to(np.asarray(array[()], np.float64).reshape(shape), (axes.num,))


def _simulation_parameters(path: Path, file: h5py.File) -> dict[str, float]:
    """Root attributes that @simulation_parameters names; most are scalars too."""
    if hdf5_attribute(path, file, "simulation_parameters") is None:
        return {}
    out = {}
    for name in text_list(path, file, "simulation_parameters"):
        value = hdf5_attribute(path, file, name)
        if np.ndim(value) == 0 and isinstance(value, float | int | np.floating | np.integer):
            out[clean(name)] = float(value)
    return out


def _times(path: Path, file: h5py.File, axes: Axes) -> np.ndarray:
    array = number_array(path, file, "dimensions/time")
    expected = axis_names(axes, flag(path, array, "sample_varying", False), True, (False,) * len(axes.names))
    if len(array.shape) != len(expected):
        raise DataError(f"{path}: {array.name} has shape {array.shape}; expected ({', '.join(expected)})")
    check_order(path, str(array.name), array.shape, expected, axes.sizes)
    with hdf5_reads(path, str(array.name)):
        times = np.asarray(array[()], np.float64)
    check_times(path, str(array.name), np.atleast_2d(times))
    return np.broadcast_to(times, (axes.num, axes.num_frames))


def _extent(path: Path, file: h5py.File, axes: Axes, name: str) -> tuple[float, float]:
    array = number_array(path, file, f"dimensions/{name}")
    if flag(path, array, "time_varying", False):
        raise DataError(f"{path}: {array.name} varies in time; moving grids aren't taken. Interpolate to a fixed one")
    with hdf5_reads(path, str(array.name)):
        points = np.atleast_2d(np.asarray(array[()], np.float64))
    if points.ndim > 2 or not all(same_points(row, points[0]) for row in points):
        raise DataError(
            f"{path}: {array.name} differs between trajectories; a family has one grid. Put each into a file of its own"
        )
    return even_extents(path, f"the {name} axis ({array.name})", points[0])
