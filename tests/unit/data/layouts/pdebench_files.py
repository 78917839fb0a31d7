"""Small files as PDEBench publishes them: its names, arrays, attributes and YAML."""

from pathlib import Path

import h5py
import numpy as np
import yaml

DT = 0.05


def centres(size: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    return low + (high - low) * (np.arange(size) + 0.5) / size


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_arrays(path: Path, arrays: dict[str, np.ndarray], attributes: dict | None = None) -> Path:
    """Arrays (N, T, *grid), coordinates of the first one's shape, T + 1 times."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        shape = next(iter(arrays.values())).shape
        for axis, size in zip("xyz", shape[2:], strict=False):
            file[f"{axis}-coordinate"] = centres(size).astype(np.float32)
        file["t-coordinate"] = DT * np.arange(shape[1] + 1)
        file.attrs.update(attributes or {})
    return path


def write_chunked(path: Path, u: np.ndarray, chunks: tuple[int, ...]) -> Path:
    """As `write_arrays` of one array, `tensor`, compressed in these chunks."""
    write_arrays(path, {"tensor": u})
    with h5py.File(path, "a") as file:
        del file["tensor"]
        file.create_dataset("tensor", data=u, chunks=chunks, compression="gzip")
    return path


def write_groups(path: Path, u_ntxc: np.ndarray, config: dict | None = None, attributes: dict | None = None) -> Path:
    """A group per trajectory, `data` (T, *grid, C) compressed as PDEBench's."""
    with h5py.File(path, "w") as file:
        for number, u_txc in enumerate(u_ntxc):
            group = file.create_group(f"{number:04d}")
            group.create_dataset("data", data=u_txc, compression="lzf")
            for axis, size in zip("xyz", u_txc.shape[1:-1], strict=False):
                group[f"grid/{axis}"] = centres(size, -1.0, 1.0).astype(np.float32)
            group["grid/t"] = DT * np.arange(len(u_txc))
            if config:
                group.attrs["config"] = yaml.safe_dump({"name": "run", "sim": {**config, "seed": number}})
        file.attrs.update(attributes or {})
    return path


def write_darcy(path: Path, u_nxy: np.ndarray, nu_nxy: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["tensor"] = u_nxy[:, None]
        file["nu"] = nu_nxy
        for axis, size in zip("xy", u_nxy.shape[1:], strict=True):
            file[f"{axis}-coordinate"] = centres(size)
    return path


def write_incompressible(path: Path, num: int = 4, frames: int = 5, grid: tuple[int, int] = (6, 4)) -> Path:
    with h5py.File(path, "w") as file:
        for name, shape in (
            ("velocity", (num, frames, *grid, 2)),
            ("particles", (num, frames, *grid, 1)),
            ("force", (num, *grid, 2)),
        ):
            # As its generator does: a chunk per trajectory and leading index, lzf, shuffled.
            chunks = (1, 1, *shape[2:])
            file.create_dataset(name, data=numbers(*shape), chunks=chunks, compression="lzf", shuffle=True)
        file["t"] = np.arange(frames) * 0.005 + np.arange(num)[:, None] * 0.001
        file.attrs["config"] = "NU: 0.01\ndomain_size:\n- 2\n- 1\nDT: 5.0e-05\n"
        file.attrs["latestIndex"] = frames - 1
    return path


def read_whole(source) -> dict[str, np.ndarray]:
    """Every field over all trajectories, (N, T or 1, *grid)."""
    out = {}
    with source.contents.open() as read:
        for number, field in enumerate(source.fields):
            frames = range(1 if field.static else source.num_frames)
            out[field.name] = np.stack([read(number, row, frames) for row in range(source.num_trajectories)])
    return out
