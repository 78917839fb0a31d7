"""From a recipe to a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from ups_scale.model.simulator import Simulator
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe.types import Recipe


def build_model(recipe: Recipe, specs: Iterable[FamilySpec]) -> Simulator:
    """The untrained model of a recipe for the given families (sorted by name, so that their order never matters).

    Weights come from torch's global generator: seed it first. Under `torch.device("meta")` nothing is allocated.

    Raises:
        RecipeError: a family's grid can't be cut in patches, or it is a point set, or it has nothing to predict.
    """
    ordered = sorted(specs, key=lambda spec: spec.name)
    return Simulator(ordered, asdict(recipe.model), asdict(recipe.conditioning))
