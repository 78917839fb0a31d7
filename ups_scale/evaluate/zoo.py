"""The zoo: baselines that stand beside the model in every table, trained by the same trainer on the same shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ups_scale.checkpoint.publish import published
from ups_scale.errors import CheckpointError, DataError, UserError
from ups_scale.evaluate.entrants import MODEL, TRIVIAL, Entrant
from ups_scale.evaluate.loading import Checkpoint, fit, open_checkpoint
from ups_scale.evaluate.testset import TestSet
from ups_scale.recipe.presets import BASELINES

AUTO, NONE = "auto", "none"


def find(choice: str, checkpoint: Checkpoint) -> list[Path]:
    """The folders of the zoo: for "auto" the runs of baselines beside the checkpoint's run, trained on the same
    manifest, of each kind the one trained longest; for "none" none; else the paths, with commas between."""
    if choice == NONE:
        return []
    if choice != AUTO:
        return [Path(part) for part in choice.split(",") if part]
    own = checkpoint.run_folder
    if own is None:
        return []
    found: dict[str, tuple[int, str, Path]] = {}
    for path in sorted(own.parent.glob("*/recipe.json")):
        steps = published(path.parent / "checkpoints")
        if path.parent == own or not steps:
            continue
        try:
            recipe = json.loads(path.read_text(encoding="utf-8"))
            kind, data = recipe["model"]["operator"], recipe["data"]["manifest"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a run of this version: nothing that was asked for by name
        if kind in BASELINES and data == checkpoint.recipe["data"]["manifest"]:
            entry = (steps[-1][0], path.parent.name, path.parent)
            found[kind] = max(found.get(kind, entry), entry)
    return [found[kind][2] for kind in BASELINES if kind in found]


def missing(names: Sequence[str], choice: str = AUTO) -> str | None:
    """What a table lacks without the two baselines that everybody knows, and how to add them; None if it has both, or
    if the `choice` was to have none."""
    if choice == NONE:
        return None
    lacking = [name for name in ("fno", "unet") if name not in names]
    if not lacking:
        return None
    recipes = " and ".join(f"recipes/baselines/{name}.json" for name in lacking)
    return f"no {' and no '.join(lacking)} of these data to compare with: train {recipes} on them"


def load(
    paths: Sequence[Path], tests: Sequence[TestSet], given: int, device: torch.device
) -> tuple[list[Entrant], dict[str, dict[str, Any]]]:
    """The zoo's entrants, and what report.json says of them; `given` frames are given.

    Raises:
        CheckpointError, UserError: a path holds no whole checkpoint, or none that can be compared.
    """
    entrants: list[Entrant] = []
    told: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            checkpoint = open_checkpoint(path, device)
        except (CheckpointError, DataError) as error:
            raise CheckpointError(f"--zoo: {error}") from None
        name = _name(checkpoint, told)
        if checkpoint.model.context_frames > given:
            raise UserError(
                f"{path}: it takes {checkpoint.model.context_frames} given frames, the model to evaluate {given}; "
                "train it with the same model.context_frames, or leave it out (--zoo)"
            )
        specs = {test.spec.name: test.spec for test in tests}
        stride = checkpoint.recipe["data"].get("max_stride", 1)
        model, matches, left_out = fit(checkpoint.model, specs, stride, specs)
        families = {test.name: matches[test.spec.name].known_as for test in tests if test.spec.name in matches}
        entrants.append(Entrant(name, model, families))
        told[name] = checkpoint.told() | ({"left_out": left_out} if left_out else {})
    return entrants, told


def _name(checkpoint: Checkpoint, taken: Mapping[str, Any]) -> str:
    """A baseline's kind, or the run's name; the latter too where the kind is taken."""
    kind = checkpoint.recipe["model"]["operator"]
    name = kind if kind in BASELINES and kind not in taken else checkpoint.run
    if name in taken or name in (MODEL, *TRIVIAL):
        raise UserError(f"--zoo: two entries are called {name}; name every checkpoint once")
    return name
