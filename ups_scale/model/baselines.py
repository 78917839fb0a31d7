"""Other people's networks on the grid, to compare with: FNO, U-Net and PDE-Transformer behind ends of our own.

    fields -> Lifting -> Trunks, one network per number of axes -> PointHead -> change, or values

The ends are linear maps at every point, with weights of their own for each family; a trunk is shared by all families of
as many axes. The conditions come in as channels that are the same at every point.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.errors import RecipeError
from ups_scale.model.decoder import FieldHead
from ups_scale.model.embed import wide
from ups_scale.model.encoder import FieldProjection, MissingFrames, idle_share
from ups_scale.model.layout import inputs
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe.presets import UNET_GROUPS, WIDTHS_OF_PDE_TRANSFORMER

# Dimensions: b sample, t context frame, c field, a space axis, x space axes, l point, d width.

DEFAULT_MODES = (32, 16, 8)  # of FNO along each axis, for families of 1, 2 and 3 axes
UNET_STRIDE = 16  # points along an axis that are one at U-Net's coarsest level
UNET_WIDTHS = (1, 1, 2, 4, 8, 1)  # of BasicUNet's levels down and of the last one up, over the finest one's
PDE_TRANSFORMERS = dict(zip(WIDTHS_OF_PDE_TRANSFORMER, ("PDE-S", "PDE-B", "PDE-L"), strict=True))
PDE_TRANSFORMER_STRIDE = 16  # a patch of 4 points, halved twice

AXES = "xyz"
INSTALL = {
    "neuralop": "pip install 'ups_scale[zoo]'",
    "monai": "pip install 'ups_scale[zoo]'",
    "pdetransformer": "pip install --no-deps pdetransformer==0.1.11 diffusers timm, and pip install einops",
}


def check_grid(spec: FamilySpec, operator: str) -> None:
    """Raises a `RecipeError` if the network `operator` can't take the family's grid."""
    leave = "leave the family out (data.families)"
    if spec.geometry == "points":
        raise RecipeError(f'family {spec.name} is a point set, and model.operator "{operator}" needs a grid: {leave}')
    grid = " x ".join(map(str, spec.grid))
    if operator == "unet" and min(spec.grid) < UNET_STRIDE:
        raise RecipeError(
            f'family {spec.name} has a grid of {grid} points, which model.operator "unet" halves 4 times: it needs at '
            f"least {UNET_STRIDE} along each axis; {leave}"
        )
    if operator == "pdetransformer" and (
        spec.dimensions != 2 or any(size % PDE_TRANSFORMER_STRIDE for size in spec.grid)
    ):
        raise RecipeError(
            f'family {spec.name} has a grid of {grid} points; model.operator "pdetransformer" takes 2 axes of '
            f"multiples of {PDE_TRANSFORMER_STRIDE} points: {leave}"
        )


class Lifting(nn.Module):
    """Features at every point: a linear map, per family, of the normalised context frames of its input fields and of
    the point's place along axes that aren't periodic."""

    def __init__(self, specs: Sequence[FamilySpec], *, width: int, context_frames: int) -> None:
        super().__init__()
        self._width = width
        fields = sorted({row for spec in specs for row in _rows(spec, inputs(spec))})
        axes = sorted({row for spec in specs for row in _axis_rows(spec)})
        self._fields = {spec.name: [fields.index(row) for row in _rows(spec, inputs(spec))] for spec in specs}
        self._axes = {spec.name: [axes.index(row) for row in _axis_rows(spec)] for spec in specs}
        self.fields = FieldProjection(fields, context_frames, width)
        self.places = FieldProjection(axes, 1, width) if axes else None
        self.missing = MissingFrames(context_frames, width) if context_frames > 1 else None

    def forward(self, u_btcx: Tensor, spec: FamilySpec, seen_bt: Tensor | None = None) -> Tensor:
        """(B, width, *grid) float32 from normalised context frames (B, T, C, *grid).

        `seen_bt` (B, T), bool: which frames are given (the others hold zeros); None: all.
        """
        batch, frames, _, *grid = u_btcx.shape
        numbers = inputs(spec)
        shown_btcx = u_btcx if len(numbers) == u_btcx.shape[2] else u_btcx[:, :, list(numbers)]
        values_blct = shown_btcx.flatten(3).permute(0, 3, 2, 1)
        x_bld = self.fields(values_blct, self._fields[spec.name])[:, 0]
        if self.places is not None:
            axes = self._axes[spec.name]
            x_bld = x_bld + (
                self.places(_places(grid, spec, u_btcx.device), axes)[:, 0] if axes else 0.0 * self.places.probe()
            )
        if self.missing is not None:
            if seen_bt is None:
                seen_bt = torch.ones(batch, frames, dtype=torch.bool, device=u_btcx.device)
            x_bld = x_bld + self.missing(seen_bt)[:, 0]
        return x_bld.transpose(1, 2).unflatten(2, grid)


class PointHead(nn.Module):
    """The dynamic fields' normalised values, or change, from the features at each point: a linear map per family that
    starts at zero."""

    def __init__(self, specs: Sequence[FamilySpec], *, width: int) -> None:
        super().__init__()
        fields = sorted({row for spec in specs for row in _rows(spec, spec.dynamic)})
        self._fields = {spec.name: [fields.index(row) for row in _rows(spec, spec.dynamic)] for spec in specs}
        self.fields = FieldHead(fields, width, 1, zero=True)

    def forward(self, x_bdx: Tensor, condition_bd: Tensor, spec: FamilySpec) -> Tensor:
        """(B, C, *grid) float32, C the dynamic fields, from features (B, width, *grid); conditions are in these."""
        values_blc = self.fields(x_bdx.flatten(2).transpose(1, 2)[:, None], self._fields[spec.name])[..., 0]
        return values_blc.transpose(1, 2).unflatten(2, x_bdx.shape[2:])


class Trunks(nn.Module):
    """The networks, one for each number of axes that the families have.

    Args:
        specs: the families.
        settings: a recipe's `model` section.
    """

    def __init__(self, specs: Sequence[FamilySpec], settings: Mapping[str, Any]) -> None:
        super().__init__()
        make = MAKERS[settings["operator"]]
        by_axes: dict[int, list[FamilySpec]] = {}
        for spec in specs:
            by_axes.setdefault(spec.dimensions, []).append(spec)
        self.trunks = nn.ModuleDict({str(axes): make(axes, settings, of) for axes, of in sorted(by_axes.items())})
        # How a network is called: engine/remat.py replaces it to recompute activations in the backward pass.
        self.run_block: Callable[..., Tensor] = lambda trunk, *inputs: trunk(*inputs)

    def forward(self, x_bdx: Tensor, condition_bd: Tensor, lattice: Sequence[int], periodic: Sequence[bool]) -> Tensor:
        """(B, D, *grid) float32 from the same; `condition_bd` (B, D) float32 is added at every point."""
        key = str(len(periodic))
        x_bdx = x_bdx + condition_bd.reshape(*condition_bd.shape, *(1,) * len(periodic))
        return wide(self.run_block(self.trunks[key], x_bdx, tuple(periodic))) + idle_share(self.trunks, key)


class Trunk(nn.Module, ABC):
    """A network that takes features (B, D, *grid) and which axes are periodic, and gives features of the same shape."""

    @abstractmethod
    def forward(self, x_bdx: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        """(B, D, *grid) float32 from the same."""

    def probe(self) -> Tensor:
        """A scalar that depends on all weights."""
        return torch.stack([weight.sum() for weight in self.parameters()]).sum()


class FourierTrunk(Trunk):
    """The Fourier layers of neuraloperator's FNO (arXiv 2010.08895) and its pointwise network behind them. Computed in
    float32."""

    def __init__(self, axes: int, settings: Mapping[str, Any], specs: Sequence[FamilySpec]) -> None:
        super().__init__()
        _require("neuralop", "fno")
        from neuralop.layers.channel_mlp import ChannelMLP  # type: ignore[import-untyped, unused-ignore]
        from neuralop.layers.fno_block import FNOBlocks  # type: ignore[import-untyped, unused-ignore]

        width, depth = settings["model_dim"], settings["depth"]
        modes = (settings["modes"] or DEFAULT_MODES)[axes - 1]
        self._depth = depth
        self.blocks = FNOBlocks(width, width, (modes,) * axes, n_layers=depth)
        for conv in self.blocks.convs:
            weight = conv.weight.to_tensor()
            del conv.weight
            conv.weight = SpectralWeight(weight)
        self.projection = ChannelMLP(width, width, hidden_channels=2 * width, n_layers=2, n_dim=axes)

    def forward(self, x_bdx: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        for layer in range(self._depth):
            x_bdx = self.blocks(x_bdx, layer)
        return self.projection(x_bdx)


class SpectralWeight(nn.Module):
    """The complex weights of a Fourier layer kept as pairs of real numbers, which is what optimizers, moving averages
    and files of weights are for."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.view_as_real(weight.detach()).clone())

    def __getitem__(self, kept: Any) -> Tensor:
        """The complex weights of the modes `kept`, as the layer asks for them."""
        return torch.view_as_complex(self.weight)[kept]


