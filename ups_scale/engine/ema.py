"""The exponential moving average of the weights, in fp32, each rank its own partition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ups_scale.errors import CheckpointError


class EMA:
    """average <- decay * average + (1 - decay) * weight after every step, over the tensors given.

    The decay of step t is at most (1 + t) / (10 + t), so that a short run's average forgets its random start.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self._average = [tensor.detach().clone().float() for tensor in tensors]

    def update(self, tensors: Sequence[Tensor], step: int) -> None:
        """Takes in the weights after optimizer step `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, [tensor.detach() for tensor in tensors], 1 - decay)

    def swap(self, tensors: Sequence[Tensor]) -> None:
        """Exchanges the average and the weights, in place; a second call undoes it."""
        for average, tensor in zip(self._average, tensors, strict=True):
            kept = tensor.detach().clone()
            tensor.detach().copy_(average)
            average.copy_(kept)

    def save(self, path: Path) -> None:
        """Writes this rank's average as safetensors."""
        save_file({str(number): tensor.cpu().contiguous() for number, tensor in enumerate(self._average)}, path)

    def load(self, path: Path) -> None:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: missing, or of other sizes than this run's partition.
        """
        try:
            saved = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: the moving average can't be read ({error})") from None
        if [saved[str(n)].shape if str(n) in saved else None for n in range(len(self._average))] != [
            tensor.shape for tensor in self._average
        ]:
            raise CheckpointError(f"{path}: the moving average was saved by another partitioning of the weights")
        for number, average in enumerate(self._average):
            average.copy_(saved[str(number)])
