"""PDEBench's layout (arXiv 2210.07182), in which `tools/generate.py` writes too.

    .hdf5   tensor (N, T, X): one field in 1D
            density, pressure, Vx[, Vy[, Vz]] (N, T, X[, Y[, Z]]): an array per field
            tensor (N, 1, X, Y) and nu (N, X, Y): Darcy's solution and what it is for
            with x-, y-, z- and t-coordinate, the last with T or T + 1 entries
    .h5     a group per trajectory: data (T, X[, Y], C), grid/{x,y,t}, YAML `config`
            velocity (N, T, X, Y, 2), particles (N, T, X, Y, 1), force (N, X, Y, 2), t (N, T): incompressible flow

Root attributes that describe a file win over what its name tells: family, split, extents, boundary, licence. With
`masked` NaN stands for points without a value. With `coordinates`, JSON such as ["x", "y"], the fields lie on scattered
points, (N, T, P), whose positions are the arrays of these names, (N, P).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ups_scale.data.layouts import pdebench_names
from ups_scale.data.layouts.blocks import ArrayBlocks, Axes, unpacking_notes
from ups_scale.data.layouts.findings import Findings
from ups_scale.data.layouts.hdf5 import Hdf5
from ups_scale.data.layouts.pdebench_arrays import (
    Place,
    check_arrays,
    coordinates_of,
    on_points,
    places_of,
    shapes_of,
)
from ups_scale.data.layouts.pdebench_axes import extents_of, times_of
from ups_scale.data.source import SPLIT_NAME, Frames, Source, hdf5_attribute, open_hdf5, text_of, whole
from ups_scale.errors import DataError
from ups_scale.physics.families import FAMILIES


@dataclass(frozen=True)
class Contents:
    """Reads a file: of `groups` the array of a trajectory is `<group>/<array>` and has no axis N."""

    path: Path
    places: tuple[Place, ...]
    groups: tuple[str, ...] | None
    grid: tuple[int, ...]

    @contextmanager
    def open(self) -> Iterator[Frames]:
        with open_hdf5(self.path) as file:
            arrays = ArrayBlocks(Hdf5(self.path, file, matlab=False), len(self.places))
            space = (None,) * len(self.grid)

            def read(field: int, trajectory: int, frames: range) -> np.ndarray:
                place = self.places[field]
                component = () if place.component is None else (place.component,)
                if self.groups is not None:
                    name = f"{self.groups[trajectory]}/{place.array}"
                    return arrays.read(name, ("t", *space), 0, frames, component)
                if place.form == "frames":
                    return arrays.read(place.array, ("n", "t", *space), trajectory, frames, component)
                if place.form == "given":
                    return arrays.read(place.array, ("n", *space), trajectory, range(1), component)[None]
                solution = arrays.read(place.array, ("n", "t", *space), trajectory, range(1), component)
                # Frame 0 of a steady problem holds what is given, and nothing yet of the solution.
                return np.concatenate([np.zeros_like(solution), solution])[frames.start : frames.stop : frames.step]

            yield read


def inspect_pdebench(path: Path, family: str | None = None, parameters: Mapping[str, float] | None = None) -> Source:
    """What a PDEBench-layout file holds.

    Args:
        family: name in the registry, where neither the file's attributes nor its name or arrays tell.
        parameters: values for all the file's trajectories, where the file does not state them.

    Raises:
        DataError: unknown family, arrays missing or in another order of axes, parts never written, uneven space axes,
            times that don't increase, links out of the file; all that can be found at once.
    """
    with open_hdf5(path) as file:
        recognised = pdebench_names.recognise_family(path, file, family)
        if recognised is None:
            raise DataError(
                f"{path}: neither an attribute `family` nor the file's name nor its arrays say which family this is; "
                f"give --family, one of {', '.join(sorted(FAMILIES))}"
            )
        chosen, _ = recognised
        coordinates = coordinates_of(path, file, chosen)
        domain, chosen = chosen, on_points(chosen, coordinates)
        groups, places = places_of(path, file, chosen)
        num, frames, grid = shapes_of(path, file, chosen, groups, places)
        found = Findings(path)
        splits = found.attempt(_splits, path, file, num, 2 if chosen.steady else frames)
        times_nt = found.attempt(times_of, path, file, chosen, groups, num, frames)
        extents, remarks = found.attempt(extents_of, path, file, domain, groups, grid) or ((), ())
        sides = found.attempt(pdebench_names.boundaries, path, file, domain)
        values = found.attempt(pdebench_names.parameters, path, file, groups, num, chosen, parameters or {})
        found.attempt(check_arrays, path, file, chosen, groups, places)
        masked = hdf5_attribute(path, file, "masked")
        licence = hdf5_attribute(path, file, "licence") or hdf5_attribute(path, file, "license")
        found.raise_all()
        notes = pdebench_names.overridden(path, file, chosen, family, parameters or {})
        container = Hdf5(path, file, matlab=False)
        space = (None,) * len(grid)
        axes: dict[str, Axes] = {}
        for place in places:
            lead = ("t",) if groups else ("n",) if place.form == "given" else ("n", "t")
            component = () if place.component is None else (None,)
            axes[f"{groups[0]}/{place.array}" if groups else place.array] = (*lead, *space, *component)
        notes += unpacking_notes(container, axes, len(places))
        chunk_bytes = max(container.array(name).chunk_bytes for name in axes)
    return Source(
        path=path,
        layout="pdebench",
        family=chosen.name,
        fields=chosen.fields,
        parameters=chosen.parameters,
        grid=grid,
        extents=extents,
        boundaries=sides,
        times_nt=times_nt,
        parameters_np=values,
        splits=splits,
        contents=Contents(path, places, groups, grid),
        licence=None if licence is None else text_of(licence),
        steady=chosen.steady,
        masked=masked is not None and bool(masked),
        geometry="points" if coordinates else "grid",
        coordinates=coordinates,
        chunk_bytes=chunk_bytes,
        notes=remarks + notes,
    )


def _splits(path: Path, file: h5py.File, num: int, frames: int) -> dict[str, np.ndarray]:
    """By the file's own attribute; else PDEBench's: test is the first tenth of `.hdf5`, the last tenth of `.h5`;
    validation is the tenth beside it. None where there are fewer than ten trajectories."""
    stated = hdf5_attribute(path, file, "split")
    if stated is not None:
        split = text_of(stated)
        if not SPLIT_NAME.fullmatch(split):
            raise DataError(
                f"{path}: attribute split is {split!r}; write one of train, valid, test, ood, ood_<name> into it"
            )
        return {split: whole(range(num), frames)}
    tenth = num // 10
    if tenth == 0:
        return {}
    if path.suffix == ".h5":
        last = num - tenth
        rows = {"train": range(last - tenth), "valid": range(last - tenth, last), "test": range(last, num)}
    else:
        rows = {"train": range(2 * tenth, num), "valid": range(tenth, 2 * tenth), "test": range(tenth)}
    return {split: whole(part, frames) for split, part in rows.items()}
