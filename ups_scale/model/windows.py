"""Windows of the latent lattice that attention stays within, shifted from block to block (Swin, arXiv 2103.14030)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ups_scale.model.attention import rotary_angles
from ups_scale.model.lattice import window_edge

# Dimensions: n sequence, l token of the lattice, w window, k token of a window, d model width, r rotated pair.


def cut(x_nld: Tensor, lattice: Sequence[int], edges: Sequence[int]) -> Tensor:
    """(N, W, K, D): the tokens (N, L, D) of a lattice in boxes of `edges` tokens; boxes and tokens are row-major."""
    shape = [len(x_nld)]
    for size, edge in zip(lattice, edges, strict=True):
        shape += [size // edge, edge]
    axes = range(1, 2 * len(lattice), 2)
    boxes = x_nld.reshape(*shape, -1).permute(0, *axes, *(axis + 1 for axis in axes), len(shape))
    return boxes.reshape(len(x_nld), -1, math.prod(edges), x_nld.shape[-1])


def uncut(x_nwkd: Tensor, lattice: Sequence[int], edges: Sequence[int]) -> Tensor:
    """(N, L, D), the inverse of `cut`."""
    counts = [size // edge for size, edge in zip(lattice, edges, strict=True)]
    order = [0]
    for axis in range(1, len(lattice) + 1):
        order += [axis, axis + len(lattice)]
    boxes = x_nwkd.reshape(len(x_nwkd), *counts, *edges, -1).permute(*order, 2 * len(lattice) + 1)
    return boxes.reshape(len(x_nwkd), -1, x_nwkd.shape[-1])


@dataclass(frozen=True, eq=False)
class Windows:
    """How the tokens of a lattice are dealt to windows, and what attention needs to know of each window.

    Attributes:
        lattice: tokens per axis.
        edges: tokens per axis of a window.
        shift: by how many tokens the windows are shifted along each axis.
        cos: (K, R) float32 cosines of the rotary angles of the first window's tokens. They do for every window, since
            attention depends on differences of angles, and those are the same in all.
        sin: their sines.
        mask: (W, K, K) bool, which token (row) sees which; None: all of a window see each other.
    """

    lattice: tuple[int, ...]
    edges: tuple[int, ...]
    shift: tuple[int, ...]
    cos: Tensor
    sin: Tensor
    mask: Tensor | None

    def deal(self, x_nld: Tensor) -> Tensor:
        """(N * W, K, D): the tokens (N, L, D) window by window."""
        if self.edges == self.lattice:
            return x_nld
        return cut(_roll(x_nld, self.lattice, self.shift, -1), self.lattice, self.edges).flatten(0, 1)

    def collect(self, x_mkd: Tensor) -> Tensor:
        """(N, L, D), the inverse of `deal`."""
        if self.edges == self.lattice:
            return x_mkd
        count = math.prod(self.lattice) // math.prod(self.edges)
        return _roll(uncut(x_mkd.unflatten(0, (-1, count)), self.lattice, self.edges), self.lattice, self.shift, 1)


def window_edges(lattice: Sequence[int], window_size: int | None) -> tuple[int, ...]:
    """Tokens per axis of a window of at most `window_size` tokens a side; None: the whole lattice."""
    return tuple(size if window_size is None else window_edge(size, window_size) for size in lattice)


def windows(
    lattice: Sequence[int],
    periodic: Sequence[bool],
    *,
    window_size: int | None,
    shifted: bool,
    num_pairs: int,
    device: torch.device,
) -> Windows:
    """The windows of a lattice, made once per device.

    Args:
        lattice: tokens per axis.
        periodic: per axis, whether windows go round its end.
        window_size: tokens a side at most, clipped on each axis to a divisor of its tokens; None: one window.
        shifted: whether windows are shifted by half their edge along each axis that has more than one. Where a shifted
            window holds tokens of both ends of an axis that isn't periodic, those don't see each other.
        num_pairs: rotated pairs per head.
        device: where the angles and the mask lie.
    """
    edges = window_edges(lattice, window_size)
    axes = zip(lattice, edges, strict=True)
    shift = tuple(edge // 2 if shifted and edge < size else 0 for size, edge in axes)  # one window holds the axis
    return _made(tuple(lattice), tuple(periodic), edges, shift, num_pairs, device)


@lru_cache(maxsize=1024)
def _made(
    lattice: tuple[int, ...],
    periodic: tuple[bool, ...],
    edges: tuple[int, ...],
    shift: tuple[int, ...],
    num_pairs: int,
    device: torch.device,
) -> Windows:
    # Kept for later steps, so not inference tensors even if they are first asked for in inference mode.
    with torch.inference_mode(False):
        angles_lr = rotary_angles(lattice, periodic, num_pairs, device)
        whole = Windows(lattice, edges, shift, angles_lr.cos(), angles_lr.sin(), None)
        if edges == lattice:
            return whole
        mask = None
        bounded = [axis for axis, offset in enumerate(shift) if offset and not periodic[axis]]
        if bounded:
            # The tokens that the shift carries from the start of an axis to its end: a bit for each such axis.
            carried = torch.zeros(lattice, dtype=torch.int64, device=device)
            for axis in bounded:
                carried.narrow(axis, 0, shift[axis]).add_(1 << axis)
            side_wk = whole.deal(carried.reshape(1, -1, 1))[..., 0]
            mask = side_wk[:, :, None] == side_wk[:, None, :]
        return replace(whole, cos=whole.deal(whole.cos[None])[0], sin=whole.deal(whole.sin[None])[0], mask=mask)


def _roll(x_nld: Tensor, lattice: Sequence[int], shift: Sequence[int], sign: int) -> Tensor:
    if not any(shift):
        return x_nld
    axes = [axis for axis, offset in enumerate(shift) if offset]
    rolled = x_nld.unflatten(1, tuple(lattice)).roll([sign * shift[axis] for axis in axes], [axis + 1 for axis in axes])
    return rolled.flatten(1, len(lattice))
