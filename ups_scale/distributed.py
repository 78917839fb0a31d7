"""Ranks and devices: who am I, what do I compute on, and how do all ranks come to agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ups_scale.errors import RecipeError, UserError

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process among the others. `control` is a gloo group, for decisions about Python objects; None when alone."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    control: dist.ProcessGroup | None

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def from_environment() -> tuple[int, int, int]:
    """(rank, world size, local rank) as the launcher states them; (0, 1, 0) under plain python."""
    environment = os.environ
    return int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1)), int(environment.get("LOCAL_RANK", 0))


def setup() -> Ranks:
    """Joins the process group that the launcher (deepspeed, torchrun, or none) describes; every rank calls it.

    nccl with one GPU per rank, gloo without GPUs. One rank alone needs no port. On shared CPU cores each rank gets its
    share of them as threads, unless OMP_NUM_THREADS says otherwise: two ranks of two threads each on two cores made a
    training step 40 times slower.

    Raises:
        RecipeError: more ranks on this machine than GPUs.
    """
    rank, world_size, local_rank = from_environment()
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise RecipeError(
                f"local rank {local_rank} has no GPU of its own: this machine has {torch.cuda.device_count()}; start "
                "as many ranks as GPUs, or set CUDA_VISIBLE_DEVICES= and DS_ACCELERATOR=cpu to train on its CPU"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        if "OMP_NUM_THREADS" not in os.environ:  # else torch has taken it already
            local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world_size)
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world))
    for key, value in (("RANK", rank), ("WORLD_SIZE", world_size), ("LOCAL_RANK", local_rank)):
        os.environ.setdefault(key, str(value))
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        if world_size == 1 and "MASTER_ADDR" not in os.environ:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    control = dist.new_group(backend="gloo") if world_size > 1 else None
    return Ranks(rank, world_size, local_rank, device, control)


def shutdown() -> None:
    """Leaves the process group; every rank calls it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def broadcast(ranks: Ranks, value: Any) -> Any:
    """Rank 0's `value`, on every rank; every rank calls it."""
    if ranks.control is None:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=ranks.control)
    return box[0]


def gather(ranks: Ranks, value: Any) -> list[Any]:
    """Every rank's `value`, in rank order, on every rank; every rank calls it."""
    if ranks.control is None:
        return [value]
    values: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(values, value, group=ranks.control)
    return values


def together(ranks: Ranks, work: Callable[[], T]) -> T:
    """`work()` of this rank; what it raises as a `UserError` on any rank is raised on all. Every rank calls it.

    For work that can fail on one rank alone: the others would wait for it for ever.
    """
    result, error = None, None
    try:
        result = work()
    except UserError as caught:
        error = caught
    for found in gather(ranks, error):
        if found is not None:
            found.on_all_ranks = True
            raise found
    return result  # type: ignore[return-value]


def on_main(ranks: Ranks, work: Callable[[], T]) -> T:
    """What `work()` gives on rank 0, on every rank; a `UserError` of it is raised on all. Every rank calls it."""
    return broadcast(ranks, together(ranks, lambda: work() if ranks.is_main else None))


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """`values` summed over all ranks, in place; every rank calls it."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values
