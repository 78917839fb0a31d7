"""Points and their neighbours: a canonical order of a point set, supernodes drawn from it, and the points nearest to a
place. Pure geometry, of static shapes: nothing here has weights or waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ups_scale.model.constants import constant

# Dimensions: b sample, p point, m centre (supernode or token), k neighbour of a centre, d space axis.

# Bits of the Morton code per axis, by the number of axes.
MORTON_BITS = {1: 30, 2: 30, 3: 20}
# Entries of the matrix of distances that exist at a time, and of each of the few it is made with; on a CPU, what its
# cache holds.
MAX_ENTRIES = 2**23
MAX_ENTRIES_CPU = 2**18
# Equal distances are told apart by direction, as if a point this way were nearer by up to this share of its distance.
TILT = 1e-3
TILT_DIRECTION = (0.7604, 0.5274, 0.3789)
# A point on the radius itself is inside, whatever the rounding.
RADIUS_SLACK = 1e-3


@dataclass(frozen=True)
class Neighbours:
    """The points nearest to each of M centres, nearest first, K = min(cap, P).

    Attributes:
        index_bmk: (B, M, K) int64 numbers of the points.
        valid_bmk: (B, M, K) bool: it is within the radius and has a value, or it is the nearest there is.
        offset_bmkd: (B, M, K, d) float32, the way from the centre to the point, in the unit of the search.
    """

    index_bmk: Tensor
    valid_bmk: Tensor
    offset_bmkd: Tensor


def within(place_bpd: Tensor, periodic: Sequence[bool]) -> Tensor:
    """The places (B, P, d), fractions of the domain, brought into [0, 1) along the periodic axes."""
    if not any(periodic):
        return place_bpd
    return torch.where(_flags(periodic, place_bpd.device), place_bpd.remainder(1.0), place_bpd)


def shortest(offset: Tensor, periodic: Sequence[bool]) -> Tensor:
    """The offsets (..., d), fractions of the domain, to the nearest image: in [-1/2, 1/2) along the periodic axes."""
    if not any(periodic):
        return offset
    return torch.where(_flags(periodic, offset.device), offset - torch.floor(offset + 0.5), offset)


def canonical_order(place_bpd: Tensor, mask_bp: Tensor | None = None) -> Tensor:
    """(B, P) int64 numbers of the points along a Z-order curve (Morton, 1966): the same points in the same order
    however they come. Equal codes are ordered by the coordinates; points that `mask_bp` is False for come last.

    `place_bpd` (B, P, d): fractions of the domain, in [0, 1]; what is outside is coded as if it were on the border.
    """
    batch, points, axes = place_bpd.shape
    bits = MORTON_BITS[axes]
    cell_bpd = (place_bpd * 2.0**bits).long().clamp(0, 2**bits - 1)
    code_bp = torch.zeros(batch, points, dtype=torch.int64, device=place_bpd.device)
    for bit in range(bits):
        for axis in range(axes):
            code_bp = code_bp | ((cell_bpd[..., axis] >> bit & 1) << (bit * axes + axis))
    keys = [*place_bpd.unbind(-1), code_bp]  # the last counts most
    if mask_bp is not None:
        keys.append((~mask_bp).to(torch.uint8))
    order_bp = torch.arange(points, device=place_bpd.device).expand(batch, points)
    for key_bp in keys:
        order_bp = order_bp.gather(1, key_bp.gather(1, order_bp).argsort(dim=1, stable=True))
    return order_bp


def choose_supernodes(
    order_bp: Tensor, count: int, mask_bp: Tensor | None = None, resample: bool = False
) -> tuple[Tensor, Tensor]:
    """(B, M) int64 numbers of M = min(count, P) points spread evenly along `order_bp`, and (B, M) bool, which are in
    use: all, unless `mask_bp` leaves fewer than M points with a value.

    The order is cut in strata of equal size; each gives its middle point or, with `resample`, one at random.
    """
    batch, points = order_bp.shape
    count = min(count, points)
    device = order_bp.device
    number_m = torch.arange(count, device=device)
    seen_b1 = torch.full((batch, 1), points, device=device) if mask_bp is None else mask_bp.sum(dim=1, keepdim=True)
    strata_b1 = seen_b1.clamp(1, count)
    first_bm = number_m * seen_b1 // strata_b1
    size_bm = (number_m + 1) * seen_b1 // strata_b1 - first_bm
    share_bm = torch.rand(batch, count, device=device) if resample else torch.full((batch, count), 0.5, device=device)
    chosen_bm = first_bm + torch.minimum((share_bm * size_bm).long(), (size_bm - 1).clamp_min(0))
    return order_bp.gather(1, chosen_bm.clamp_max(points - 1)), number_m < strata_b1


def nearest(
    centre_bmd: Tensor,
    place_bpd: Tensor,
    scale: Sequence[float],
    periodic: Sequence[bool],
    cap: int,
    radius: float | None = None,
    mask_bp: Tensor | None = None,
) -> Neighbours:
    """The up to `cap` points nearest to each centre, to the nearest image along periodic axes.

    Distances that differ by less than 0.1 % may count as equal. Which of the points at equal distance are taken depends
    on their direction alone, so a shift of centres and points changes nothing. The distances are worked out for some
    centres at a time.

    Args:
        centre_bmd, place_bpd: (B, M, d) and (B, P, d) float32, fractions of the domain.
        scale: per axis, the extent of the domain in the unit that distances are measured in.
        periodic: per axis.
        cap: how many.
        radius: in that unit; None: however far.
        mask_bp: (B, P) bool, which points there are; None: all. Where none is, the neighbours mean nothing.
    """
    batch, points, axes = place_bpd.shape
    cap = min(cap, points)
    most = MAX_ENTRIES_CPU if place_bpd.device.type == "cpu" else MAX_ENTRIES
    rows = max(most // (batch * points), 1)
    found = [_lowest(part, place_bpd, scale, periodic, cap, mask_bp) for part in centre_bmd.split(rows, dim=1)]
    index_bmk = torch.cat(found, dim=1)
    place_bmkd = place_bpd.gather(1, index_bmk.flatten(1)[..., None].expand(-1, -1, axes)).unflatten(1, (-1, cap))
    offset_bmkd = shortest(place_bmkd - centre_bmd[:, :, None], periodic) * constant(list(scale), place_bpd.device)
    valid_bmk = torch.ones_like(index_bmk, dtype=torch.bool)
    if mask_bp is not None:
        valid_bmk = mask_bp.gather(1, index_bmk.flatten(1)).reshape(index_bmk.shape)
    if radius is not None:
        valid_bmk = valid_bmk & (offset_bmkd.norm(dim=-1) <= radius * (1 + RADIUS_SLACK))
    first_k = torch.arange(cap, device=place_bpd.device) == 0
    return Neighbours(index_bmk, valid_bmk | first_k, offset_bmkd)


def _lowest(
    centre_bmd: Tensor,
    place_bpd: Tensor,
    scale: Sequence[float],
    periodic: Sequence[bool],
    cap: int,
    mask_bp: Tensor | None,
) -> Tensor:
    """(B, M, K) numbers of the nearest points of a few centres."""
    square_bmp: Tensor | float = 0.0
    along_bmp: Tensor | float = 0.0
    for axis, length in enumerate(scale):
        offset_bmp = (place_bpd[:, None, :, axis] - centre_bmd[:, :, None, axis])[..., None]
        offset_bmp = shortest(offset_bmp, periodic[axis : axis + 1])[..., 0] * length
        square_bmp = square_bmp + offset_bmp.square()
        along_bmp = along_bmp + TILT_DIRECTION[axis] * offset_bmp
    assert isinstance(square_bmp, Tensor)
    key_bmp = square_bmp - TILT * square_bmp.sqrt() * along_bmp
    if mask_bp is not None:
        key_bmp = key_bmp.masked_fill(~mask_bp[:, None], torch.inf)
    return key_bmp.topk(cap, dim=-1, largest=False).indices


def _flags(periodic: Sequence[bool], device: torch.device) -> Tensor:
    return constant([int(wraps) for wraps in periodic], device).bool()
