"""Checkpoints that are evaluated: opened, and fitted to the entries of a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ups_scale.checkpoint.resume import find_checkpoint
from ups_scale.errors import CheckpointError, DataError
from ups_scale.evaluate.variants import Match, fitted, match
from ups_scale.model.simulator import Simulator
from ups_scale.physics.families import FamilySpec

TRAINING_STATE = ("deepspeed", "ema")  # folders of a checkpoint that only training reads


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder, recipe and model; `sha256` is that of its manifest."""

    folder: Path
    sha256: str
    recipe: dict[str, Any]
    step: int | None
    model: Simulator

    @property
    def run_folder(self) -> Path | None:
        """The run that it lies in; None if it lies in none."""
        checkpoints = self.folder.resolve().parent
        return checkpoints.parent if checkpoints.name == "checkpoints" else None

    @property
    def run(self) -> str:
        """The run's name with its hash, or the recipe's name."""
        if self.run_folder is not None:
            return self.run_folder.name
        return str(self.recipe.get("run", {}).get("name", self.folder.resolve().name))

    @property
    def params_m(self) -> float:
        """Parameters in millions."""
        return sum(parameter.numel() for parameter in self.model.parameters()) / 1e6

    def told(self) -> dict[str, Any]:
        """What report.json says of it."""
        return {
            "checkpoint": shown(self.folder),
            "checkpoint_sha256": self.sha256,
            "run": self.run,
            "step": self.step,
            "params_m": self.params_m,
        }


def open_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """The checkpoint that `path`, a run folder or a checkpoint, means, with its model on `device`.

    Raises:
        CheckpointError: there is none that is whole.
    """
    folder = find_checkpoint(path, without=TRAINING_STATE)
    return Checkpoint(
        folder,
        hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest(),
        read_json(folder / "recipe.json"),
        read_json(folder / "state.json").get("step"),
        Simulator.from_pretrained(folder / "model", device),
    )


def fit(
    model: Simulator, entries: Mapping[str, FamilySpec], max_stride: int, reserved: Collection[str]
) -> tuple[Simulator, dict[str, Match], dict[str, str]]:
    """The model fitted, untrained, to those of the entries that are variants of what it knows; what each entry is to
    it; and of the entries that it can't take why not. `reserved` names are not given to variants."""
    matches: dict[str, Match] = {}
    left_out: dict[str, str] = {}
    for name, spec in entries.items():
        try:
            matches[name] = match(spec, model.specs, max_stride, reserved=reserved)
        except DataError as error:
            left_out[name] = str(error)
    variants = {name: of.variant for name, of in matches.items() if of.variant is not None}
    if variants:
        model, refused = fitted(model, list(variants.values()))
        left_out |= {name: refused[spec.name] for name, spec in variants.items() if spec.name in refused}
    return model, {name: of for name, of in matches.items() if name not in left_out}, left_out


def read_json(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's file.

    Raises:
        CheckpointError: it can't be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); name another checkpoint") from None


def shown(path: Path) -> str:
    """The path from the current folder where it lies in it."""
    whole = path.resolve()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(whole)
