"""Every recipe that ships is valid, fits the machine it names, and carries its reference figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import ups_scale
from ups_scale.recipe import rules
from ups_scale.recipe.load import load

RECIPES = Path(ups_scale.__file__).parents[1] / "recipes"
# mappings/ describes people's data files, data/ what is generated; both have tests of their own.
SHIPPED = sorted(path.name for path in RECIPES.glob("*.json"))


def test_recipes_are_found() -> None:
    assert {"base.json", "S.json", "B.json", "L.json", "demo.json"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_is_valid_and_its_batch_is_reached(name: str) -> None:
    recipe = load(RECIPES / name)
    ranks = max(recipe.engine.min_gpus, 1)
    steps = rules.accumulation(recipe, ranks)
    tokens = steps * ranks * rules.micro_tokens(recipe)
    assert recipe.data.batch_tokens <= tokens < 2 * recipe.data.batch_tokens


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_points_editors_at_the_schema_and_says_what_it_is_for(name: str) -> None:
    path = RECIPES / name
    document = json.loads(path.read_text("utf-8"))
    schema = os.path.normpath(path.parent / document["$schema"])
    assert Path(schema) == Path(ups_scale.__file__).parent / "recipe" / "schema.json"
    assert document["description"]
    assert document["format"] == 1


@pytest.mark.parametrize(
    ("name", "model", "figures"),
    [
        ("S", (24, 384, 8, 512, 384), (3e-4, 0.05, 262144, 1, "selective", 1)),
        ("B", (32, 512, 8, 768, 512), (6e-4, 0.03, 524288, 2, "selective", 4)),
        ("L", (40, 768, 12, 1024, 512), (6e-4, 0.03, 2097152, 3, "full", 8)),
    ],
)
def test_reference_figures(name: str, model: tuple[int, ...], figures: tuple[Any, ...]) -> None:
    recipe = load(RECIPES / f"{name}.json")
    m, engine = recipe.model, recipe.engine
    assert (m.depth, m.model_dim, m.num_heads, m.latent_tokens, m.latent_dim) == model
    assert figures == (
        recipe.optimizer.lr,
        recipe.schedule.warmup_ratio,
        recipe.data.batch_tokens,
        engine.zero_stage,
        engine.activation_checkpointing,
        engine.min_gpus,
    )
    assert (engine.precision, engine.accelerator, engine.gpu_memory_gib) == ("bf16", "gpu", 80)
    assert recipe.stabilization.ema_decay == 0.9995
    assert "steps" in json.loads((RECIPES / f"{name}.json").read_text("utf-8"))["schedule"]


def test_demo_trains_on_cpu_with_two_ranks() -> None:
    recipe = load(RECIPES / "demo.json")
    assert recipe.engine.accelerator == "any"
    assert recipe.engine.precision == "fp32"
    assert recipe.model.size == "tiny"
    rules.accumulation(recipe, 2)
