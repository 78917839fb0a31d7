"""The same trajectories through other people's loaders. Each `open_*` gives a method that reads some windows.

All give batches of float32 tensors of the same windows' shape; none but ours verifies what it reads.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

Method = Callable[[], int]


class Absent(Exception):
    """A peer that is not there, or does not run, and why."""


def open_webdataset(shards: Sequence[Path], fields: Sequence[str], num_frames: int, batch_size: int) -> Method:
    """WebDataset's pipeline over our own shards: it must read a trajectory whole to give a window of it."""
    import webdataset

    def read() -> int:
        rng, count = np.random.default_rng(0), 0

        def window(sample: dict[str, Any]) -> torch.Tensor:
            arrays = [np.load(io.BytesIO(sample[f"{name}.npy"]), allow_pickle=False) for name in fields]
            first = int(rng.integers(len(arrays[0]) - num_frames + 1))
            return torch.from_numpy(np.stack([array[first : first + num_frames] for array in arrays]))

        stages = webdataset.WebDataset([str(path) for path in shards], shardshuffle=False).map(window)
        for batch in stages.batched(batch_size, collation_fn=torch.stack):
            count += len(batch)
        return count

    return read


def open_h5py(
    path: Path, names: Sequence[str], windows: Sequence[tuple[int, int]], places: Sequence[np.ndarray], keep: bool
) -> Method:
    """h5py's slices of contiguous (N, T, *grid) arrays of an open file, into `places`, (C, T, *grid) each, in turn.

    Loaders look an array up by name when they want a slice of it (The Well's does); `keep`: all are looked up before.
    """
    file = h5py.File(path)
    arrays = {name: file[name] for name in names}

    def read() -> int:
        for (trajectory, first), place in zip(windows, itertools.cycle(places), strict=False):
            for column, name in enumerate(names):
                array = arrays[name] if keep else file[name]
                place[column] = array[trajectory, first : first + place.shape[1]]
        return len(windows)

    return read


def open_the_well(folder: Path, u_nctx: np.ndarray, num_frames: int, batch_size: int, batches: int) -> Method:
    """The Well's dataset in its own format behind torch's DataLoader, in this process."""
    try:
        from the_well.data import WellDataset  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise Absent(f"not installed (pip install the_well): {error}") from None
    folder.mkdir()
    _write_well(folder / "data.hdf5", u_nctx)
    dataset = WellDataset(path=str(folder), n_steps_input=num_frames // 4, n_steps_output=num_frames - num_frames // 4)
    loader = torch.utils.data.DataLoader(dataset, batch_size, shuffle=True)

    def read() -> int:
        return sum(len(batch["input_fields"]) for batch in itertools.islice(loader, batches))

    read()
    return read


def open_streaming(folder: Path, u_nctx: np.ndarray, num_frames: int, batch_size: int) -> Method:
    """MosaicML's streaming behind torch's DataLoader, in this process: a sample is a trajectory, read whole."""
    try:
        from streaming import MDSWriter, StreamingDataset  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise Absent(f"not installed (pip install mosaicml-streaming): {error}") from None
    shape = ",".join(map(str, u_nctx.shape[1:]))
    with MDSWriter(out=str(folder), columns={"u": f"ndarray:float32:{shape}"}) as writer:
        for u_ctx in u_nctx:
            writer.write({"u": u_ctx})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch_size)
    rng = np.random.default_rng(0)

    def collate(samples: list[dict[str, np.ndarray]]) -> torch.Tensor:
        firsts = rng.integers(u_nctx.shape[2] - num_frames + 1, size=len(samples)).tolist()
        windows = (sample["u"][:, first : first + num_frames] for sample, first in zip(samples, firsts, strict=True))
        return torch.from_numpy(np.stack(list(windows)))

    loader = torch.utils.data.DataLoader(dataset, batch_size, collate_fn=collate)

    def read() -> int:
        return sum(len(batch) for batch in loader)

    read()
    return read


def _write_well(path: Path, u_nctx: np.ndarray) -> None:
    """(N, C, T, X, Y) as scalar fields of one file in The Well's format."""
    num, num_fields, num_frames, *grid = u_nctx.shape
    with h5py.File(path, "w") as file:
        file.attrs.update(dataset_name="bench", grid_type="cartesian", n_spatial_dims=2, n_trajectories=num)
        file.attrs["simulation_parameters"] = []
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        for name, size in zip(("time", "x", "y"), (num_frames, *grid), strict=True):
            dimensions[name] = np.linspace(0, 1, size, dtype=np.float32)
            dimensions[name].attrs["sample_varying"] = False
        for name, size in zip("xy", grid, strict=True):
            group = file.create_group(f"boundary_conditions/{name}_periodic")
            group.attrs.update(bc_type="PERIODIC", sample_varying=False, time_varying=False)
            group.attrs["associated_dims"], group.attrs["associated_fields"] = [name], []
            group["mask"] = np.isin(np.arange(size), (0, size - 1))
        file.create_group("scalars").attrs["field_names"] = []
        for order in range(3):
            names = [f"u{column}" for column in range(num_fields)] if order == 0 else []
            group = file.create_group(f"t{order}_fields")
            group.attrs["field_names"] = names
            for column, name in enumerate(names):
                group[name] = u_nctx[:, column]
                group[name].attrs.update(dim_varying=[True, True], sample_varying=True, time_varying=True)
