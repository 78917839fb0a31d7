"""Writes generated trajectories as HDF5 in PDEBench's layouts (arXiv 2210.07182), one file per family and split.

    <family>_<split>.hdf5   1D, one field:   tensor (N, T, X)
                            2D, periodic:    <field> (N, T, X, Y), an array per field
                            with x-, y- and t-coordinate (T + 1 entries) and parameters/<name> (N,)
    <family>_<split>.h5     reaction-diffusion: a group per trajectory, data (T, X, Y, C), grid/{x,y,t}, YAML config

Root attributes describe the file; see `attributes`.
"""

from __future__ import annotations

import json
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
from ups_scale.errors import DataError, remedy
from ups_scale.solvers.generate import Trajectories, check_request, generate_batches
from ups_scale.solvers.setups import GENERATOR_VERSION, Setup, setup

SPLITS = ("train", "valid", "test")
GROUP_FAMILIES = ("reaction_diffusion_2d",)
# What an existing file must agree on to be kept.
IDENTITY = ("family", "split", "seed", "num_trajectories", "num_frames", "generator_version")


@dataclass(frozen=True)
class Written:
    """One file: `seconds` is 0 and `skipped` True where it was there already."""

    path: Path
    family: str
    split: str
    num_trajectories: int
    shape: tuple[int, ...]
    num_bytes: int
    seconds: float
    skipped: bool


