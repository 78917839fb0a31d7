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
from ups_scale.errors import CheckpointError, DataError
from ups_scale.model.constants import constant
from ups_scale.model.decoder import PatchDecoder
from ups_scale.model.embed import Conditioner
from ups_scale.model.encoder import GridEncoder
from ups_scale.model.lattice import lattice_shape
from ups_scale.model.operator import StackedOperator
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample, t context frame, h predicted frame, c field, x space axes, p parameter.

FORMAT = 1
# A field whose RMS is below this share of the training data's is scaled by that share instead, so that a field that
# happens to be zero divides by something.
RMS_FLOOR = 1e-3
TINY = 1e-30  # for a field that is zero in all of the training data

ENCODERS = {"grid": GridEncoder}
OPERATORS = {"stacked": StackedOperator}
DECODERS = {"patch": PatchDecoder}


class Simulator(nn.Module):
    """One model for many families. Untrained it is persistence: the decoder starts at zero.

    Inputs are divided by the RMS of the context frames, per sample and field; the predicted change is multiplied by the
    RMS of the change between context frames or, with one frame, by the training data's RMS of the change scaled by
    RMS(input)/RMS(training data). Nothing is taken from frames that are to be predicted.

    Args:
        specs: the families it knows, with grid, boundaries and statistics.
        model: the recipe's `model` section (plain values).
        conditioning: the recipe's `conditioning` section.
    """

    def __init__(self, specs: Sequence[FamilySpec], model: Mapping[str, Any], conditioning: Mapping[str, Any]) -> None:
        super().__init__()
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
        dt_b: Tensor,
        horizon: int,
        detach_between: bool = False,
    ) -> Tensor:
        """(B, H, C, *grid) float32 in physical units: the `horizon` frames after the context, each from its own last
        `context_frames` frames, predicted ones included.

        Args:
            context_btcx: (B, T, C, *grid) float32 in physical units, T = context_frames.
            family: name of the family.
            parameters_bp: (B, P) float32, NaN where not stated.
            dt_b: (B,) float32, time between frames in s.
            detach_between: stop gradients between the frames of the unrolled horizon.

        Raises:
            DataError: the family is not one the model was built for, or the shape does not fit it.
        """
        spec = self._spec(family, context_btcx)
        predictions = []
        for _ in range(horizon):
            next_bcx = self._step(context_btcx, spec, parameters_bp, dt_b)
            predictions.append(next_bcx)
            feedback = next_bcx.detach() if detach_between else next_bcx
            context_btcx = torch.cat([context_btcx[:, 1:], feedback[:, None]], dim=1)
        return torch.stack(predictions, dim=1)

    def _step(self, context_btcx: Tensor, spec: FamilySpec, parameters_bp: Tensor, dt_b: Tensor) -> Tensor:
        rms_bc, delta_rms_bc = self._scales(context_btcx, spec)
        space = (1,) * spec.dimensions
        normalised = context_btcx / rms_bc.reshape(*rms_bc.shape[:1], 1, rms_bc.shape[1], *space)
        condition_bd = F.silu(self.conditioner(spec, parameters_bp, dt_b, rms_bc))
        z_bld = self.encoder(normalised, spec)
        z_bld = self.operator(z_bld, condition_bd, self.lattices[spec.name], spec.periodic)
        change_bcx = self.decoder(z_bld, condition_bd, spec)
        return context_btcx[:, -1] + change_bcx * delta_rms_bc.reshape(*delta_rms_bc.shape, *space)

    def _scales(self, context_btcx: Tensor, spec: FamilySpec) -> tuple[Tensor, Tensor]:
        """RMS of the context frames and of their change over one frame, each (B, C) float32."""
        u = context_btcx.float()
        axes = [1, *range(3, u.ndim)]
        data_rms = constant(spec.u_rms, u.device).clamp_min(TINY)
        data_delta_rms = constant(spec.delta_rms, u.device)
        rms_bc = torch.maximum(u.square().mean(dim=axes).sqrt(), RMS_FLOOR * data_rms)
        if u.shape[1] == 1:
            delta_rms_bc = rms_bc * (data_delta_rms / data_rms)
        else:
            delta_rms_bc = u.diff(dim=1).square().mean(dim=axes).sqrt()
            delta_rms_bc = torch.maximum(delta_rms_bc, RMS_FLOOR * data_delta_rms)
        return rms_bc.clamp_min(TINY), delta_rms_bc

    def least_rms(self, family: str, device: torch.device) -> Tensor:
        """(C,) float32: below it a field of the family counts as zero, in its own unit."""
        return RMS_FLOOR * constant(self.specs[family].u_rms, device)

    def _spec(self, family: str, context_btcx: Tensor) -> FamilySpec:
        if family not in self.specs:
            raise DataError(f"the model was not trained on family {family!r}; it knows {', '.join(sorted(self.specs))}")
        spec = self.specs[family]
        expected = (self.context_frames, len(spec.fields), *spec.grid)
        if tuple(context_btcx.shape[1:]) != expected:
            raise DataError(
                f"family {family}: context of shape {tuple(context_btcx.shape)}, expected (batch, frames, fields, "
                f"grid) = (B, {', '.join(map(str, expected))})"
            )
        return spec

    def save_pretrained(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Writes `model.safetensors` (float32; `weights` in place of the model's own, if given) and `model.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict() if weights is None else weights
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "model.safetensors")
        description = {"format": FORMAT, **self.arguments, "specs": [asdict(spec) for spec in self.specs.values()]}
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


def _spec_from_json(entry: Mapping[str, Any]) -> FamilySpec:
    def freeze(value: Any) -> Any:
        return tuple(freeze(item) for item in value) if isinstance(value, list) else value

    return FamilySpec(**{key: freeze(value) for key, value in entry.items()})
