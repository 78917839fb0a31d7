"""The frames that a step of a rollout starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Dimensions: b sample, t context frame, c field, x space axes.


def filled_times(dt_bt: Tensor, missing: int, num_frames: int) -> Tensor:
    """(B, at least `num_frames`) times between frames, from those of a context that lacks its first `missing` frames:
    the first time stands in for theirs, and NaN for what isn't stated at the end."""
    if dt_bt.shape[1] == 0:
        dt_bt = dt_bt.new_full((len(dt_bt), 1), math.nan)
    dt_bt = torch.cat([dt_bt[:, :1].expand(-1, missing), dt_bt], dim=1)
    return F.pad(dt_bt, (0, max(num_frames - dt_bt.shape[1], 0)), value=math.nan)


@dataclass(frozen=True)
class Window:
    """Context frames (B, T, C, *X) in physical units.

    Attributes:
        mask_btcx: where there is a value; None: everywhere.
        seen_bt: which of the frames are given (the others hold zeros); None: all.
    """

    context_btcx: Tensor
    mask_btcx: Tensor | None = None
    seen_bt: Tensor | None = None

    def slid(self, next_bcx: Tensor) -> Window:
        """The window one frame later; a predicted frame has values where the frame before it has."""
        context = torch.cat([self.context_btcx[:, 1:], next_bcx[:, None]], dim=1)
        mask, seen = (
            None if known is None else torch.cat([known[:, 1:], known[:, -1:]], dim=1)
            for known in (self.mask_btcx, self.seen_bt)
        )
        return Window(context, mask, seen)

    def filled(self, num_frames: int) -> Window:
        """With `num_frames` frames: those that are missing before the first are not given."""
        missing = num_frames - self.context_btcx.shape[1]
        if missing == 0:
            return self
        batch, device = len(self.context_btcx), self.context_btcx.device
        seen = (torch.arange(num_frames, device=device) >= missing).expand(batch, -1)
        context, mask = (
            None if frames is None else torch.cat([frames.new_zeros(batch, missing, *frames.shape[2:]), frames], dim=1)
            for frames in (self.context_btcx, self.mask_btcx)
        )
        assert context is not None
        return Window(context, mask, seen)

    def thinned(self, probability: float) -> Window:
        """Without a random number of its earlier frames, in each sample with this probability."""
        batch, num_frames = self.context_btcx.shape[:2]
        device = self.context_btcx.device
        count_b1 = torch.randint(1, num_frames, (batch, 1), device=device)
        count_b1 = torch.where(torch.rand(batch, 1, device=device) < probability, count_b1, 0)
        seen = torch.arange(num_frames, device=device) >= count_b1
        context = torch.where(self._over_space(seen), self.context_btcx, 0.0)
        return Window(context, self.mask_btcx, seen if self.seen_bt is None else seen & self.seen_bt)

    def rolled(self, offsets: tuple[int, ...], axes: tuple[int, ...]) -> Window:
        """Rolled by `offsets` points along the space axes `axes`, counted from 0."""
        dims = tuple(3 + axis for axis in axes)
        mask = None if self.mask_btcx is None else self.mask_btcx.roll(offsets, dims)
        return Window(self.context_btcx.roll(offsets, dims), mask, self.seen_bt)

    @property
    def last_bcx(self) -> Tensor:
        """The last frame."""
        return self.context_btcx[:, -1]

    @property
    def last_mask_bcx(self) -> Tensor | None:
        """Where the last frame has a value; None: everywhere."""
        return None if self.mask_btcx is None else self.mask_btcx[:, -1]

    @property
    def counted_btcx(self) -> Tensor | None:
        """Where a frame that is given has a value; None: everywhere."""
        if self.seen_bt is None:
            return self.mask_btcx
        seen = self._over_space(self.seen_bt).expand_as(self.context_btcx)
        return seen if self.mask_btcx is None else seen & self.mask_btcx

    def _over_space(self, of_bt: Tensor) -> Tensor:
        return of_bt.reshape(*of_bt.shape, *(1,) * (self.context_btcx.ndim - 2))