def split_counts(num_trajectories: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Trajectories per split: each at least 1, rounded, and the first split named takes the rest.

    Raises:
        DataError: unknown names, fractions outside (0, 1] or not adding up to 1, or too few trajectories.
    """
    unknown = [name for name in fractions if name not in SPLITS]
    if unknown or not fractions:
        raise DataError(f"--splits: unknown split {', '.join(unknown) or '(none given)'}; known: {', '.join(SPLITS)}")
    if any(not 0 < value <= 1 for value in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        stated = ",".join(f"{name}={value:g}" for name, value in fractions.items())
        raise DataError(
            f"--splits {stated}: fractions must be above 0 and add up to 1, as in train=0.8,valid=0.1,test=0.1"
        )
    first, *others = fractions
    counts = {name: max(1, round(num_trajectories * fractions[name])) for name in others}
    rest = num_trajectories - sum(counts.values())
    if rest < 1:
        raise DataError(
            f"--trajectories {num_trajectories}: too few for {len(fractions)} splits with at least one each; "
            f"ask for more, or for fewer splits (--splits {first}=1)"
        )
    return {first: rest, **counts}


def write_family(
    name: str,
    counts: Mapping[str, int],
    folder: Path,
    *,
    num_frames: int,
    seed: int,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = print,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Written]:
    """What was written to `folder`, a file per split; files that match the request already are kept.

    Args:
        counts: trajectories per split.
        say: is told about files kept or made again.
        advance: is called with the number of trajectories done or kept.

    Raises:
        DataError: as `generate_batches`, or the folder can't be written to.
    """
    chosen = setup(name)
    written = []
    for split, count in counts.items():
        check_request(count, num_frames, seed, device)
        path = folder / f"{name}_{split}.{'h5' if name in GROUP_FAMILIES else 'hdf5'}"
        wanted = attributes(chosen, split, count, num_frames, seed)
        shape = (count, num_frames, len(chosen.family.fields), *chosen.grid)
        begin = time.perf_counter()
        difference = _difference(path, wanted)
        if difference is None:
            say(f"{path}: already there with the same settings, kept")
            advance(count)
        else:
            if difference:
                say(f"{path}: {difference}; making it again")
            batches = generate_batches(name, count, split=split, num_frames=num_frames, seed=seed, device=device)
            write = _write_groups if name in GROUP_FAMILIES else _write_arrays
            with _aside(path) as file:
                file.attrs.update(wanted)
                write(file, chosen, count, num_frames, batches, advance)
        written.append(
            Written(
                path=path,
                family=name,
                split=split,
                num_trajectories=count,
                shape=shape,
                num_bytes=path.stat().st_size,
                seconds=0.0 if difference is None else time.perf_counter() - begin,
                skipped=difference is None,
            )
        )
    return written


def attributes(chosen: Setup, split: str, num_trajectories: int, num_frames: int, seed: int) -> dict[str, Any]:
    """A file's root attributes: `extents` is JSON, [[low, high], ...] of the whole domain, `dt` in seconds."""
    return {
        "family": chosen.family.name,
        "split": split,
        "seed": seed,
        "num_trajectories": num_trajectories,
        "num_frames": num_frames,
        "generator_version": GENERATOR_VERSION,
        "equation": chosen.family.equation,
        "boundary": chosen.family.boundary,
        "extents": json.dumps(chosen.extents),
        "dt": chosen.dt,
    }


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


def _times(chosen: Setup, count: int) -> np.ndarray:
    return np.arange(count) * chosen.dt


def _write_arrays(
    file: h5py.File,
    chosen: Setup,
    num_trajectories: int,
    num_frames: int,
    batches: Iterator[Trajectories],
    advance: Callable[[int], None],
) -> None:
    fields = [field.name for field in chosen.family.fields]
    names = ["tensor"] if chosen.family.dimensions == 1 and len(fields) == 1 else fields
    shape = (num_trajectories, num_frames, *chosen.grid)
    arrays = [file.create_dataset(name, shape, "float32") for name in names]
    parameters = {
        name: file.create_dataset(f"parameters/{name}", (num_trajectories,), "float64")
        for name in chosen.family.parameters
    }
    for axis, points in zip("xyz", chosen.coordinates(), strict=False):
        file[f"{axis}-coordinate"] = points
    file["t-coordinate"] = _times(chosen, num_frames + 1)
    first = 0
    for batch in batches:
        rows = slice(first, first + len(batch.fields_btcx))
        for index, array in enumerate(arrays):
            array[rows] = batch.fields_btcx[:, :, index]
        for name, values in parameters.items():
            values[rows] = batch.parameters[name]
        advance(rows.stop - first)
        first = rows.stop


def _write_groups(
    file: h5py.File,
    chosen: Setup,
    num_trajectories: int,
    num_frames: int,
    batches: Iterator[Trajectories],
    advance: Callable[[int], None],
) -> None:
    digits = max(4, len(str(num_trajectories - 1)))
    index = 0
    for batch in batches:
        for row, fields_tcxy in enumerate(batch.fields_btcx):
            group = file.create_group(f"{index:0{digits}d}")
            group["data"] = np.moveaxis(fields_tcxy, 1, -1)
            for axis, points in zip("xyz", chosen.coordinates(), strict=False):
                group[f"grid/{axis}"] = points
            group["grid/t"] = _times(chosen, num_frames)
            group.attrs["config"] = _config(chosen, num_frames, {k: float(v[row]) for k, v in batch.parameters.items()})
            index += 1
        advance(len(batch.fields_btcx))


def _config(chosen: Setup, num_frames: int, parameters: Mapping[str, float]) -> str:
    """The YAML that PDEBench attaches to a trajectory, with its names Du and Dv."""
    (x_left, x_right), (y_bottom, y_top) = chosen.extents
    named: Sequence[tuple[str, Any]] = [
        *((name.capitalize() if name in ("du", "dv") else name, value) for name, value in parameters.items()),
        ("t", chosen.dt * (num_frames - 1)),
        ("tdim", num_frames),
        ("x_left", x_left),
        ("x_right", x_right),
        ("xdim", chosen.grid[0]),
        ("y_bottom", y_bottom),
        ("y_top", y_top),
        ("ydim", chosen.grid[1]),
    ]
    return yaml.safe_dump({"sim": dict(named)}, sort_keys=False)
