"""Embeddings of scalars and of the conditions of a simulation into one vector per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.model.constants import constant
from ups_scale.model.geometry import MAX_AXES, NUM_BUCKETS, NUM_FEATURES, Geometry
from ups_scale.model.layout import inputs
from ups_scale.physics.families import BOUNDARY_KINDS, FamilySpec

# Dimensions: b sample, p parameter, c field, s scalar of a group, f feature, d width.

NUM_FREQUENCIES = 4


def wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is: for the ends of the network, where bf16 costs accuracy."""
    return x if x.dtype == torch.float64 else x.float()


class Linear32(nn.Linear):
    """A linear map computed in float32 whatever the weights' type (float64 if they are): for the ends of the network,
    where bf16 costs accuracy and float32 costs little."""

    def forward(self, x: Tensor) -> Tensor:
        weight = wide(self.weight)
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        return F.linear(x.to(weight.dtype), weight, bias)


class Table(nn.Embedding):
    """A learned vector for each of `names`."""

    def __init__(self, names: Sequence[str], width: int) -> None:
        super().__init__(len(names), width)
        self.row_names = tuple(names)


class ScalarEmbedding(nn.Module):
    """Sum of the embeddings of named scalars: log10 of the magnitude, its learned Fourier features, and the sign.

    Each name has its own weights, and a learned null for where the value is missing (NaN).
    """

    def __init__(self, names: Sequence[str], width: int) -> None:
        super().__init__()
        self.row_names = tuple(names)
        num_names = len(names)
        num_features = 2 + 2 * NUM_FREQUENCIES
        self.frequency = nn.Parameter((math.pi * 2.0 ** torch.arange(NUM_FREQUENCIES)).repeat(num_names, 1))
        self.weight = nn.Parameter(torch.randn(num_names, num_features, width) / math.sqrt(num_features))
        self.null = nn.Parameter(torch.zeros(num_names, width))

    def forward(self, value_bs: Tensor, names: Tensor, keep_b1: Tensor | None) -> Tensor:
        """(B, width) float32 from values (B, S) of the S names whose numbers are `names`; where `keep_b1` (B, 1) is
        False, the null instead."""
        present = torch.isfinite(value_bs)
        if keep_b1 is not None:
            present = present & keep_b1
        value = wide(torch.where(present, value_bs, torch.ones_like(value_bs)))
        magnitude = torch.log10(value.abs() + 1e-12)
        angle = magnitude[..., None] * wide(self.frequency[names])
        features = torch.cat([magnitude[..., None], value.sign()[..., None], angle.sin(), angle.cos()], dim=-1)
        embedded = torch.einsum("bsf,sfd->bsd", features, wide(self.weight[names]))
        return torch.where(present[..., None], embedded, wide(self.null[names])).sum(dim=1)


class GeometryEmbedding(nn.Module):
    """The embedding of a domain's features and, if `hashed`, of its hash; a learned null where it isn't shown. All
    start at zero. Nothing for a full grid, which has no geometry to speak of."""

    def __init__(self, width: int, hashed: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(NUM_FEATURES, width))
        self.null = nn.Parameter(torch.zeros(width))
        self.buckets = nn.Parameter(torch.zeros(NUM_BUCKETS, width)) if hashed else None

    def forward(self, geometry: Geometry | None, keep_b1: Tensor | None) -> Tensor:
        """(B, width) float32 of the geometries where `keep_b1` (B, 1) is not False; (1, width) of zeros for None."""
        weight, null = wide(self.weight), wide(self.null)
        if geometry is None:
            unused = weight.sum() + null.sum() + (0.0 if self.buckets is None else wide(self.buckets).sum())
            return torch.zeros_like(null)[None] + 0.0 * unused
        embedded = geometry.features_bg.to(weight.dtype) @ weight
        if self.buckets is not None:
            embedded = embedded + wide(self.buckets[geometry.hash_b % NUM_BUCKETS])
        if keep_b1 is None:
            return embedded + 0.0 * null
        return torch.where(keep_b1, embedded, null)


