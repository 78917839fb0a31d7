"""Trajectories of a family, batch by batch: a trajectory depends on (seed, family, split, index) and nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ups_scale.errors import DataError
from ups_scale.solvers.setups import DEFAULT_FRAMES, setup, stack_parameters

CUDA_BATCH = 128


@dataclass(frozen=True)
class Trajectories:
    """Some solutions of one family: `fields_btcx` (B, T, C, *grid) float32, `parameters` {name: (B,) float64}."""

    fields_btcx: np.ndarray
    parameters: dict[str, np.ndarray]


def generate_family(
    name: str,
    num_trajectories: int,
    *,
    split: str = "train",
    num_frames: int = DEFAULT_FRAMES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> Trajectories:
    """All trajectories 0 .. num_trajectories - 1 of a split at once; arguments as `generate_batches`."""
    batches = list(
        generate_batches(
            name,
            num_trajectories,
            split=split,
            num_frames=num_frames,
            seed=seed,
            device=device,
            batch_size=batch_size,
        )
    )
    return Trajectories(
        fields_btcx=np.concatenate([batch.fields_btcx for batch in batches]),
        parameters={key: np.concatenate([batch.parameters[key] for batch in batches]) for key in batches[0].parameters},
    )


def generate_batches(
    name: str,
    num_trajectories: int,
    *,
    split: str = "train",
    num_frames: int = DEFAULT_FRAMES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> Iterator[Trajectories]:
    """The trajectories in order, `batch_size` at a time (default: what suits the family and device).

    Solved in float64, given in float32. Small batches and one thread are fastest on a CPU.

    Raises:
        DataError: unknown family, fewer than 1 trajectory or 2 frames, a negative seed, a CUDA device where there is
            none, or a solution that is not finite.
    """
    chosen = setup(name)
    check_request(num_trajectories, num_frames, seed, device)
    size = batch_size or (chosen.cpu_batch if torch.device(device).type == "cpu" else CUDA_BATCH)
    return _batches(name, num_trajectories, split, num_frames, seed, device, size)


def _batches(
    name: str, num_trajectories: int, split: str, num_frames: int, seed: int, device: torch.device | str, size: int
) -> Iterator[Trajectories]:
    chosen = setup(name)
    for first in range(0, num_trajectories, size):
        indices = range(first, min(first + size, num_trajectories))
        parameters, initial = zip(*(chosen.draw(generator(seed, name, split, index)) for index in indices), strict=True)
        stacked = stack_parameters(list(parameters), device)
        fields_btcx = chosen.solve(torch.as_tensor(np.stack(initial), device=device), stacked, num_frames)
        finite_b = fields_btcx.isfinite().flatten(1).all(1)
        if not finite_b.all():
            index = first + int(finite_b.int().argmin())
            raise DataError(
                f"{name}: the solution of {split} trajectory {index}, seed {seed}, is not finite; try another --seed, "
                "and report this one"
            )
        yield Trajectories(
            fields_btcx=fields_btcx.float().cpu().numpy(),
            parameters={key: value.cpu().numpy() for key, value in stacked.items()},
        )


def generator(seed: int, family: str, split: str, index: int) -> np.random.Generator:
    """The random numbers of one trajectory."""
    return np.random.default_rng([seed, zlib.crc32(family.encode()), zlib.crc32(split.encode()), index])


def check_request(num_trajectories: int, num_frames: int, seed: int, device: torch.device | str) -> None:
    """Raises `DataError` for counts, seeds and devices that can't be served."""
    if num_trajectories < 1:
        raise DataError(f"--trajectories {num_trajectories}: must be at least 1")
    if num_frames < 2:
        raise DataError(f"--frames {num_frames}: must be at least 2, the first frame and one to predict")
    if seed < 0:
        raise DataError(f"--seed {seed}: must be 0 or more")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: this torch sees no CUDA device; use --device cpu")
