"""What the model is told of a domain's geometry: where a grid has no value (obstacles, land), or how points lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ups_scale.model.constants import constant

# Dimensions: b sample, x space axes, p point, k wavenumber, d axis, g feature.

MAX_AXES = 3
WAVENUMBERS = 4
NUM_FEATURES = WAVENUMBERS**MAX_AXES
NUM_BUCKETS = 1024
# Places are told apart to this share of the domain's extent; odd factors mix them into a hash.
RESOLUTION = 2**20
FACTORS = (73856093, 19349663, 83492791)
HASH_MASK = 2**40 - 1


@dataclass(frozen=True)
class Geometry:
    """Of each sample's domain: `features_bg` (B, NUM_FEATURES) float32, its lowest Fourier coefficients, and `hash_b`
    (B,) int64 >= 0, the same for the same geometry (and for a full grid 0)."""

    features_bg: Tensor
    hash_b: Tensor


def of_mask(mask_bx: Tensor, periodic: Sequence[bool]) -> Geometry:
    """The geometry of a grid that has a value where `mask_bx` (B, *grid) is True.

    A feature is the mean over the grid, of the cells without a value, of a product over the axes of cos(pi k x), with k
    from 0 to 3 and x the place from 0 to 1; on periodic axes of exp(2 pi i k x), and then the magnitude of the whole,
    so that shifting the domain changes nothing.
    """
    empty_bx = (~mask_bx).float()
    along = [
        _waves(_centres(size, mask_bx.device), wraps) for size, wraps in zip(mask_bx.shape[1:], periodic, strict=True)
    ]
    found = empty_bx.to(torch.complex64)
    for waves_xk in along:  # contracts the first space axis, and appends its wavenumbers
        found = torch.tensordot(found, waves_xk, dims=([1], [0])) / len(waves_xk)
    cells = torch.arange(empty_bx[0].numel(), device=mask_bx.device)
    mixed = (cells + 1) * FACTORS[0] ^ (cells * FACTORS[1])
    hash_b = ((~mask_bx).flatten(1) * _scramble(mixed)).sum(dim=1) & HASH_MASK
    return Geometry(_real(found, periodic), hash_b)


def of_points(place_bpd: Tensor, periodic: Sequence[bool], mask_bp: Tensor | None = None) -> Geometry:
    """The geometry of points at `place_bpd` (B, P, d), fractions of the domain, that have a value where `mask_bp` is
    True: as `of_mask`, of the points' density. The order of the points changes nothing."""
    weight_bp = place_bpd.new_ones(place_bpd.shape[:2]) if mask_bp is None else mask_bp.float()
    total_b1 = weight_bp.sum(dim=1, keepdim=True).clamp_min(1)
    found = (weight_bp / total_b1).to(torch.complex64)[..., None]
    for axis, wraps in enumerate(periodic):
        waves_bpk = _waves(place_bpd[..., axis], wraps)
        found = (found[..., None] * waves_bpk[:, :, None]).flatten(2)
    cells_bpd = (place_bpd * RESOLUTION).round().long()
    mixed = sum(
        (cells_bpd[..., axis] * FACTORS[axis] for axis in range(len(periodic))),
        start=torch.zeros_like(cells_bpd[..., 0]),
    )
    hash_b = (_scramble(mixed) * (weight_bp > 0)).sum(dim=1) & HASH_MASK
    features = found.sum(dim=1).reshape(-1, *(WAVENUMBERS,) * len(periodic))
    # The mean of the constant wave is 1 whatever the geometry; of interest is how many points have no value.
    share_b = 1 - weight_bp.mean(dim=1)
    constant_wave = torch.zeros_like(features[:1])
    constant_wave.view(-1)[0] = 1
    features = features * (1 - constant_wave) + constant_wave * share_b.reshape(-1, *(1,) * len(periodic))
    return Geometry(_real(features, periodic), hash_b)


def _centres(size: int, device: torch.device) -> Tensor:
    return (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size


def _waves(place: Tensor, wraps: bool) -> Tensor:
    """(..., K) complex64."""
    wavenumbers = constant([float(k) for k in range(WAVENUMBERS)], place.device)
    angle = place[..., None].float() * wavenumbers * (2 * math.pi if wraps else math.pi)
    return torch.complex(angle.cos(), angle.sin() if wraps else torch.zeros_like(angle))


def _real(found_bk: Tensor, periodic: Sequence[bool]) -> Tensor:
    """(B, NUM_FEATURES) from (B, K, ... per axis); wavenumbers of axes that there aren't are 0."""
    real = found_bk.abs() if any(periodic) else found_bk.real
    for _ in range(MAX_AXES - len(periodic)):
        real = torch.stack([real, *[torch.zeros_like(real)] * (WAVENUMBERS - 1)], dim=-1)
    return real.flatten(1)


def _scramble(values: Tensor) -> Tensor:
    """int64 values mixed so that sums of different sets of them differ; within 40 bits."""
    mixed = values ^ (values >> 13)
    mixed = (mixed * 1274126177) & HASH_MASK
    return (mixed ^ (mixed >> 17)) & HASH_MASK