class Conditioner(nn.Module):
    """One vector per sample from what is known of its simulation: family, parameters, dt, boundary kinds, extents of
    the domain, the scale of its fields (most families are not scale-invariant, and the fields come normalised), and the
    geometry where there is one (`model/geometry.py`).

    Args:
        specs: the families, in a fixed order.
        width: size of the vector.
        use: for each condition (family, parameters, dt, boundary, extents, scale, geometry, geometry_hash) whether it
            is given at all.
        dropout: in training, probability per sample that a condition is replaced by its learned null.
    """

    def __init__(self, specs: Sequence[FamilySpec], width: int, use: Mapping[str, bool], dropout: float) -> None:
        super().__init__()
        self.use, self.dropout = dict(use), dropout
        families = list(dict.fromkeys(spec.family for spec in specs))  # variants share what is learned of the family
        parameters = sorted({name for spec in specs for name in spec.parameters})
        fields = sorted({spec.fields[number] for spec in specs for number in inputs(spec)})
        self._family_id = {name: number + 1 for number, name in enumerate(families)}  # 0 is the null
        self._parameter_ids = {spec.name: [parameters.index(name) for name in spec.parameters] for spec in specs}
        self._field_ids = {spec.name: [fields.index(spec.fields[number]) for number in inputs(spec)] for spec in specs}
        self.family = Table(["", *families], width)
        self.parameter_values = ScalarEmbedding(parameters or [""], width)
        self.dt = ScalarEmbedding(["dt"], width)
        self.boundary = nn.Embedding(MAX_AXES * 2 * len(BOUNDARY_KINDS) + 1, width)  # the last is the null
        self.extents = ScalarEmbedding(["x", "y", "z"], width)
        self.scale = ScalarEmbedding(fields, width)
        self.geometry = GeometryEmbedding(width, use["geometry_hash"]) if use["geometry"] else None
        for table in (self.family, self.boundary):
            nn.init.normal_(table.weight, std=0.5)
        self.hidden = Linear32(width, width)
        self.out = Linear32(width, width)

    def forward(
        self, spec: FamilySpec, parameters_bp: Tensor, dt_b: Tensor, rms_bc: Tensor, geometry: Geometry | None = None
    ) -> Tensor:
        """(B, width) float32.

        Args:
            spec: the family, one of those given at construction (by name).
            parameters_bp: (B, P), NaN where not stated.
            dt_b: (B,) time to the next frame in s; NaN if there is none or it isn't known.
            rms_bc: (B, C) root mean square of each field over the context frames.
            geometry: where the domain is, of a family that has obstacles or is a point set; None for a full grid.
        """
        device, batch = dt_b.device, len(dt_b)

        family = constant([self._family_id[spec.family]], device).expand(batch)
        keep = self._keep(batch, "family", device)
        c_bd = wide(self.family(family if keep is None else torch.where(keep[:, 0], family, 0)))

        keep = self._keep(batch, "parameters", device)
        c_bd = c_bd + self.parameter_values(parameters_bp, constant(self._parameter_ids[spec.name], device), keep)
        c_bd = c_bd + self.dt(dt_b[:, None], constant([0], device), self._keep(batch, "dt", device))

        kinds = [
            (axis * 2 + side) * len(BOUNDARY_KINDS) + BOUNDARY_KINDS.index(kind)
            for axis, sides in enumerate(spec.boundaries)
            for side, kind in enumerate(sides)
        ]
        kinds_bs = constant(kinds, device).expand(batch, -1)
        keep = self._keep(batch, "boundary", device)
        null = self.boundary.num_embeddings - 1
        c_bd = c_bd + wide(self.boundary(kinds_bs if keep is None else torch.where(keep, kinds_bs, null))).mean(dim=1)

        lengths = constant([float(high - low) for low, high in spec.extents], device).expand(batch, -1)
        axes = constant(range(len(spec.extents)), device)
        c_bd = c_bd + self.extents(lengths, axes, self._keep(batch, "extents", device))
        fields = constant(self._field_ids[spec.name], device)
        if spec.coordinates:  # the size of the places says nothing, and would tell a shifted domain from itself
            rms_bc = rms_bc[:, constant(inputs(spec), device)]
        c_bd = c_bd + self.scale(rms_bc, fields, self._keep(batch, "scale", device))
        if self.geometry is not None:
            keep = None if geometry is None else self._keep(batch, "geometry", device)
            c_bd = c_bd + self.geometry(geometry, keep)
        return self.out(F.silu(self.hidden(c_bd)))

    def _keep(self, batch: int, condition: str, device: torch.device) -> Tensor | None:
        """(B, 1) bool: for which samples the condition is shown; None means all."""
        if not self.use[condition]:
            return torch.zeros(batch, 1, dtype=torch.bool, device=device)
        if self.training and self.dropout > 0:
            return torch.rand(batch, 1, device=device) >= self.dropout
        return None
