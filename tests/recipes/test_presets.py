"""The sizes that recipes name: their settings, what they cost, and that docs/model.md says so."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FLOW

import ups_scale
from ups_scale.model.build import build_model
from ups_scale.model.simulator import Simulator
from ups_scale.observe.activations import activations
from ups_scale.observe.flops import forward_flops, training_flops
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe import rules
from ups_scale.recipe.load import load
from ups_scale.recipe.presets import SIZES
from ups_scale.recipe.types import Recipe
from ups_scale.solvers import default_specs

ROOT = Path(ups_scale.__file__).parents[1]
RECIPES = {"tiny": "demo.json", "S": "S.json", "B": "B.json", "L": "L.json"}
MODES = ("none", "selective", "full")
MIB = 2**20
PLANNING_S = 20

KEYS = ("operator", "depth", "model_dim", "num_heads", "window_size", "u_stages", "latent_tokens", "latent_dim")
VALUES = {
    "tiny": ("stacked", 4, 128, 4, 4, (1, 2, 4), 64, 128, 256, 16),
    "S": ("u_shaped", 24, 384, 8, 8, (1, 2, 4), 512, 384, 4096, 32),
    "B": ("u_shaped", 32, 512, 8, 12, (1, 2, 4), 768, 512, 4096, 32),
    "L": ("u_shaped", 40, 768, 12, 16, (1, 2, 4, 8), 1024, 512, 8192, 32),
}
REGISTRY = tuple(default_specs().values())


def recipe_of(size: str) -> Recipe:
    return load(ROOT / "recipes" / RECIPES[size])


@cache
def model_of(size: str, *specs: FamilySpec) -> Simulator:
    recipe = recipe_of(size)
    with torch.device("meta"):
        model = build_model(recipe, specs)
    return model.to(torch.bfloat16) if recipe.engine.precision == "bf16" else model


def table() -> dict[tuple[str, str], list[float]]:
    """The figures of the presets in docs/model.md, by preset and grid."""
    text = (ROOT / "docs" / "model.md").read_text("utf-8")
    lines = text.partition("<!-- presets -->")[2].strip().partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {(row[0], row[1]): [float(cell.replace(",", "")) for cell in row[2:]] for row in rows}


def test_every_preset_is_known_here() -> None:
    assert set(SIZES) == set(VALUES)
    assert {size for size, _ in table()} == set(SIZES)


@pytest.mark.parametrize("size", VALUES)
def test_reference_values(size: str) -> None:
    model = recipe_of(size).model
    assert model.size == size
    assert tuple(getattr(model, key) for key in (*KEYS, "supernodes", "neighbours")) == VALUES[size]
    # What a preset leaves to the defaults.
    assert (model.encoder, model.decoder, model.prediction, model.mlp_ratio) == ("grid", "patch", "field", 4)
    assert (model.qk_rmsnorm, model.channel_separated, model.patch_size, model.context_frames) == (True, False, 4, 1)


@pytest.mark.parametrize("grid", ["64x64, 2 fields", "128x128, 4 fields"])
@pytest.mark.parametrize("size", VALUES)
def test_the_docs_say_what_a_preset_costs(size: str, grid: str) -> None:
    specs, name = (REGISTRY, "gray_scott_2d") if grid.startswith("64") else ((FLOW,), FLOW.name)
    model = model_of(size, *specs)
    assert grid.startswith("x".join(map(str, model.specs[name].grid)))
    kept = [activations(model, name, mode) for mode in MODES]
    measured = [
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        model.num_tokens(name),
        forward_flops(model, name) / 1e9,
        training_flops(model, name) / 1e9,
        *(of_mode.per_sample / MIB for of_mode in kept),
        kept[0].shared / MIB,
        kept[2].shared / MIB,
    ]
    assert table()[size, grid] == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("size", VALUES)
def test_every_built_in_family_has_a_lattice_and_a_window_for_every_rank(size: str) -> None:
    recipe, model = recipe_of(size), model_of(size, *REGISTRY)
    longest, ranks = max(recipe.curriculum.horizons), max(recipe.engine.min_gpus, 1)
    draws = recipe.data.batch_tokens // recipe.data.draws_per_step
    for spec in REGISTRY:
        tokens = model.num_tokens(spec.name)
        assert 32 <= tokens <= recipe.model.latent_tokens
        assert draws // (tokens * longest) >= ranks
        assert tokens * longest <= rules.micro_tokens(recipe)


@cache
def plan(*arguments: str) -> tuple[dict[str, Any], float]:
    """(what tools/plan.py prints as JSON, seconds of CPU time it took)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "tools/plan.py", *arguments, "--set", "data.manifest=not-there.json", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return json.loads(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# A plan takes seconds of each: the smallest in every run of the tests, the rest in those that take long.
PLANNED = ["tiny", *(pytest.param(size, marks=pytest.mark.slow) for size in ("S", "B", "L"))]


@pytest.mark.parametrize("size", PLANNED)
def test_planning_takes_seconds_and_gives_the_docs_figures(size: str) -> None:
    figures, seconds = plan("--recipe", f"recipes/{RECIPES[size]}")
    assert seconds < PLANNING_S
    assert set(figures["families"]) == {spec.name for spec in REGISTRY}
    parameters, tokens, _, training, *kept = table()[size, "64x64, 2 fields"]
    family = figures["families"]["gray_scott_2d"]
    assert figures["parameters"]["total"] / 1e6 == pytest.approx(parameters, rel=0.01)
    assert family["tokens_per_frame"] == tokens
    assert family["training_gflops_per_frame"] == pytest.approx(training, rel=0.01)
    mode = MODES.index(figures["activation_checkpointing"])
    assert family["activation_mib_per_frame"] == pytest.approx(kept[mode], rel=0.01)


@pytest.mark.parametrize("size", PLANNED[1:])
def test_weights_optimizer_and_activations_fit_the_gpu_that_the_recipe_names(size: str) -> None:
    recipe = recipe_of(size)
    figures, _ = plan("--recipe", f"recipes/{RECIPES[size]}")
    held = figures["gib_per_rank"][str(figures["zero_stage"])]["total"]
    most = max(family["activation_gib_per_microstep"] for family in figures["families"].values())
    # Room for temporary tensors, gathered weights and communication.
    assert held + most < 0.5 * recipe.engine.gpu_memory_gib


def test_the_docs_example_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "model.md").read_text("utf-8")
    code = text.partition("<!-- example -->")[2].partition("```python\n")[2].partition("```")[0]
    shapes = "\nprint(*(tuple(x.shape) for x in (fine, some, frames)), new)\n"
    code = code.replace("recipes/demo.json", str(ROOT / "recipes" / "demo.json"))
    done = subprocess.run(
        [sys.executable, "-c", code + shapes], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 4, 1, 100, 60) (2, 1, 1, 500) (2, 4, 1, 96, 48) []"
