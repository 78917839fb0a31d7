"""Grid encoder: patches of the context frames become tokens of the latent lattice, 1D to 3D in one model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ups_scale.model.constants import constant
from ups_scale.model.lattice import patch_shape
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample, t context frame, c field, x space axes, l token, v values of a patch, d latent width.


def patch_key(patch: Sequence[int]) -> str:
    """Name of the weights for a patch shape: "4" in 1D, "4x4" in 2D."""
    return "x".join(map(str, patch))


def fields_by_patch(
    specs: Sequence[FamilySpec], patch_size: int, latent_tokens: int, dynamic: bool = False
) -> dict[str, list[str]]:
    """For every patch shape that the families' grids need, the names of the fields (or only the `dynamic` ones) cut
    with it."""
    fields: dict[str, set[str]] = {}
    for spec in specs:
        key = patch_key(patch_shape(spec.grid, patch_size, latent_tokens))
        numbers = spec.dynamic if dynamic else range(len(spec.fields))
        fields.setdefault(key, set()).update(spec.fields[number] for number in numbers)
    return {key: sorted(names) for key, names in sorted(fields.items())}


def to_patches(u_bcx: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, L, C, V) patches of (B, C, *grid): tokens row-major over the lattice, V = values in a patch, row-major."""
    axes = len(patch)
    shape = list(u_bcx.shape[:2])
    for size, edge in zip(u_bcx.shape[2:], patch, strict=True):
        shape += [size // edge, edge]
    lattice_axes = [2 + 2 * axis for axis in range(axes)]
    u = u_bcx.reshape(shape).permute(0, *lattice_axes, 1, *(axis + 1 for axis in lattice_axes))
    return u.reshape(u_bcx.shape[0], -1, u_bcx.shape[1], math.prod(patch))


def from_patches(patches_blcv: Tensor, patch: Sequence[int], grid: Sequence[int]) -> Tensor:
    """(B, C, *grid), the inverse of `to_patches`."""
    axes = len(patch)
    batch, _, fields, _ = patches_blcv.shape
    lattice = [size // edge for size, edge in zip(grid, patch, strict=True)]
    u = patches_blcv.reshape(batch, *lattice, fields, *patch)
    order = [0, 1 + axes]
    for axis in range(axes):
        order += [1 + axis, 2 + axes + axis]
    return u.permute(order).reshape(batch, fields, *grid)


def idle_share(modules: nn.ModuleDict, used: str) -> Tensor | float:
    """Zero, computed from every module but `used`, so that all weights take part in every backward pass.

    ZeRO-3 adds a weight's gradient to the one it kept from the optimizer step before, unless the weight took part in
    the step's first microstep: a family of another patch shape would train on stale gradients.
    """
    if not torch.is_grad_enabled():
        return 0.0
    return sum((0.0 * module.probe() for key, module in modules.items() if key != used), start=0.0)  # type: ignore[operator]


class FieldProjection(nn.Module):
    """A linear map per field, summed over the fields present; in float32."""

    def __init__(self, num_fields: int, num_values: int, width: int) -> None:
        super().__init__()
        self._num_values = num_values
        self.weight = nn.Parameter(torch.randn(num_fields, num_values, width) / math.sqrt(num_values))
        self.bias = nn.Parameter(torch.zeros(num_fields, width))

    def forward(self, values_blcv: Tensor, fields: Sequence[int]) -> Tensor:
        """(B, L, D) float32 from (B, L, C, V), `fields` being the numbers of the C fields."""
        index = constant(fields, values_blcv.device)
        weight = self.weight[index].flatten(0, 1).float()
        return values_blcv.float().flatten(2) @ weight + self.bias[index].float().sum(dim=0)

    def probe(self) -> Tensor:
        """A scalar that depends on the weights, through `forward` (where ZeRO-3 gathers them)."""
        return self(torch.zeros(1, 1, 1, self._num_values, device=self.weight.device), [0]).sum()


class GridEncoder(nn.Module):
    """Tokens from patches of the normalised context frames. Each patch shape and field has its own projection; the
    projections of a patch's fields are summed into one token."""

    def __init__(
        self, specs: Sequence[FamilySpec], *, patch_size: int, latent_tokens: int, latent_dim: int, context_frames: int
    ) -> None:
        super().__init__()
        self._patch = {spec.name: patch_shape(spec.grid, patch_size, latent_tokens) for spec in specs}
        self._fields = {}
        self.projections = nn.ModuleDict()
        fields = fields_by_patch(specs, patch_size, latent_tokens)
        for key, names in fields.items():
            num_values = context_frames * math.prod(map(int, key.split("x")))
            self.projections[key] = FieldProjection(len(names), num_values, latent_dim)
        for spec in specs:
            names = fields[patch_key(self._patch[spec.name])]
            self._fields[spec.name] = [names.index(field) for field in spec.fields]

    def forward(self, u_btcx: Tensor, spec: FamilySpec) -> Tensor:
        """(B, L, latent_dim) float32 from normalised context frames (B, T, C, *grid)."""
        patch = self._patch[spec.name]
        batch, frames = u_btcx.shape[:2]
        patches = to_patches(u_btcx.flatten(0, 1), patch).unflatten(0, (batch, frames))  # (B, T, L, C, V)
        values_blcv = patches.permute(0, 2, 3, 1, 4).flatten(3)
        tokens_bld = self.projections[patch_key(patch)](values_blcv, self._fields[spec.name])
        return tokens_bld + idle_share(self.projections, patch_key(patch))
