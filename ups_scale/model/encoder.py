"""Grid encoder: patches of the context frames become tokens of the latent lattice, 1D to 3D in one model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ups_scale.model.constants import constant
from ups_scale.model.embed import wide
from ups_scale.model.lattice import Tiling
from ups_scale.model.layout import inputs
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample, t context frame, c field, x space axes, s stream, l token, v values of a patch, d latent width.


def patch_key(patch: Sequence[int]) -> str:
    """Name of the weights for a patch shape: "4" in 1D, "4x4" in 2D."""
    return "x".join(map(str, patch))


def fields_by_patch(
    specs: Sequence[FamilySpec], tilings: Mapping[str, Tiling], dynamic: bool = False
) -> dict[str, tuple[str, ...]]:
    """For every patch shape of the families' grids, the fields cut with it, or only the `dynamic` ones, sorted."""
    fields: dict[str, set[str]] = {}
    for spec in specs:
        numbers = spec.dynamic if dynamic else inputs(spec)
        fields.setdefault(patch_key(tilings[spec.name].patch), set()).update(spec.fields[number] for number in numbers)
    return {key: tuple(sorted(names)) for key, names in sorted(fields.items())}


def to_patches(u_bcx: Tensor, tiling: Tiling) -> Tensor:
    """(B, L, C, V) patches of (B, C, *grid): tokens row-major over the lattice, V = values in a patch, row-major."""
    axes = len(tiling.grid)
    u = u_bcx
    if not tiling.exact:
        for axis in range(axes):
            index = constant([point for patch in tiling.points(axis) for point in patch], u.device)
            u = u.index_select(2 + axis, index)
    shape = list(u.shape[:2])
    for tokens, width in zip(tiling.lattice, tiling.patch, strict=True):
        shape += [tokens, width]
    lattice_axes = [2 + 2 * axis for axis in range(axes)]
    u = u.reshape(shape).permute(0, *lattice_axes, 1, *(axis + 1 for axis in lattice_axes))
    return u.reshape(u_bcx.shape[0], -1, u_bcx.shape[1], math.prod(tiling.patch))


def from_patches(patches_blcv: Tensor, tiling: Tiling) -> Tensor:
    """(B, C, *grid), the inverse of `to_patches`; a point of several patches takes the mean of their values."""
    axes = len(tiling.grid)
    batch, _, fields, _ = patches_blcv.shape
    u = patches_blcv.reshape(batch, *tiling.lattice, fields, *tiling.patch)
    order = [0, 1 + axes]
    for axis in range(axes):
        order += [1 + axis, 2 + axes + axis]
    sizes = [tokens * width for tokens, width in zip(tiling.lattice, tiling.patch, strict=True)]
    u = u.permute(order).reshape(batch, fields, *sizes)
    if tiling.exact:
        return u
    for axis, size in enumerate(tiling.grid):
        numbers = [point for patch in tiling.points(axis) for point in patch]
        shares = constant([1.0 / numbers.count(point) for point in range(size)], u.device)
        whole = u.new_zeros(*u.shape[: 2 + axis], size, *u.shape[3 + axis :])
        whole = whole.index_add(2 + axis, constant(numbers, u.device), u)
        u = whole * shares.reshape(-1, *(1,) * (axes - axis - 1))
    return u


def idle_share(modules: nn.ModuleDict, used: str) -> Tensor | float:
    """Zero, computed from every module but `used`, so that all weights take part in every backward pass.

    ZeRO-3 adds a weight's gradient to the one it kept from the optimizer step before, unless the weight took part in
    the step's first microstep: a family of another patch shape would train on stale gradients.
    """
    if not torch.is_grad_enabled():
        return 0.0
    return sum((0.0 * module.probe() for key, module in modules.items() if key != used), start=0.0)  # type: ignore[operator]


