"""The baselines' recipes: equal to the demo's model in what they say they are, and otherwise trained as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import ups_scale
from ups_scale.errors import RecipeError
from ups_scale.model.build import build_model
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe import rules
from ups_scale.recipe.load import difference, load, resolve
from ups_scale.solvers import default_specs

RECIPES = Path(ups_scale.__file__).parents[1] / "recipes"
SHIPPED = sorted((RECIPES / "baselines").glob("*.json"))
DEMO = ("advection_1d", "burgers_1d", "navier_stokes_2d", "reaction_diffusion_2d")


def specs_of(names: tuple[str, ...]) -> list[FamilySpec]:
    return [default_specs()[name] for name in names]


def millions(recipe: Path) -> float:
    with torch.device("meta"):
        model = build_model(load(recipe), specs_of(DEMO))
    return sum(weight.numel() for weight in model.parameters()) / 1e6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_its_batch_is_reached(path: Path) -> None:
    recipe = load(path)
    assert recipe.description
    ranks = max(recipe.engine.min_gpus, 1)
    tokens = rules.accumulation(recipe, ranks) * ranks * rules.micro_tokens(recipe)
    assert recipe.data.batch_tokens <= tokens < 2 * recipe.data.batch_tokens


def test_the_fno_has_the_parameters_of_the_demos_model() -> None:
    ours = millions(RECIPES / "demo.json")
    assert millions(RECIPES / "baselines" / "fno.json") == pytest.approx(ours, rel=0.02)
    assert millions(RECIPES / "baselines" / "unet.json") == pytest.approx(1.14 * ours, rel=0.01)


@pytest.mark.parametrize("name", ["fno", "unet"])
def test_a_baseline_is_trained_as_the_demos_model(name: str) -> None:
    changed = difference(resolve(RECIPES / "demo.json"), resolve(RECIPES / "baselines" / f"{name}.json"))
    allowed = ("run.name", "description", "model.operator", "model.model_dim", "model.modes", "optimizer.lr")
    # Patches are our model's alone.
    assert {line.partition(":")[0] for line in changed} <= {*allowed, "schedule.steps", "model.patch_jitter"}


@pytest.mark.parametrize("name", ["fno_full", "unet_full"])
def test_those_for_the_full_set_are_of_the_size_of_s(name: str) -> None:
    with torch.device("meta"):
        model = build_model(load(RECIPES / "baselines" / f"{name}.json"), default_specs().values())
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(65e6, rel=0.05)


@pytest.mark.skipif(importlib.util.find_spec("pdetransformer") is not None, reason="the package is installed")
def test_the_optional_one_says_what_to_install() -> None:
    recipe = load(RECIPES / "baselines" / "pdetransformer.json")
    assert recipe.data.families is not None
    with pytest.raises(RecipeError, match="not installed: pip install"):
        build_model(recipe, specs_of(recipe.data.families))
