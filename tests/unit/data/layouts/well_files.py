"""Small files in The Well's layout, as its `docs/data_format.md` describes it."""

from pathlib import Path

import h5py
import numpy as np


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def add_field(file: h5py.File, order: int, name: str, values: np.ndarray, sample=True, time=True, dims=None) -> None:
    group = file[f"t{order}_fields"]
    group[name] = values
    group[name].attrs.update(
        {
            "sample_varying": sample,
            "time_varying": time,
            "dim_varying": [True] * len(file["dimensions"].attrs["spatial_dims"]) if dims is None else dims,
        }
    )
    group.attrs["field_names"] = [*group.attrs["field_names"], name]


def add_scalar(file: h5py.File, name: str, values: np.ndarray, sample=False, time=False) -> None:
    group = file["scalars"]
    group[name] = values
    group[name].attrs.update({"sample_varying": sample, "time_varying": time})
    group.attrs["field_names"] = [*group.attrs["field_names"], name]


def add_boundary(file: h5py.File, name: str, kind: str, dims: list[str], mask: np.ndarray, sample=False) -> None:
    group = file.create_group(f"boundary_conditions/{name}")
    group["mask"] = mask
    group.attrs.update(
        {
            "bc_type": kind,
            "associated_dims": dims,
            "associated_fields": np.array([], "S1"),
            "sample_varying": sample,
            "time_varying": False,
        }
    )


def ends(size: int, low: bool = True, high: bool = True) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[0], mask[-1] = low, high
    return mask


def write_well(path: Path, grid: tuple[int, ...] = (6, 4), num: int = 3, frames: int = 5, boundaries=True) -> Path:
    """A file without fields, periodic in x and walls in the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = ["x", "y", "z"][: len(grid)]
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {
                "dataset_name": "shear_flow",
                "grid_type": "cartesian",
                "n_spatial_dims": len(grid),
                "n_trajectories": num,
                "simulation_parameters": ["Reynolds"],
                "Reynolds": 1e4,
            }
        )
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = axes
        dimensions["time"] = np.linspace(0, 1, frames, dtype=np.float32)
        for axis, size in zip(axes, grid, strict=True):
            dimensions[axis] = (np.arange(size, dtype=np.float32) + 0.5) / size
        for name in dimensions:
            dimensions[name].attrs.update({"sample_varying": False, "time_varying": False})
        for name in ("scalars", "t0_fields", "t1_fields", "t2_fields"):
            file.create_group(name).attrs["field_names"] = np.array([], "S1")
        file.create_group("boundary_conditions")
        for axis, size in zip(axes if boundaries else (), grid, strict=False):
            kind = "PERIODIC" if axis == "x" else "WALL"
            add_boundary(file, f"{axis}_{kind.lower()}", kind, [axis], ends(size))
    return path
