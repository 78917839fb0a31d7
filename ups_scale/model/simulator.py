"""The simulator: context frames in, the next frames out, by predicting the change of the fields over one frame."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ups_scale.atomic import write_json
from ups_scale.errors import CheckpointError, DataError, RecipeError
from ups_scale.model.constants import constant
from ups_scale.model.decoder import PatchDecoder
from ups_scale.model.embed import MAX_AXES, Conditioner
from ups_scale.model.encoder import GridEncoder
from ups_scale.model.lattice import lattice_shape
from ups_scale.model.operator import StackedOperator
from ups_scale.model.scales import RMS_FLOOR, scales
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample, t context frame, h predicted frame, c field, x space axes, p parameter.

FORMAT = 2

ENCODERS = {"grid": GridEncoder}
OPERATORS = {"stacked": StackedOperator}
DECODERS = {"patch": PatchDecoder}


class Simulator(nn.Module):
    """One model for many families. Untrained it is persistence: the decoder starts at zero.

    Inputs are divided by the RMS of the context frames, and the predicted change is multiplied by the size to expect of
    it (`model/scales.py`): nothing is taken from frames that are to be predicted. Static fields, and points without a
    value in the last context frame, stay as they are.

    Args:
        specs: the families it knows, with grid, boundaries and statistics.
        model: the recipe's `model` section (plain values).
        conditioning: the recipe's `conditioning` section.
    """

    def __init__(self, specs: Sequence[FamilySpec], model: Mapping[str, Any], conditioning: Mapping[str, Any]) -> None:
        super().__init__()
        for spec in specs:
            _check(spec, model)
        self.specs = {spec.name: spec for spec in specs}
        self.arguments = {"model": dict(model), "conditioning": dict(conditioning)}
        self.context_frames: int = model["context_frames"]
        tokens = {"patch_size": model["patch_size"], "latent_tokens": model["latent_tokens"]}
        self.lattices = {
            spec.name: lattice_shape(spec.grid, model["patch_size"], model["latent_tokens"]) for spec in specs
        }
        use = {name: value for name, value in conditioning.items() if name != "dropout"}
        self.conditioner = Conditioner(specs, model["model_dim"], use, conditioning["dropout"])
        self.encoder = ENCODERS[model["encoder"]](
            specs, **tokens, latent_dim=model["latent_dim"], context_frames=model["context_frames"]
        )
        operator_keys = ("depth", "model_dim", "num_heads", "mlp_ratio", "qk_rmsnorm", "drop_path", "latent_dim")
        self.operator = OPERATORS[model["operator"]](**{key: model[key] for key in operator_keys})
        self.decoder = DECODERS[model["decoder"]](
            specs, **tokens, latent_dim=model["latent_dim"], condition_dim=model["model_dim"]
        )

    def num_tokens(self, family: str) -> int:
        """Latent tokens per frame of a family."""
        return math.prod(self.lattices[family])

    def forward(
        self,
        context_btcx: Tensor,
        family: str,
        parameters_bp: Tensor,
        dt_bt: Tensor,
        horizon: int,
        detach_between: bool = False,
        mask_btcx: Tensor | None = None,
    ) -> Tensor:
        """(B, H, C, *grid) float32 in physical units: the `horizon` frames after the context, each from its own last
        `context_frames` frames, predicted ones included.

        Args:
            context_btcx: (B, T, C, *grid) float32 in physical units, T = context_frames; finite.
            family: name of the family.
            parameters_bp: (B, P) float32, NaN where not stated.
            dt_bt: (B, T + H - 1) float32 or more columns, time from each frame to the next in s, first of the context
                frames; NaN where there is none (a steady family) or it isn't known.
            detach_between: stop gradients between the frames of the unrolled horizon.
            mask_btcx: (B, T, C, *grid) bool, where the context frames have a value; None: everywhere. A predicted frame
                has one where the frame before it has.

        Raises:
            DataError: the family is not one the model was built for, or a shape does not fit it.
        """
        spec = self._spec(family, context_btcx, dt_bt, horizon, mask_btcx)
        context = self.context_frames
        predictions = []
        for step in range(horizon):
            # The times between the frames of this step's window, and from the last of them to the next frame.
            next_bcx = self._step(context_btcx, spec, parameters_bp, dt_bt[:, step : step + context], mask_btcx)
            predictions.append(next_bcx)
            feedback = next_bcx.detach() if detach_between else next_bcx
            context_btcx = torch.cat([context_btcx[:, 1:], feedback[:, None]], dim=1)
            if mask_btcx is not None:
                mask_btcx = torch.cat([mask_btcx[:, 1:], mask_btcx[:, -1:]], dim=1)
        return torch.stack(predictions, dim=1)

    def _step(
        self,
        context_btcx: Tensor,
        spec: FamilySpec,
        parameters_bp: Tensor,
        dt_bt: Tensor,
        mask_btcx: Tensor | None,
    ) -> Tensor:
        rms_bc, delta_rms_bc = scales(context_btcx, spec, dt_bt, mask_btcx)
        space = (1,) * spec.dimensions
        normalised = context_btcx / rms_bc.reshape(*rms_bc.shape[:1], 1, rms_bc.shape[1], *space)
        condition_bd = F.silu(self.conditioner(spec, parameters_bp, dt_bt[:, -1], rms_bc))
        z_bld = self.encoder(normalised, spec)
        z_bld = self.operator(z_bld, condition_bd, self.lattices[spec.name], spec.periodic)
        change_bcx = self.decoder(z_bld, condition_bd, spec)
        last_bcx = context_btcx[:, -1]
        mask_bcx = None if mask_btcx is None else mask_btcx[:, -1]
        if not spec.static:
            change_bcx = change_bcx * delta_rms_bc.reshape(*delta_rms_bc.shape, *space)
            return last_bcx + (change_bcx if mask_bcx is None else torch.where(mask_bcx, change_bcx, 0.0))
        dynamic = constant(spec.dynamic, last_bcx.device)
        change_bcx = change_bcx * delta_rms_bc[:, dynamic].reshape(*change_bcx.shape[:2], *space)
        if mask_bcx is not None:
            change_bcx = torch.where(mask_bcx[:, dynamic], change_bcx, 0.0)
        return last_bcx.index_add(1, dynamic, change_bcx)

    def least_rms(self, family: str, device: torch.device) -> Tensor:
        """(C,) float32: below it a field of the family counts as zero, in its own unit."""
        return RMS_FLOOR * constant(self.specs[family].u_rms, device)

    def _spec(
        self, family: str, context_btcx: Tensor, dt_bt: Tensor, horizon: int, mask_btcx: Tensor | None
    ) -> FamilySpec:
        if family not in self.specs:
            raise DataError(f"the model was not trained on family {family!r}; it knows {', '.join(sorted(self.specs))}")
        spec = self.specs[family]
        expected = (self.context_frames, len(spec.fields), *spec.grid)
        if tuple(context_btcx.shape[1:]) != expected:
            raise DataError(
                f"family {family}: context of shape {tuple(context_btcx.shape)}, expected (batch, frames, fields, "
                f"grid) = (B, {', '.join(map(str, expected))})"
            )
        batch, times = len(context_btcx), self.context_frames + horizon - 1
        if dt_bt.ndim != 2 or len(dt_bt) != batch or dt_bt.shape[1] < times:
            raise DataError(
                f"family {family}: dt_bt of shape {tuple(dt_bt.shape)}, expected ({batch}, {times}): a time from each "
                f"frame to the next, for {self.context_frames} given and {horizon} predicted frames"
            )
        if mask_btcx is not None and mask_btcx.shape != context_btcx.shape:
            raise DataError(
                f"family {family}: mask_btcx of shape {tuple(mask_btcx.shape)}, expected that of the context, "
                f"{tuple(context_btcx.shape)}"
            )
        return spec

    def save_pretrained(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Writes `model.safetensors` (float32; `weights` in place of the model's own, if given) and `model.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict() if weights is None else weights
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "model.safetensors")
        specs = [_spec_to_json(spec) for spec in self.specs.values()]
        description = {"format": FORMAT, **self.arguments, "specs": specs}
        write_json(folder / "model.json", description)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> Simulator:
        """The model saved in `folder`, in evaluation mode on `device`.

        Raises:
            CheckpointError: files missing, damaged, of another format, or with other weights than the model has.
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            if description.get("format") != FORMAT:
                raise CheckpointError(f"{folder}: model of format {description.get('format')!r}, expected {FORMAT}")
            specs = [_spec_from_json(entry) for entry in description["specs"]]
            model = cls(specs, description["model"], description["conditioning"])
            model.load_state_dict(load_file(folder / "model.safetensors", device="cpu"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{folder}: not a saved model ({type(error).__name__}: {error})") from None
        return model.to(device).eval()


def _check(spec: FamilySpec, model: Mapping[str, Any]) -> None:
    """Raises a `RecipeError` if a model of these settings can't take the family."""
    if spec.geometry != "grid":
        raise RecipeError(
            f"family {spec.name} is a point set; model.encoder {model['encoder']} needs a grid (points come with a "
            "later version): leave it out of data.manifest"
        )
    if not spec.dynamic:
        raise RecipeError(
            f"family {spec.name} has only static fields ({', '.join(spec.fields)}), so there is nothing to predict: "
            "leave it out of data.manifest"
        )
    if spec.dimensions > MAX_AXES:
        raise RecipeError(f"family {spec.name} has {spec.dimensions} axes, the model takes at most {MAX_AXES}")
    pairs = model["model_dim"] // model["num_heads"] // 2
    if pairs < spec.dimensions:
        raise RecipeError(
            f"family {spec.name} has {spec.dimensions} axes: heads of width {2 * pairs} (model.model_dim "
            f"{model['model_dim']} / model.num_heads {model['num_heads']}) rotate {pairs} pairs, and every axis needs "
            f"one; lower model.num_heads to at most {model['model_dim'] // (2 * spec.dimensions)}"
        )


def _spec_to_json(spec: FamilySpec) -> dict[str, Any]:
    return {**asdict(spec), "dt": None if math.isnan(spec.dt) else spec.dt}


def _spec_from_json(entry: Mapping[str, Any]) -> FamilySpec:
    def freeze(value: Any) -> Any:
        return tuple(freeze(item) for item in value) if isinstance(value, list) else value

    plain = {key: freeze(value) for key, value in entry.items()}
    return FamilySpec(**{**plain, "dt": math.nan if plain["dt"] is None else plain["dt"]})
