from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import CONDITIONING, LINE, MODEL, PLANE, SPECS, TORUS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ups_scale.model.build import build_model
from ups_scale.model.simulator import Simulator
from ups_scale.observe.activations import activations
from ups_scale.observe.budget import GIB, budget, render
from ups_scale.observe.flops import forward_flops, training_flops
from ups_scale.observe.pictures import comparison
from ups_scale.observe.sinks import Sinks
from ups_scale.recipe import load

RECIPES = Path(__file__).parents[3] / "recipes"


def test_flops_against_a_count_by_hand() -> None:
    with torch.device("meta"):
        model = Simulator([LINE], MODEL, CONDITIONING)
    tokens, d, heads_d, depth, latent, patch = 8, 32, 32, 2, 24, 4
    block = 2 * tokens * (d * 3 * d + d * d + 2 * d * 2 * d) + 2 * 2 * tokens * tokens * heads_d + 2 * d * 6 * d
    ends = 2 * tokens * (patch * latent + latent * d + d * latent + latent * patch)
    conditions = 2 * d * d * 2 + 2 * d * 2 * latent
    counted = forward_flops(model, "advection_1d")
    # The embeddings of the scalar conditions are the rest: a handful of rows.
    assert depth * block + ends + conditions <= counted <= 1.1 * (depth * block + ends + conditions)
    assert training_flops(model, "advection_1d") == 3 * counted


@pytest.mark.parametrize("name", ["demo", "S", "B", "L"])
def test_the_plan_adds_up_for_every_recipe(name: str) -> None:
    recipe = load(RECIPES / f"{name}.json")
    plan = budget(recipe, SPECS, 4)
    parameters = dict(plan["parameters"])
    assert parameters.pop("total") == sum(parameters.values())
    stages = plan["gib_per_rank"]
    weight = 2 if recipe.engine.precision == "bf16" else 4
    total = plan["parameters"]["total"]
    assert stages["1"]["weights"] == pytest.approx(total * weight / GIB)
    assert stages["3"]["total"] == pytest.approx(total * (2 * weight + 16) / 4 / GIB)
    assert stages["1"]["total"] > stages["2"]["total"] > stages["3"]["total"]
    assert (stages["0"] is None) == (recipe.engine.precision == "bf16")
    assert plan["accumulation"] % recipe.data.draws_per_step == 0
    parts = 4 * plan["accumulation"] // recipe.data.draws_per_step  # of a draw, one for each microstep of a rank
    for family in plan["families"].values():
        kept_mib = max(
            int(horizon) * (-(-windows // parts) * family["activation_mib_per_frame"] + family["activation_mib_shared"])
            for horizon, windows in family["windows_per_draw"].items()
        )
        assert family["activation_gib_per_microstep"] == pytest.approx(kept_mib / 1024)
    text = render({**plan, "families_from": "a test"})
    assert "navier_stokes_2d" in text
    assert f"{plan['accumulation']} microsteps" in text


def test_families_that_are_alike_in_the_plan_cost_the_same() -> None:
    recipe = load(RECIPES / "demo.json")
    twin = replace(TORUS, name="kolmogorov_flow_2d", fields=("speed",), parameters=("mu",), u_rms=(7.0,), dt=2.0)
    specs = (TORUS, PLANE, twin)
    plan = budget(recipe, specs, 1)["families"]
    with torch.device("meta"):
        model = build_model(recipe, specs)
    for spec in specs:
        planned = plan[spec.name]
        assert planned["training_gflops_per_frame"] == training_flops(model, spec.name) / 1e9
        assert planned["activation_mib_per_frame"] == activations(model, spec.name, "none").per_sample / 2**20


def test_metrics_lines_and_board(tmp_path: Path, capsys) -> None:
    sinks = Sinks(tmp_path, 0, 20)
    for step in (5, 10, 15):
        sinks.training({"step": step, "loss": 1 / step, "grad_norm": None, "lr": 1e-3, "tokens_per_s": 5.0})
    sinks.validation(15, {"burgers_1d/model/nrmse@1": 0.5, "burgers_1d/model/nrmse@4": math.nan})
    sinks.picture("burgers_1d/u", 15, np.zeros((8, 8, 3), np.uint8))
    sinks.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 15]
    assert lines[3]["validation"] == {"burgers_1d/model/nrmse@1": 0.5, "burgers_1d/model/nrmse@4": None}
    assert "step 10/20  loss 0.1" in capsys.readouterr().out
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [5, 10, 15]
    assert board.Scalars("validation/burgers_1d/model/nrmse@1")[0].value == 0.5
    assert board.Images("burgers_1d/u")


def test_a_resumed_run_drops_the_lines_it_will_do_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 0.0}) + "\n" for step in (5, 10, 15)) + '{"step": 2')
    Sinks(tmp_path, 10, 20).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [5, 10]


@pytest.mark.parametrize("grid", [(32,), (16, 8), (8, 6, 4)])
def test_the_picture_shows_the_error(grid: tuple[int, ...]) -> None:
    truth = torch.randn(10, *grid, generator=torch.Generator().manual_seed(0))
    same, other = comparison(truth, truth), comparison(truth + torch.linspace(0, 1, grid[-1]), truth)
    assert same.dtype == np.uint8
    assert same.shape == other.shape
    third = same.shape[0] // 3
    assert np.array_equal(same[:third], other[:third])
    assert not np.array_equal(same[2 * third :], other[2 * third :])
    assert comparison(torch.full_like(truth, math.nan), truth).shape == same.shape
