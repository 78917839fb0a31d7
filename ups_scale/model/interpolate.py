"""Values of fields at other places than those they are given at, by interpolation; the linear maps that do so within a
patch. All reproduce functions that are linear in the coordinates, up to the ends of the domain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ups_scale.model.constants import constant

# Dimensions: b sample (of places, 1: the same for all), c field, x space axes, p given point, q asked place, d space
# axis, k stencil or neighbouring point, i/o points along an axis of the given and the asked grid.

# Keys' cubic kernel needs the two points on either side of a place; a place may lie half a cell beyond the last.
GHOSTS = 2
# A weight that differs from zero by rounding alone.
ROUNDING = 1e-4
# Entries of the largest table of distances from places to points.
MAX_DISTANCES = 2**23


def resample_grid(u_bcx: Tensor, grid_out: Sequence[int], periodic: Sequence[bool]) -> Tensor:
    """(B, C, *grid_out) from (B, C, *grid): from the cell centres of one grid to those of another over the same domain.

    Cubic (Keys, IEEE Trans. ASSP 29, 1981, eq. 15, a = -1/2), round the end on periodic axes; elsewhere the field is
    continued linearly beyond its last points. The identity where the grids are equal. A coarser grid takes values, not
    averages: waves too short for it are aliased.
    """
    u = u_bcx
    for axis, (size, wraps) in enumerate(zip(grid_out, periodic, strict=True)):
        if u.shape[2 + axis] != size:
            matrix_oi = _resampling(u.shape[2 + axis], size, wraps, u.device).to(u.dtype)
            u = (u.movedim(2 + axis, -1) @ matrix_oi.T).movedim(-1, 2 + axis)
    return u


def resample_mask(mask_bcx: Tensor, grid_out: Sequence[int], periodic: Sequence[bool]) -> Tensor:
    """(B, C, *grid_out) bool: where `resample_grid` takes only from points (B, C, *grid) that have a value."""
    absent = (~mask_bcx).float()
    for axis, (size, wraps) in enumerate(zip(grid_out, periodic, strict=True)):
        if absent.shape[2 + axis] != size:
            taken_oi = (_resampling(absent.shape[2 + axis], size, wraps, absent.device).abs() > ROUNDING).float()
            absent = (absent.movedim(2 + axis, -1) @ taken_oi.T).movedim(-1, 2 + axis)
    return absent == 0


def sample_grid(u_bcx: Tensor, place_bqd: Tensor, periodic: Sequence[bool]) -> Tensor:
    """(B, C, Q) from (B, C, *grid): the interpolation of `resample_grid` at places (B or 1, Q, d), as fractions of the
    domain."""
    padded = u_bcx
    for axis, wraps in enumerate(periodic):
        padded = _with_ghosts(padded, 2 + axis, wraps)
    return weighted_sum(padded.flatten(2), *_stencil(u_bcx.shape[2:], place_bqd, periodic))


def nearest_mask(mask_bcx: Tensor, place_bqd: Tensor, periodic: Sequence[bool]) -> Tensor:
    """(B, C, Q) bool: whether `sample_grid` takes only from points (B, C, *grid) that have a value."""
    absent = (~mask_bcx).float()
    for axis, wraps in enumerate(periodic):
        absent = _with_ghosts(absent, 2 + axis, wraps, signed=False)
    index_bqk, weight_bqk = _stencil(mask_bcx.shape[2:], place_bqd, periodic)
    index = index_bqk.flatten(1)[:, None].expand(*mask_bcx.shape[:2], -1)
    absent_bcqk = absent.flatten(2).gather(2, index).unflatten(2, index_bqk.shape[1:])
    return ~((absent_bcqk > 0) & (weight_bqk.abs() > ROUNDING)[:, None]).any(dim=-1)


def sample_points(
    u_bcp: Tensor, from_bpd: Tensor, place_bqd: Tensor, periodic: Sequence[bool], lengths: Sequence[float]
) -> Tensor:
    """(B, C, Q) from the values (B, C, P) of scattered points: at each place the mean of the nearest points, weighted
    by the inverse square of the distance, with the slope that fits them best; at a point itself, its value.

    Args:
        from_bpd: (B or 1, P, d) where the values are, as fractions of the domain.
        place_bqd: (B or 1, Q, d) where they are asked for.
        periodic: per axis, whether distances go round the end.
        lengths: the domain's extent per axis.
    """
    return weighted_sum(u_bcp, *near_points(from_bpd, place_bqd, periodic, lengths))


def near_points(
    from_bpd: Tensor, place_bqd: Tensor, periodic: Sequence[bool], lengths: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """((B, Q, K) int64, (B, Q, K)): the points that `sample_points` takes, and their weights, for many fields at the
    same places."""
    batch, axes = max(len(from_bpd), len(place_bqd)), len(lengths)
    count = min(4 * axes, from_bpd.shape[1])
    chunk = max(MAX_DISTANCES // (batch * from_bpd.shape[1]), 1)
    index, weight = [], []
    for part_bqd in place_bqd.split(chunk, dim=1):
        with torch.no_grad():
            squared_bqp = torch.zeros((), device=from_bpd.device)
            for axis in range(axes):
                delta_bqp = from_bpd[:, None, :, axis] - part_bqd[:, :, None, axis]
                squared_bqp = squared_bqp + _shortest(delta_bqp, periodic[axis], lengths[axis]).square()
            near_bqk = squared_bqp.topk(count, dim=-1, largest=False).indices
        along = []
        for axis in range(axes):
            of_all_bqp = from_bpd[:, None, :, axis].expand(batch, near_bqk.shape[1], -1)
            delta_bqk = of_all_bqp.gather(2, near_bqk) - part_bqd[:, :, None, axis]
            along.append(_shortest(delta_bqk, periodic[axis], lengths[axis]))
        index.append(near_bqk)
        weight.append(_local_weights(torch.stack(along, dim=-1)))
    return torch.cat(index, dim=1), torch.cat(weight, dim=1)


def weighted_sum(u_bcp: Tensor, index_bqk: Tensor, weight_bqk: Tensor) -> Tensor:
    """(B, C, Q), of the values (B, C, P) those at `index_bqk`, times `weight_bqk`, summed; both (B or 1, Q, K)."""
    index = index_bqk.flatten(1)[:, None].expand(*u_bcp.shape[:2], -1)
    taken_bcqk = u_bcp.gather(2, index).unflatten(2, index_bqk.shape[1:])
    return (taken_bcqk * weight_bqk[:, None].to(u_bcp.dtype)).sum(dim=-1)


def decoder_resize(old_patch: Sequence[int], new_patch: Sequence[int]) -> Tensor:
    """(V_old, V_new) float32: multiplied by this from the right, a head's weights (..., V_old) and biases for patches
    of `old_patch` points give the values of the same patches, interpolated to `new_patch` points."""
    return _patch_resampling(tuple(old_patch), tuple(new_patch)).T.float()


def encoder_resize(old_patch: Sequence[int], new_patch: Sequence[int]) -> Tensor:
    """(V_new, V_old) float32: multiplied by this from the left, projections (V_old, D) of patches of `old_patch`
    points take patches of `new_patch` points: as if these were interpolated to `old_patch` points first.

    FlexiViT's pseudo-inverse (arXiv 2212.08013, eq. 4) keeps the tokens of patches that were interpolated the other
    way; on smooth fields it gave tokens 3 to 20 times as far off.
    """
    return _patch_resampling(tuple(new_patch), tuple(old_patch)).T.float()


def _patch_resampling(old_patch: tuple[int, ...], new_patch: tuple[int, ...]) -> Tensor:
    """(V_new, V_old) float64: a patch's values interpolated from its own points alone."""
    whole = torch.ones(1, 1, dtype=torch.float64, device="cpu")
    for old, new in zip(old_patch, new_patch, strict=True):
        along_oi = _resampling(old, new, False, whole.device)
        whole = (whole[:, None, :, None] * along_oi[None, :, None]).flatten(2).flatten(0, 1)
    return whole


