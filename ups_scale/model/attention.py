"""Self-attention over lattice tokens with normalised queries and keys and rotary positions per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.model.embed import wide
from ups_scale.model.lattice import positions

# Dimensions: b sequence, w window, h head, l token, e head width, d model width, r rotated pair.

MAX_WAVENUMBER = 16

# CUDA's attention kernels take no more sequences at once: the batch is one dimension of the launch grid.
MAX_SEQUENCES = 65535


def place_angles(place: Tensor, periodic: Sequence[bool], num_pairs: int) -> Tensor:
    """(..., R) float32 angles that rotate the pairs of queries and keys at places (..., d), fractions of the domain
    (RoFormer, arXiv 2104.09864, per axis).

    The pairs are divided among the axes. On a periodic axis the angle is 2 pi n x with whole n, so attention depends on
    the distance around the circle; elsewhere it is pi n x with n from 1/2 on, so the two ends differ. Wavenumbers go
    geometrically up to 16 whatever the lattice, so the same distance means the same at every resolution.
    """
    per_axis = num_pairs // len(periodic)
    exponent = torch.linspace(0, 1, per_axis, device=place.device)
    whole = 2 * math.pi * torch.round(MAX_WAVENUMBER**exponent)
    half = math.pi * 0.5 * (2 * MAX_WAVENUMBER) ** exponent
    angles = [place[..., axis : axis + 1] * (whole if wraps else half) for axis, wraps in enumerate(periodic)]
    return F.pad(torch.cat(angles, dim=-1), (0, num_pairs - per_axis * len(periodic)))


def rotary_angles(
    lattice: Sequence[int], periodic: Sequence[bool], num_pairs: int, device: torch.device | None = None
) -> Tensor:
    """(L, R) float32, the `place_angles` of a lattice's tokens."""
    return place_angles(positions(lattice, device), periodic, num_pairs)


def rotate(x_bhle: Tensor, cos_lr: Tensor, sin_lr: Tensor) -> Tensor:
    """x with its first and second halves rotated against each other, pair by pair."""
    first, second = x_bhle.chunk(2, dim=-1)
    return torch.cat([first * cos_lr - second * sin_lr, first * sin_lr + second * cos_lr], dim=-1)


class RMSNorm32(nn.Module):
    """Root-mean-square normalisation with a gain, computed in float32, or float64 (arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = wide(self.weight)
        return F.rms_norm(x.to(weight.dtype), weight.shape, weight, 1e-6)


def attend(q_bhle: Tensor, k_bhle: Tensor, v_bhle: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention by the fused kernels, for any number of sequences b; `mask` (B, 1, L, L), bool."""
    parts = []
    for start in range(0, len(q_bhle), MAX_SEQUENCES):
        some = slice(start, start + MAX_SEQUENCES)
        seen = None if mask is None else mask[some]
        parts.append(F.scaled_dot_product_attention(q_bhle[some], k_bhle[some], v_bhle[some], attn_mask=seen))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Attention(nn.Module):
    """Multi-head self-attention within each sequence: a lattice, a window of it, or the streams at one place.

    `qk_rmsnorm` normalises queries and keys per head before the product, which keeps the logits bounded.
    """

    def __init__(self, model_dim: int, num_heads: int, qk_rmsnorm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(model_dim, 3 * model_dim)
        self.out = nn.Linear(model_dim, model_dim)
        self.q_norm = RMSNorm32(model_dim // num_heads) if qk_rmsnorm else nn.Identity()
        self.k_norm = RMSNorm32(model_dim // num_heads) if qk_rmsnorm else nn.Identity()

    def forward(
        self,
        x_bld: Tensor,
        cos_lr: Tensor | None = None,
        sin_lr: Tensor | None = None,
        mask_wll: Tensor | None = None,
    ) -> Tensor:
        """(B, L, D) in the weights' dtype from (B, L, D) in the same.

        Args:
            x_bld: the sequences; where they are windows, the W windows of a lattice follow each other.
            cos_lr: cosines of the rotary angles, float32; None: tokens have no positions.
            sin_lr: their sines.
            mask_wll: (W, L, L) bool, which token (row) sees which; None: all see all.
        """
        q, k, v = self.qkv(x_bld).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if cos_lr is not None and sin_lr is not None:
            q, k = rotate(q, cos_lr, sin_lr), rotate(k, cos_lr, sin_lr)
        mask = None
        if mask_wll is not None:
            mask = mask_wll[:, None].expand(len(q) // len(mask_wll), -1, -1, -1, -1).flatten(0, 1)
        mixed_bhle = attend(q.to(v.dtype), k.to(v.dtype), v, mask)
        return self.out(mixed_bhle.transpose(1, 2).flatten(2))
