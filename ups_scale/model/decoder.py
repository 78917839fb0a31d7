"""Patch decoder: every token gives the change of the fields in its patch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ups_scale.model.blocks import modulate, zero_init
from ups_scale.model.constants import constant
from ups_scale.model.embed import Linear32
from ups_scale.model.encoder import fields_by_patch, from_patches, idle_share, patch_key
from ups_scale.model.lattice import patch_shape
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample, l token, c field, v values of a patch, d latent width, x space axes.


class FieldHead(nn.Module):
    """A linear map per field from a token to the values of its patch; in float32, and zero at the start."""

    def __init__(self, num_fields: int, width: int, num_values: int) -> None:
        super().__init__()
        self._width = width
        self.weight = nn.Parameter(torch.zeros(num_fields, width, num_values))
        self.bias = nn.Parameter(torch.zeros(num_fields, num_values))

    def forward(self, z_bld: Tensor, fields: Sequence[int]) -> Tensor:
        """(B, L, C, V) float32, `fields` being the numbers of the C fields."""
        index = constant(fields, z_bld.device)
        return torch.einsum("bld,cdv->blcv", z_bld.float(), self.weight[index].float()) + self.bias[index].float()

    def probe(self) -> Tensor:
        """A scalar that depends on the weights, through `forward` (where ZeRO-3 gathers them)."""
        return self(torch.zeros(1, 1, self._width, device=self.weight.device), [0]).sum()


class PatchDecoder(nn.Module):
    """The dynamic fields' normalised change from the latent tokens. Zero at the start: the untrained model is
    persistence."""

    def __init__(
        self, specs: Sequence[FamilySpec], *, patch_size: int, latent_tokens: int, latent_dim: int, condition_dim: int
    ) -> None:
        super().__init__()
        self._patch = {spec.name: patch_shape(spec.grid, patch_size, latent_tokens) for spec in specs}
        self._fields = {}
        self.modulation = zero_init(Linear32(condition_dim, 2 * latent_dim))
        self.heads = nn.ModuleDict()
        fields = fields_by_patch(specs, patch_size, latent_tokens, dynamic=True)
        for key, names in fields.items():
            self.heads[key] = FieldHead(len(names), latent_dim, math.prod(map(int, key.split("x"))))
        for spec in specs:
            names = fields[patch_key(self._patch[spec.name])]
            self._fields[spec.name] = [names.index(spec.fields[number]) for number in spec.dynamic]

    def forward(self, z_bld: Tensor, condition_bd: Tensor, spec: FamilySpec) -> Tensor:
        """(B, C, *grid) float32, C the dynamic fields, from latent tokens (B, L, latent_dim) and conditions
        (B, condition_dim)."""
        patch = self._patch[spec.name]
        shift, scale = self.modulation(condition_bd).chunk(2, dim=-1)
        patches = self.heads[patch_key(patch)](modulate(z_bld, shift, scale), self._fields[spec.name])
        return from_patches(patches + idle_share(self.heads, patch_key(patch)), patch, spec.grid)
