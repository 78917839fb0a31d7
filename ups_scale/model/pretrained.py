"""A model on disk: `model.safetensors` (float32), `model.json` (settings and families), the recipe if there is one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ups_scale.atomic import write_json
from ups_scale.errors import CheckpointError, RecipeError
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe.validate import fill_defaults

if TYPE_CHECKING:
    from ups_scale.model.simulator import Simulator

FORMAT = 3
SHOWN = 8  # names of weights in a message


@dataclass(frozen=True)
class Differences:
    """Names of weights: in the model but not in the file, in the file but not in the model, of other shapes."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    other_shape: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.other_shape)

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.other_shape}
        return "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names)


def save(
    model: Simulator, folder: Path, weights: Mapping[str, Tensor] | None, recipe: Mapping[str, Any] | None
) -> None:
    """See `Simulator.save_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if weights is None else weights
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors")
    specs = [_spec_to_json(spec) for spec in model.specs.values()]
    write_json(folder / "model.json", {"format": FORMAT, **model.arguments, "specs": specs})
    if recipe is not None:
        write_json(folder / "recipe.json", dict(recipe))


def load(cls: type[Simulator], folder: Path, device: torch.device | str, strict: bool) -> tuple[Simulator, Differences]:
    """See `Simulator.from_pretrained`."""
    if not (folder / "model.json").exists() and (folder / "model" / "model.json").exists():
        folder = folder / "model"  # of a checkpoint
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: not a saved model (it has no {name}); name a folder that save_pretrained wrote, or a "
                "checkpoint, such as runs/<run>/checkpoints/step-<N>"
            )
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        found = description.get("format")
        if found != FORMAT:
            raise CheckpointError(
                f"{folder}: model of format {found!r}, expected {FORMAT}; another version of ups_scale saved it: load "
                "it there, or train it again"
            )
        specs = [_spec_from_json(entry) for entry in description["specs"]]
        # A key that came later has its default: models saved before it were made so.
        sections = fill_defaults({section: description[section] for section in ("model", "conditioning")})
        model = cls(specs, sections["model"], sections["conditioning"])
        weights = load_file(folder / "model.safetensors", device="cpu")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
        RecipeError,
    ) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder}: not a saved model: model.json or model.safetensors is cut off or damaged ({error}); copy the "
            "folder again, or take another checkpoint"
        ) from None
    own = model.state_dict()
    shared = own.keys() & weights.keys()
    other_shape = sorted(name for name in shared if own[name].shape != weights[name].shape)
    differences = Differences(
        missing=tuple(sorted(own.keys() - weights.keys())),
        unexpected=tuple(sorted(weights.keys() - own.keys())),
        other_shape=tuple(f"{name} {list(weights[name].shape)}, not {list(own[name].shape)}" for name in other_shape),
    )
    if strict and differences:
        raise CheckpointError(
            f"{folder}: model.safetensors does not hold the weights of the model that model.json describes: "
            f"{differences}. Take another copy of the folder, or load what fits with strict=False"
        )
    model.load_state_dict({name: weights[name] for name in shared if name not in other_shape}, strict=False)
    return model.to(device).eval(), differences


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _spec_to_json(spec: FamilySpec) -> dict[str, Any]:
    return {**asdict(spec), "dt": None if math.isnan(spec.dt) else spec.dt}


def _spec_from_json(entry: Mapping[str, Any]) -> FamilySpec:
    def freeze(value: Any) -> Any:
        return tuple(freeze(item) for item in value) if isinstance(value, list) else value

    plain = {key: freeze(value) for key, value in entry.items()}
    return FamilySpec(**{**plain, "dt": math.nan if plain["dt"] is None else plain["dt"]})
