"""The simulator: context frames in, the next frames out, by predicting the change of the fields."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.errors import DataError, RecipeError
from ups_scale.model import geometry as geometries
from ups_scale.model import pretrained
from ups_scale.model.any_point import AnyPointDecoder
from ups_scale.model.baselines import Lifting, PointHead, Trunks
from ups_scale.model.constants import constant
from ups_scale.model.decoder import PatchDecoder
from ups_scale.model.embed import Conditioner
from ups_scale.model.encoder import GridEncoder
from ups_scale.model.lattice import Tiling
from ups_scale.model.layout import decoder_kind, encoder_kind, inputs, lattice_of, tiling
from ups_scale.model.operator import StackedOperator
from ups_scale.model.places import Places, ask, describe, num_places, own_places, own_queries
from ups_scale.model.points import PointEncoder
from ups_scale.model.queries import Queries
from ups_scale.model.requirements import check_family, check_places, check_shapes, check_steps
from ups_scale.model.rollouts import (
    RECONSTRUCTION,
    Guard,
    Rollout,
    Shift,
    field_frames,
    latent_frames,
    rolled_back,
    van_der_corput,
)
from ups_scale.model.scales import RMS_FLOOR
from ups_scale.model.u_shaped import UShapedOperator
from ups_scale.model.window import Window, filled_times
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe.presets import BASELINES

# Dimensions: b sample, t context frame, h predicted frame, c field, x space axes or points, p parameter or point,
# q asked point, d axis, s stream, l token.


class Simulator(nn.Module):
    """One model for many families, on grids and on points. Untrained it is persistence, or zero if `target` is
    "absolute".

    Inputs are divided by the RMS of the context frames, and the predicted change is multiplied by the size to expect of
    it (`model/scales.py`): nothing is taken from frames that are to be predicted. Static fields, and points without a
    value in the last context frame, stay as they are.

    With `prediction` "field", every step encodes the last frames and decodes the change to the next one; the decoder
    starts at zero. With "latent", the fields are encoded once, the operator adds to the latent state at every step, and
    frame k is u_0 + D(z_k) - D(z_0), with D the decoder of normalised fields; the operator's output starts at zero.

    Args:
        specs: the families it knows, with grid, boundaries and statistics.
        model: the recipe's `model` section (plain values).
        conditioning: the recipe's `conditioning` section.
    """

    def __init__(self, specs: Sequence[FamilySpec], model: Mapping[str, Any], conditioning: Mapping[str, Any]) -> None:
        super().__init__()
        for spec in specs:
            check_family(spec, model)
        self.specs = {spec.name: spec for spec in specs}
        self.arguments = {"model": dict(model), "conditioning": dict(conditioning)}
        self.context_frames: int = model["context_frames"]
        self.latent: bool = model["prediction"] == "latent"
        self.target: str = model["target"]
        self.baseline: bool = model["operator"] in BASELINES
        """Whether it is a network of other people's (`model/baselines.py`), without tokens and blocks of ours."""
        self.differences = pretrained.Differences()
        """What a file that the weights were loaded from lacked, or had too much."""
        self._settings = dict(model)
        self._encoder_of = {spec.name: encoder_kind(spec, model["encoder"]) for spec in specs}
        self._decoder_of = {spec.name: decoder_kind(spec, model["decoder"]) for spec in specs}
        self.tilings = {spec.name: tiling(spec, model) for spec in specs if spec.geometry == "grid"}
        self.lattices = {spec.name: lattice_of(spec, model) for spec in specs}
        use = {name: value for name, value in conditioning.items() if name != "dropout"}
        self.conditioner = Conditioner(specs, model["model_dim"], use, conditioning["dropout"])
        self.encoders = nn.ModuleDict({kind: self._encoder(kind) for kind in _kinds(self._encoder_of)})
        self.operator = self._operator()
        self.decoders = nn.ModuleDict({kind: self._decoder(kind) for kind in _kinds(self._decoder_of)})

    def _encoder(self, kind: str) -> nn.Module:
        model, shared = self._settings, ("latent_dim", "context_frames", "channel_separated")
        specs = [spec for name, spec in self.specs.items() if self._encoder_of[name] == kind]
        if self.baseline:
            return Lifting(specs, width=model["model_dim"], context_frames=model["context_frames"])
        settings = {key: model[key] for key in shared}
        if kind == "grid":
            return GridEncoder(specs, self.tilings, **settings)
        settings |= {key: model[key] for key in ("supernodes", "supernode_radius", "neighbours", "qk_rmsnorm")}
        return PointEncoder(specs, self.lattices, **settings, num_heads=self._end_heads)

    def _operator(self) -> StackedOperator | UShapedOperator | Trunks:
        if self.baseline:
            return Trunks(list(self.specs.values()), self._settings)
        keys = ["depth", "model_dim", "num_heads", "mlp_ratio", "qk_rmsnorm", "drop_path", "latent_dim"]
        settings = {key: self._settings[key] for key in [*keys, "channel_separated"]}
        if self._settings["operator"] == "stacked":
            return StackedOperator(**settings, zero=self.latent)
        settings |= {key: self._settings[key] for key in ("window_size", "u_stages", "u_depths", "u_growth")}
        lattices = [(lattice, self.specs[name].periodic) for name, lattice in self.lattices.items()]
        return UShapedOperator(**settings, lattices=lattices, zero=self.latent)

    def _decoder(self, kind: str) -> nn.Module:
        model = self._settings
        specs = [spec for name, spec in self.specs.items() if self._decoder_of[name] == kind]
        if self.baseline:
            return PointHead(specs, width=model["model_dim"])
        ends = {"latent_dim": model["latent_dim"], "condition_dim": model["model_dim"], "zero": not self.latent}
        if kind == "patch":
            return PatchDecoder(specs, self.tilings, **ends)
        settings = {"reach": model["decoder_reach"], "log_clamp": model["log_clamp"], "qk_rmsnorm": model["qk_rmsnorm"]}
        return AnyPointDecoder(specs, self.lattices, **ends, **settings, num_heads=self._end_heads)

    @property
    def _end_heads(self) -> int:
        """Attention heads of encoder and decoder: as wide as the operator's."""
        latent_dim, width = self._settings["latent_dim"], self._settings["model_dim"] // self._settings["num_heads"]
        heads = latent_dim // width
        if heads == 0 or latent_dim % heads:
            raise RecipeError(
                f"model.latent_dim {latent_dim} can't be cut into heads about as wide as the operator's, {width} "
                "(model.model_dim / model.num_heads), for the point encoder or any-point decoder: use a multiple of it"
            )
        return heads

    def num_streams(self, family: str) -> int:
        """Streams of latent tokens of a family: its input fields when they are separated, else 1."""
        return len(inputs(self.specs[family])) if self._settings["channel_separated"] else 1

    def num_tokens(self, family: str) -> int:
        """Latent tokens per frame of a family, of all streams. A baseline has none: its frames count as the tokens that
        patches would give, so that it is trained on the same windows as a model of the same settings."""
        return math.prod(self.lattices[family]) * self.num_streams(family)

    def least_rms(self, family: str, device: torch.device) -> Tensor:
        """(C,) float32: below it a field of the family counts as zero, in its own unit."""
        return RMS_FLOOR * constant(self.specs[family].u_rms, device)

    def forward(
        self,
        context_btcx: Tensor,
        family: str,
        parameters_bp: Tensor,
        dt_bt: Tensor,
        horizon: int,
        detach_between: bool = False,
        mask_btcx: Tensor | None = None,
        *,
        at: Places | None = None,
        steps: Collection[int] | None = None,
        reconstruct: bool = False,
    ) -> Any:
        """(B, H, C, *grid) float32 in physical units: the `horizon` frames after the context.

        Args:
            context_btcx: (B, T, C, *grid) float32 in physical units; finite. T is context_frames, or fewer: then a
                learned null stands in for the earlier ones.
            family: name of the family.
            parameters_bp: (B, P) float32, NaN where not stated.
            dt_bt: (B, T + H - 1) float32 or more columns, time from each frame to the next in s, first of the context
                frames; NaN where there is none (a steady family) or it isn't known.
            detach_between: stop gradients between the frames of the unrolled horizon.
            mask_btcx: (B, T, C, *grid) bool, where the context frames have a value; None: everywhere. A predicted frame
                has one where the frame before it has.
            at: where the fields are to be given, instead of at the input's own points: points (B, Q, d) in the domain's
                own coordinates, or the sizes of a grid over it, give (B, H, C, Q) or (B, H, C, *at). The persisted
                frame is interpolated there; NaN outside the domain, and where points without a value would have a part
                in that. Needs an any-point decoder.
            steps: which of the frames 1 to `horizon` to return, in increasing order (all by default). In a latent
                rollout the others are never decoded.
            reconstruct: return also what the latent state of the last context frame decodes to, (B, C, *grid) or at
                `at`: (prediction, reconstruction). Needs latent prediction; `horizon` may then be 0.

        Raises:
            DataError: the family is not one the model was built for, or a shape or request does not fit it.
        """
        spec = self._spec(family)
        window, dt_bt, wanted = self._opened(
            spec, context_btcx, parameters_bp, dt_bt, horizon, mask_btcx, at, steps, reconstruct
        )
        if self.training and self.context_frames > 1 and self._settings["frame_dropout"] > 0:
            window = window.thinned(self._settings["frame_dropout"])
        rollout = self._prepare(spec, window, parameters_bp, at)
        shift = self._jitter(spec) if at is None else None
        if shift is not None:
            window = window.rolled(*shift)
        arguments = (self, rollout, window, dt_bt, horizon, wanted, detach_between)
        found = dict(latent_frames(*arguments, reconstruct=reconstruct) if self.latent else field_frames(*arguments))
        reconstruction_bcx = found.pop(RECONSTRUCTION, None)
        space = context_btcx.shape[3:] if at is None else num_places(at)
        none_bhcx = context_btcx.new_zeros(len(context_btcx), 0, len(spec.fields), *space)
        predicted_bhcx = torch.stack(list(found.values()), dim=1) if found else none_bhcx
        if shift is not None:
            predicted_bhcx = rolled_back(predicted_bhcx, shift, axis=3)
            if reconstruction_bcx is not None:
                reconstruction_bcx = rolled_back(reconstruction_bcx, shift, axis=2)
        return (predicted_bhcx, reconstruction_bcx) if reconstruct else predicted_bhcx

    def frames(
        self,
        context_btcx: Tensor,
        family: str,
        parameters_bp: Tensor,
        dt_bt: Tensor,
        horizon: int,
        mask_btcx: Tensor | None = None,
        *,
        at: Places | None = None,
        steps: Collection[int] | None = None,
        guard: Guard | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """(step, frame) one by one, each frame (B, C, *grid) float32 in physical units: what `forward` gives at once.

        Only the last `context_frames` frames are kept, of a latent rollout only the latent state. The arguments are
        those of `forward`; what is for training (rolled fields, dropped frames) is left out.

        Args:
            guard: replaces each predicted frame, on the input's own points; later frames of a field rollout are
                predicted from what it returns, those of a latent one are not.

        Raises:
            DataError: as `forward`, before the first frame; a guard together with `at`.
        """
        spec = self._spec(family)
        window, dt_bt, wanted = self._opened(spec, context_btcx, parameters_bp, dt_bt, horizon, mask_btcx, at, steps)
        if at is not None and guard is not None:
            raise DataError(
                f"family {spec.name}: guards act on all of the input's own points, and fields are asked for at "
                f"{describe(at)}: leave out the guards, or `at`"
            )
        rollout = self._prepare(spec, window, parameters_bp, at)
        run = latent_frames if self.latent else field_frames
        return run(self, rollout, window, dt_bt, max(wanted, default=0), wanted, guard=guard)

    def _opened(
        self,
        spec: FamilySpec,
        context_btcx: Tensor,
        parameters_bp: Tensor,
        dt_bt: Tensor,
        horizon: int,
        mask_btcx: Tensor | None,
        at: Places | None,
        steps: Collection[int] | None,
        reconstruct: bool = False,
    ) -> tuple[Window, Tensor, Collection[int]]:
        """The first window and its times, both with all context frames, and the steps that are wanted, once everything
        is checked."""
        check_shapes(spec, self.context_frames, context_btcx, parameters_bp, dt_bt, horizon, mask_btcx)
        wanted = check_steps(horizon, steps, reconstruct, self.latent)
        if at is not None:
            check_places(spec, self._decoder_of[spec.name], at, len(context_btcx))
        dt_bt = filled_times(dt_bt, self.context_frames - context_btcx.shape[1], self.context_frames)
        return Window(context_btcx, mask_btcx).filled(self.context_frames), dt_bt, wanted

    def save_pretrained(
        self,
        folder: str | Path,
        weights: Mapping[str, Tensor] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes `model.safetensors` (float32; `weights` in place of the model's own, if given), `model.json` and, if
        given, the resolved `recipe.json` into `folder`."""
        pretrained.save(self, Path(folder), weights, recipe)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu", strict: bool = True) -> Simulator:
        """The model saved in `folder`, in evaluation mode on `device`.

        With `strict` False, weights that the file lacks, or holds in another shape, are left as a new model has them,
        and `model.differences` names them.

        Raises:
            CheckpointError: files missing, damaged, of another format, or (if `strict`) with other weights than the
                model has; names those that are missing or unexpected.
        """
        loaded, differences = pretrained.load(cls, Path(folder), device, strict)
        loaded.differences = differences
        return loaded

    def _jitter(self, spec: FamilySpec) -> Shift | None:
        """In training, by how much fields are rolled on periodic axes before they are cut in patches: at random, each
        offset less than a patch, so that no error grows along the borders of patches (arXiv 2511.15684)."""
        if not self.training:
            return None
        patch = self._rolled_patch(spec)
        offsets = tuple(int(torch.randint(size, ())) for size in patch.values())  # on the CPU: nothing waits for it
        return (offsets, tuple(patch)) if any(offsets) else None

    def _next_patches(self, spec: FamilySpec, step: int) -> Shift | None:
        """In evaluation, the same for a step of a field rollout: by turns as far apart as can be (van der Corput), so
        that no two steps in a row have their borders in the same place; the first step has none."""
        if self.training:
            return None
        patch = self._rolled_patch(spec)
        offsets = tuple(int(size * van_der_corput(step - 1)) for size in patch.values())
        return (offsets, tuple(patch)) if any(offsets) else None

    @property
    def patches(self) -> dict[str, Tiling]:
        """By family on a grid, the patches between whose faces it may jump: none of a baseline."""
        return {} if self.baseline else self.tilings

    @property
    def moving_patches(self) -> frozenset[str]:
        """The families whose rollouts cut their patches elsewhere at every step: see `_next_patches`."""
        if self.latent:
            return frozenset()
        sizes = {name: self._rolled_patch(spec).values() for name, spec in self.specs.items()}
        return frozenset(name for name, of in sizes.items() if max(of, default=1) > 1)

    def _rolled_patch(self, spec: FamilySpec) -> dict[int, int]:
        """Points of a patch along each axis that fields may be rolled along before they are cut."""
        if not self._settings["patch_jitter"] or self._encoder_of[spec.name] != "grid" or self.baseline:
            return {}
        patch = self.tilings[spec.name].patch
        return {axis: patch[axis] for axis, wraps in enumerate(spec.periodic) if wraps}

    def _prepare(self, spec: FamilySpec, window: Window, parameters_bp: Tensor, at: Places | None) -> Rollout:
        lattice, mask_bcx = self.lattices[spec.name], window.last_mask_bcx
        # Where any of the fields that change has a value: static ones, a point set's places, may have one everywhere.
        some_bx = None if mask_bcx is None else mask_bcx[:, constant(spec.dynamic, mask_bcx.device)].any(dim=1)
        some_bp = None if some_bx is None else some_bx.flatten(1)
        place_bpd = own_places(spec, window.last_bcx)
        graph = geometry = own = asked = None
        if self._encoder_of[spec.name] == "points":
            # All samples of a grid share their places.
            given_bpd = place_bpd[:1] if spec.geometry == "grid" else place_bpd
            graph = self.encoders["points"].graph(given_bpd, spec, some_bp)  # type: ignore[operator]
        if spec.geometry == "points":
            geometry = geometries.of_points(place_bpd, spec.periodic, some_bp)
        elif some_bx is not None:
            geometry = geometries.of_mask(some_bx, spec.periodic)
        if self._decoder_of[spec.name] == "points":
            own = own_queries(spec, lattice, place_bpd)
        if at is not None:
            asked = ask(spec, lattice, at, place_bpd, mask_bcx)
        return Rollout(spec, parameters_bp, geometry, graph, own, asked)

    def _condition(self, rollout: Rollout, dt_b: Tensor, rms_bc: Tensor) -> Tensor:
        return F.silu(self.conditioner(rollout.spec, rollout.parameters_bp, dt_b, rms_bc, rollout.geometry))

    def _encode(self, rollout: Rollout, window: Window, rms_bc: Tensor) -> Tensor:
        spec, context_btcx = rollout.spec, window.context_btcx
        kind = self._encoder_of[spec.name]
        normalised = context_btcx / rms_bc.reshape(len(rms_bc), 1, -1, *(1,) * (context_btcx.ndim - 3))
        if kind == "grid":
            z_bsld = self.encoders[kind](normalised, spec, window.seen_bt)
        else:
            z_bsld = self.encoders[kind](normalised.flatten(3), spec, rollout.graph, window.seen_bt)
        return z_bsld + self._idle(self.encoders, kind)

    def _advance(self, z_bsld: Tensor, condition_bd: Tensor, spec: FamilySpec) -> Tensor:
        return self.operator(z_bsld, condition_bd, self.lattices[spec.name], spec.periodic)

    def _decode(self, z_bsld: Tensor, condition_bd: Tensor, spec: FamilySpec, queries: Queries | None) -> Tensor:
        """(B, C, *X) of the dynamic fields, normalised."""
        kind = self._decoder_of[spec.name]
        decoder = self.decoders[kind]
        asked = () if queries is None else (queries,)
        return decoder(z_bsld, condition_bd, spec, *asked) + self._idle(self.decoders, kind)

    def _idle(self, modules: nn.ModuleDict, used: str) -> Tensor | float:
        """Zero, from the weights of the kinds that are not used: see `encoder.idle_share`."""
        if not torch.is_grad_enabled():
            return 0.0
        return sum((module.probe() for kind, module in modules.items() if kind != used), start=0.0)  # type: ignore[operator]

    def _spec(self, family: str) -> FamilySpec:
        if family not in self.specs:
            raise DataError(f"the model was not trained on family {family!r}; it knows {', '.join(sorted(self.specs))}")
        return self.specs[family]


def _kinds(kind_of: Mapping[str, str]) -> list[str]:
    return sorted(set(kind_of.values()))