class FieldProjection(nn.Module):
    """A linear map per field, from its values at a token to the latent width; in float32."""

    def __init__(self, names: Sequence[str], num_values: int, width: int) -> None:
        super().__init__()
        self.row_names = tuple(names)
        self._num_values = num_values
        self.weight = nn.Parameter(torch.randn(len(names), num_values, width) / math.sqrt(num_values))
        self.bias = nn.Parameter(torch.zeros(len(names), width))

    def forward(self, values_blcv: Tensor, fields: Sequence[int], separated: bool = False) -> Tensor:
        """(B, S, L, D) float32 from (B, L, C, V), `fields` being the numbers of the C fields: summed over them into one
        stream (S = 1) or, if `separated`, a stream for each (S = C)."""
        index = constant(fields, values_blcv.device)
        weight, bias = wide(self.weight[index]), wide(self.bias[index])
        if separated:
            return torch.einsum("blcv,cvd->bcld", values_blcv.to(weight.dtype), weight) + bias[:, None]
        return (values_blcv.to(weight.dtype).flatten(2) @ weight.flatten(0, 1) + bias.sum(dim=0))[:, None]

    def probe(self) -> Tensor:
        """A scalar that depends on the weights, through `forward` (where ZeRO-3 gathers them)."""
        return self(torch.zeros(1, 1, 1, self._num_values, device=self.weight.device), [0]).sum()


class MissingFrames(nn.Module):
    """What stands in for each of the context frames where it isn't given: a learned vector, zero at the start."""

    def __init__(self, context_frames: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(context_frames, width))

    def forward(self, seen_bt: Tensor) -> Tensor:
        """(B, 1, 1, D) float32, the sum over the frames that `seen_bt` (B, T), bool, holds no value for."""
        return ((~seen_bt).to(wide(self.weight).dtype) @ wide(self.weight))[:, None, None]


class GridEncoder(nn.Module):
    """Tokens from patches of the normalised context frames. Each patch shape and field has its own projection; the
    projections of a patch's fields are summed into one token, or give a stream of tokens each (`channel_separated`)."""

    def __init__(
        self,
        specs: Sequence[FamilySpec],
        tilings: Mapping[str, Tiling],
        *,
        latent_dim: int,
        context_frames: int,
        channel_separated: bool,
    ) -> None:
        super().__init__()
        self._tilings = dict(tilings)
        self._separated = channel_separated
        self._fields = {}
        self.projections = nn.ModuleDict()
        fields = fields_by_patch(specs, tilings)
        for key, names in fields.items():
            num_values = context_frames * math.prod(map(int, key.split("x")))
            self.projections[key] = FieldProjection(names, num_values, latent_dim)
        for spec in specs:
            names = fields[patch_key(tilings[spec.name].patch)]
            self._fields[spec.name] = [names.index(spec.fields[number]) for number in inputs(spec)]
        self.missing = MissingFrames(context_frames, latent_dim) if context_frames > 1 else None

    def forward(self, u_btcx: Tensor, spec: FamilySpec, seen_bt: Tensor | None = None) -> Tensor:
        """(B, S, L, latent_dim) float32 from normalised context frames (B, T, C, *grid).

        `seen_bt` (B, T), bool: which frames are given (the others hold zeros); None: all.
        """
        tiling = self._tilings[spec.name]
        batch, frames = u_btcx.shape[:2]
        patches = to_patches(u_btcx.flatten(0, 1), tiling).unflatten(0, (batch, frames))  # (B, T, L, C, V)
        values_blcv = patches.permute(0, 2, 3, 1, 4).flatten(3)
        key = patch_key(tiling.patch)
        tokens_bsld = self.projections[key](values_blcv, self._fields[spec.name], self._separated)
        if self.missing is not None:
            if seen_bt is None:
                seen_bt = torch.ones(batch, frames, dtype=torch.bool, device=u_btcx.device)
            tokens_bsld = tokens_bsld + self.missing(seen_bt)
        return tokens_bsld + idle_share(self.projections, key)

    def probe(self) -> Tensor | float:
        """Zero, computed from every weight: see `idle_share`."""
        share = idle_share(self.projections, "")
        if self.missing is not None:
            device = self.missing.weight.device
            share = (
                share
                + 0.0 * self.missing(torch.zeros(1, len(self.missing.weight), dtype=torch.bool, device=device)).sum()
            )
        return share
