"""Patch decoder: every token gives the values of the fields in its patch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ups_scale.model.blocks import modulate, zero_init
from ups_scale.model.constants import constant
from ups_scale.model.embed import Linear32, wide
from ups_scale.model.encoder import fields_by_patch, from_patches, idle_share, patch_key
from ups_scale.model.lattice import Tiling
from ups_scale.model.layout import inputs
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample, s stream, l token, c field, v values of a patch, d latent width, x space axes.


def dynamic_streams(z_bsld: Tensor, spec: FamilySpec) -> Tensor:
    """The streams that the predicted fields are read from: theirs (B, C, L, D), or the only one (B, 1, L, D)."""
    if z_bsld.shape[1] == 1:
        return z_bsld
    streams = [inputs(spec).index(number) for number in spec.dynamic]
    return z_bsld if len(streams) == z_bsld.shape[1] else z_bsld[:, constant(streams, z_bsld.device)]


class FieldHead(nn.Module):
    """A linear map per field from a token to values; in float32. `zero`: it starts at zero."""

    def __init__(self, names: Sequence[str], width: int, num_values: int, zero: bool) -> None:
        super().__init__()
        self.row_names = tuple(names)
        self._width = width
        shape = (len(names), width, num_values)
        self.weight = nn.Parameter(torch.zeros(shape) if zero else torch.randn(shape) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(len(names), num_values))

    def forward(self, z_bsld: Tensor, fields: Sequence[int]) -> Tensor:
        """(B, L, C, V) float32 from tokens (B, S, L, D), S = 1 or a stream for each of the C fields, whose numbers are
        `fields`."""
        index = constant(fields, z_bsld.device)
        weight, bias = wide(self.weight[index]), wide(self.bias[index])
        if z_bsld.shape[1] == 1:
            return torch.einsum("bld,cdv->blcv", z_bsld[:, 0].to(weight.dtype), weight) + bias
        return torch.einsum("bcld,cdv->blcv", z_bsld.to(weight.dtype), weight) + bias

    def probe(self) -> Tensor:
        """A scalar that depends on the weights, through `forward` (where ZeRO-3 gathers them)."""
        return self(torch.zeros(1, 1, 1, self._width, device=self.weight.device), [0]).sum()


class PatchDecoder(nn.Module):
    """The dynamic fields' normalised values, or change, at the points of the grid, from the latent tokens. `zero`: it
    starts at zero, so that a model that adds its output to the last frame starts as persistence."""

    def __init__(
        self,
        specs: Sequence[FamilySpec],
        tilings: Mapping[str, Tiling],
        *,
        latent_dim: int,
        condition_dim: int,
        zero: bool,
    ) -> None:
        super().__init__()
        self._tilings = dict(tilings)
        self._fields = {}
        self.modulation = zero_init(Linear32(condition_dim, 2 * latent_dim))
        self.heads = nn.ModuleDict()
        fields = fields_by_patch(specs, tilings, dynamic=True)
        for key, names in fields.items():
            self.heads[key] = FieldHead(names, latent_dim, math.prod(map(int, key.split("x"))), zero)
        for spec in specs:
            names = fields[patch_key(tilings[spec.name].patch)]
            self._fields[spec.name] = [names.index(spec.fields[number]) for number in spec.dynamic]

    def forward(self, z_bsld: Tensor, condition_bd: Tensor, spec: FamilySpec) -> Tensor:
        """(B, C, *grid) float32, C the dynamic fields, from latent tokens (B, S, L, latent_dim) and conditions
        (B, condition_dim)."""
        tiling = self._tilings[spec.name]
        shift_bd, scale_bd = self.modulation(condition_bd).chunk(2, dim=-1)
        normed_bsld = modulate(dynamic_streams(z_bsld, spec), shift_bd, scale_bd)
        key = patch_key(tiling.patch)
        patches_blcv = self.heads[key](normed_bsld, self._fields[spec.name])
        return from_patches(patches_blcv + idle_share(self.heads, key), tiling)

    def probe(self) -> Tensor | float:
        """Zero, computed from every weight: see `idle_share`."""
        condition_bd = torch.zeros(1, self.modulation.in_features, device=self.modulation.weight.device)
        return idle_share(self.heads, "") + 0.0 * self.modulation(condition_bd).sum()