@lru_cache(maxsize=256)
def _resampling(size_in: int, size_out: int, wraps: bool, device: torch.device) -> Tensor:
    """(O, I) float64: the interpolation along one axis as a matrix."""
    with torch.inference_mode(False), torch.no_grad():
        if size_in == size_out:
            return torch.eye(size_in, dtype=torch.float64, device=device)
        host = torch.device("cpu")
        basis = torch.eye(size_in, dtype=torch.float64, device=host)
        place = (torch.arange(size_out, dtype=torch.float64, device=host) + 0.5) / size_out
        return sample_grid(basis[None], place[None, :, None], (wraps,))[0].T.contiguous().to(device)


def _with_ghosts(u: Tensor, axis: int, wraps: bool, signed: bool = True) -> Tensor:
    """The field with two more points at either end of an axis: from the other end, or in line with the last two (not
    `signed`: their sum, which is more than zero if one of them is)."""
    size = u.shape[axis]
    if wraps:
        index = [point % size for point in range(-GHOSTS, size + GHOSTS)]
        return u.index_select(axis, constant(index, u.device))
    first, last = u.narrow(axis, 0, 1), u.narrow(axis, size - 1, 1)
    second, before = u.narrow(axis, min(1, size - 1), 1), u.narrow(axis, max(size - 2, 0), 1)
    if not signed:
        return torch.cat([first + second] * GHOSTS + [u] + [last + before] * GHOSTS, dim=axis)
    low = [first + step * (first - second) for step in range(GHOSTS, 0, -1)]
    high = [last + step * (last - before) for step in range(1, GHOSTS + 1)]
    return torch.cat([*low, u, *high], dim=axis)