class UNetTrunk(Trunk):
    """MONAI's BasicUNet (after doi:10.1038/s41592-018-0261-2), its convolutions padded by each axis' own kind, and a
    way past it: what is normalised in its levels has lost its size."""

    def __init__(self, axes: int, settings: Mapping[str, Any], specs: Sequence[FamilySpec]) -> None:
        super().__init__()
        _require("monai", "unet")
        from monai.networks.nets.basic_unet import BasicUNet  # type: ignore[import-untyped, unused-ignore]

        width = settings["model_dim"]
        self.net = BasicUNet(
            spatial_dims=axes,
            in_channels=width,
            out_channels=width,
            features=tuple(width * times for times in UNET_WIDTHS),
            norm=("group", {"num_groups": UNET_GROUPS}),
        )
        self._edges = _Edges(axes)
        for module in list(self.net.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Conv1d | nn.Conv2d | nn.Conv3d) and any(child.padding):
                    setattr(module, name, EdgeConv(child, self._edges))

    def forward(self, x_bdx: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        self._edges.periodic = periodic
        dtype = next(self.parameters()).dtype
        return x_bdx + wide(self.net(x_bdx.to(dtype)))


class _Edges:
    """Which axes are periodic in the present call, for all convolutions of a network."""

    def __init__(self, axes: int) -> None:
        self.periodic = (False,) * axes


class EdgeConv(nn.Module):
    """A convolution whose padding goes round the ends of periodic axes and repeats the last value at others."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, edges: _Edges) -> None:
        super().__init__()
        assert not isinstance(conv.padding, str)
        self._widths, self._edges = tuple(map(int, conv.padding)), edges
        conv.padding = (0,) * len(self._widths)
        self.conv = conv

    def forward(self, x_bdx: Tensor) -> Tensor:
        for mode, wraps in (("circular", True), ("replicate", False)):
            # From the last axis to the first, as torch wants it.
            axes = list(zip(self._widths, self._edges.periodic, strict=True))[::-1]
            pads = [width if periodic == wraps else 0 for width, periodic in axes for _ in range(2)]
            if any(pads):
                x_bdx = F.pad(x_bdx, pads, mode=mode)
        return self.conv(x_bdx)


class PDETransformerTrunk(Trunk):
    """The package `pdetransformer`'s network (arXiv 2505.24717), for 2 axes; periodic where all families are."""

    def __init__(self, axes: int, settings: Mapping[str, Any], specs: Sequence[FamilySpec]) -> None:
        super().__init__()
        width = settings["model_dim"]
        self.net = _pde_transformer().PDETransformer(
            sample_size=max(specs[0].grid),
            in_channels=width,
            out_channels=width,
            type=PDE_TRANSFORMERS[width],
            periodic=all(all(spec.periodic) for spec in specs),
        )

    def forward(self, x_bdx: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        dtype = next(self.parameters()).dtype
        return self.net(x_bdx.to(dtype)).sample


MAKERS: dict[str, Callable[[int, Mapping[str, Any], Sequence[FamilySpec]], Trunk]] = {
    "fno": FourierTrunk,
    "unet": UNetTrunk,
    "pdetransformer": PDETransformerTrunk,
}


def _rows(spec: FamilySpec, numbers: Sequence[int]) -> list[str]:
    return [f"{spec.family}/{spec.fields[number]}" for number in numbers]


def _axis_rows(spec: FamilySpec) -> list[str]:
    return [f"{spec.family}/{AXES[axis]}" for axis, wraps in enumerate(spec.periodic) if not wraps]


def _places(grid: Sequence[int], spec: FamilySpec, device: torch.device) -> Tensor:
    """(1, L, A, 1) float32, the cells' centres along the axes that aren't periodic, from -1 to 1."""
    along = [(2 * torch.arange(size, device=device) + 1) / size - 1 for size in grid]
    of_axes = torch.meshgrid(*along, indexing="ij")
    kept = [place for place, wraps in zip(of_axes, spec.periodic, strict=True) if not wraps]
    return torch.stack(kept, dim=-1).flatten(0, -2)[None, ..., None]


def _require(package: str, operator: str) -> None:
    if find_spec(package) is None:
        raise RecipeError(
            f'model.operator "{operator}" is the package {package}\'s, which is not installed: {INSTALL[package]}'
        )


def _pde_transformer() -> Any:
    """The one module of `pdetransformer` that is needed: its packages' own `__init__` import a training framework."""
    _require("pdetransformer", "pdetransformer")
    name = "ups_scale_pdetransformer"
    if name not in sys.modules:
        found = find_spec("pdetransformer")
        assert found is not None
        assert found.submodule_search_locations
        package = ModuleType(name)
        package.__path__ = [str(Path(next(iter(found.submodule_search_locations))) / "core" / "mixed_channels")]
        sys.modules[name] = package
    try:
        return importlib.import_module(f"{name}.pde_transformer")
    except ImportError as error:
        raise RecipeError(
            f'model.operator "pdetransformer" can\'t be loaded ({error}): {INSTALL["pdetransformer"]}'
        ) from None
