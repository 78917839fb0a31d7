"""Small synthetic data in PDEBench's layouts: smooth, evolving, made by numpy in no time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import yaml

from ups_scale.data.manifest import Manifest
from ups_scale.data.shards import convert

COUNTS = {"train": 12, "valid": 4, "test": 4}
NUM_FRAMES = 12
DT = 0.05
# 5, 5 and 2 trajectories of advection, one of the others: shards of uneven numbers.
SHARD_MIB = 0.0075


@dataclass(frozen=True)
class Written:
    """What a source file was given: fields (N, C, T, *grid) float32 and parameters (N,) float64 by name."""

    path: Path
    u_nctx: np.ndarray
    parameters: Mapping[str, np.ndarray]


def waves(num: int, num_fields: int, num_frames: int, grid: tuple[int, ...], seed: int) -> np.ndarray:
    """(N, C, T, *grid) float32: a few travelling waves per trajectory, periodic on the unit box."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(size) / size for size in grid), indexing="ij")
    times = (DT * np.arange(num_frames)).reshape(-1, *(1,) * len(grid))
    u_nctx = np.zeros((num, num_fields, num_frames, *grid))
    for trajectory in u_nctx:
        for field in trajectory:
            for _ in range(3):
                wave_numbers = rng.integers(-2, 3, len(grid))
                phase = sum(k * x for k, x in zip(wave_numbers, axes, strict=True)) - rng.uniform(0.2, 1) * times
                field += rng.uniform(0.3, 1) * np.sin(2 * np.pi * (phase + rng.uniform()))
    return u_nctx.astype(np.float32)


def centres(size: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """The cell centres of an axis."""
    return low + (high - low) * (np.arange(size) + 0.5) / size


def write_arrays(
    path: Path,
    names: tuple[str, ...],
    u_nctx: np.ndarray,
    parameters: Mapping[str, np.ndarray],
    attributes: Mapping[str, str],
) -> Written:
    """An `.hdf5` file: an array (N, T, *grid) per name, coordinates beside them, T + 1 times."""
    with h5py.File(path, "w") as file:
        for column, name in enumerate(names):
            file[name] = u_nctx[:, column]
        for axis, size in zip("xyz", u_nctx.shape[3:], strict=False):
            file[f"{axis}-coordinate"] = centres(size)
        file["t-coordinate"] = DT * np.arange(u_nctx.shape[2] + 1)
        for name, values in parameters.items():
            file[f"parameters/{name}"] = values
        file.attrs.update(attributes)
    return Written(path, u_nctx, parameters)


def write_groups(
    path: Path, u_nctx: np.ndarray, parameters: Mapping[str, np.ndarray], attributes: Mapping[str, str]
) -> Written:
    """An `.h5` file: a group per trajectory, `data` (T, *grid, C), the axes under `grid`, the parameters as YAML."""
    with h5py.File(path, "w") as file:
        for number, u_ctx in enumerate(u_nctx):
            group = file.create_group(f"{number:04d}")
            group["data"] = np.moveaxis(u_ctx, 0, -1)
            for axis, size in zip("xyz", u_ctx.shape[2:], strict=False):
                group[f"grid/{axis}"] = centres(size, -1.0, 1.0)
            group["grid/t"] = DT * np.arange(u_ctx.shape[1])
            config = {name: float(values[number]) for name, values in parameters.items()}
            group.attrs["config"] = yaml.safe_dump({"sim": config})
        file.attrs.update(attributes)
    return Written(path, u_nctx, parameters)


def write_sources(
    folder: Path, counts: Mapping[str, int] = COUNTS, num_frames: int = NUM_FRAMES
) -> dict[tuple[str, str], Written]:
    """A file per (family, split) of advection_1d, navier_stokes_2d and reaction_diffusion_2d in `folder`."""
    written = {}
    for seed, (split, num) in enumerate(counts.items()):
        rng = np.random.default_rng(100 + seed)
        said = {"split": split}

        u_nctx = waves(num, 1, num_frames, (32,), 10 + seed)
        parameters = {"beta": rng.uniform(0.5, 2.0, num)}
        path = folder / f"advection_1d_{split}.hdf5"
        written["advection_1d", split] = write_arrays(
            path, ("tensor",), u_nctx, parameters, {**said, "family": "advection_1d"}
        )

        u_nctx = waves(num, 1, num_frames, (16, 16), 20 + seed)
        parameters = {"nu": rng.uniform(1e-3, 1e-2, num)}
        path = folder / f"navier_stokes_2d_{split}.hdf5"
        written["navier_stokes_2d", split] = write_arrays(
            path, ("vorticity",), u_nctx, parameters, {**said, "family": "navier_stokes_2d"}
        )

        u_nctx = waves(num, 2, num_frames, (16, 16), 30 + seed)
        parameters = {"Du": rng.uniform(1e-3, 2e-3, num), "Dv": rng.uniform(4e-3, 6e-3, num), "k": np.full(num, 5e-3)}
        path = folder / f"reaction_diffusion_2d_{split}.h5"
        written["reaction_diffusion_2d", split] = write_groups(
            path, u_nctx, parameters, {**said, "family": "reaction_diffusion_2d", "boundary": "neumann"}
        )
    return written


def make_shards(source: Path, out: Path, workers: int = 1, shard_mib: float = SHARD_MIB) -> Manifest:
    """Shards of the files in `source`."""
    return convert([source], out, layout="pdebench", shard_mib=shard_mib, workers=workers, show_progress=False)