def _stencil(grid: Sequence[int], place_bqd: Tensor, periodic: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """(index, weight), both (B, Q, 4^d): the points of the grid with ghosts that a place's value is made of."""
    index = torch.zeros_like(place_bqd[..., :1], dtype=torch.int64)
    weight = torch.ones_like(place_bqd[..., :1])
    for axis, (size, wraps) in enumerate(zip(grid, periodic, strict=True)):
        place_bq1 = place_bqd[..., axis : axis + 1]
        place_bq1 = place_bq1 - place_bq1.floor() if wraps else place_bq1
        steps_bq1 = place_bq1 * size - 0.5
        below_bq1 = steps_bq1.detach().floor().clamp(-1, size - 1)
        weight_bq4 = _keys(steps_bq1 - below_bq1)
        along_bq4 = below_bq1.long() + constant(range(-1 + GHOSTS, 3 + GHOSTS), place_bqd.device)
        index = (index[..., None] * (size + 2 * GHOSTS) + along_bq4[..., None, :]).flatten(2)
        weight = (weight[..., None] * weight_bq4[..., None, :]).flatten(2)
    return index, weight


def _keys(t: Tensor) -> Tensor:
    """(..., 4) weights of the points at -1, 0, 1, 2 for places t (..., 1) between 0 and 1."""
    return torch.cat(
        [
            t * (-0.5 + t * (1 - 0.5 * t)),
            1 + t * t * (-2.5 + 1.5 * t),
            t * (0.5 + t * (2 - 1.5 * t)),
            t * t * (-0.5 + 0.5 * t),
        ],
        dim=-1,
    )


def _shortest(delta: Tensor, wraps: bool, length: float) -> Tensor:
    """Differences along an axis, as fractions of its length, to the nearest image, in the coordinates' unit."""
    return (delta - delta.detach().round() if wraps else delta) * length


def _local_weights(near_bqkd: Tensor) -> Tensor:
    """(B, Q, K) weights of points at distances `near_bqkd` from a place.

    u(0) = mean(u) - slope . mean(r), the means weighted by 1 / r^2, so that a point at the place is all there is; the
    slope is the least-squares fit to all K points. The weights add up to 1 and reproduce linear functions.
    """
    axes = near_bqkd.shape[-1]
    furthest = near_bqkd.detach().square().sum(dim=-1, keepdim=True).amax(dim=2, keepdim=True)
    r = near_bqkd / (furthest.sqrt() + torch.finfo(near_bqkd.dtype).tiny)  # of the order of 1
    weight = 1 / (r.square().sum(dim=-1) + 1e-12)
    weight = weight / weight.sum(dim=-1, keepdim=True)
    centred = r - r.mean(dim=2, keepdim=True)
    spread = centred.transpose(-1, -2) @ centred
    # Points in a line say nothing of the slope across it: there it is zero.
    trace = spread.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None] + 1e-12
    ridge = 1e-6 * trace * torch.eye(axes, dtype=r.dtype, device=r.device)
    inverse, _ = torch.linalg.inv_ex(spread + ridge)  # inv would wait for the device to check it
    mean_bqd1 = (weight[..., None] * r).sum(dim=2)[..., None]
    return weight - (centred @ inverse @ mean_bqd1)[..., 0]
