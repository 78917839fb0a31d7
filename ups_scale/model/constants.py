"""Small constant tensors, made once per device: a new one in every call would wait for the device each time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def constant(values: Sequence[float], device: torch.device) -> Tensor:
    """(N,) tensor of `values`, float32, or int64 if all are whole. Shared: never to be written to."""
    values = tuple(values)
    dtype = torch.int64 if all(isinstance(value, int) for value in values) else torch.float32
    return _made(values, dtype, device)


@lru_cache(maxsize=4096)
def _made(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept for later steps, so not an inference tensor even if it is first asked for in inference mode.
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)
