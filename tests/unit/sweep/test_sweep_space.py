"""Spaces: the grid, what is refused, and what the objective is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from sweep_runs import RECIPE, ROOT

from ups_scale.errors import CheckpointError, DataError, RecipeError
from ups_scale.recipe.load import resolve
from ups_scale.sweep import setting
from ups_scale.sweep.outcome import measured
from ups_scale.sweep.space import check, grid, read_space, schema, space_of

DEFAULT = ROOT / "recipes" / "sweep" / "default.json"


def space(coarse: dict[str, Any], local: dict[str, Any] | None = None, **rest: Any) -> Any:
    return space_of({"format": 1, "coarse": {"keys": coarse}, "local": {"keys": local or {}}, **rest})


def problems(found: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        check(found, resolve(RECIPE), "space.json")
    return caught.value.problems


def test_the_schema_is_valid_and_shipped_spaces_fit_the_demo() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    for path in sorted((ROOT / "recipes" / "sweep").glob("*.json")):
        assert (path.parent / json.loads(path.read_text())["$schema"]).resolve() == ROOT / "ups_scale/sweep/schema.json"
        check(read_space(path), resolve(RECIPE), str(path), everything=True)


def test_the_default_grid_is_36_points_of_which_24_are_drawn_with_the_recipes_own_first() -> None:
    base, default = resolve(RECIPE), read_space(DEFAULT)
    own = {"optimizer.lr": 0.002, "schedule.warmup_ratio": 0.05}
    own |= {"stabilization.ema_decay": 0.999, "stabilization.grad_clip": 1.0}
    whole, drawn = grid(default, base, True), grid(default, base, False)
    assert whole[0] == drawn[0] == own  # its warm-up is none of the grid's
    assert len(whole) == 37
    assert len(drawn) == 24
    assert {json.dumps(values) for values in drawn} <= {json.dumps(values) for values in whole}
    assert drawn == grid(default, base, False)
    other = space_of({**default.document, "seed": 1})
    assert drawn != grid(other, base, False)
    assert {values["optimizer.lr"] for values in whole} == {0.001, 0.002, 0.003}


def test_all_that_does_not_fit_the_recipe_is_told_at_once() -> None:
    found = space(
        {
            "optimizer.lrr": {"factors": [1, 2]},
            "schedule.steps": {"values": [100]},
            "stabilization.noise": {"values": [0.1, 0.9]},
            "optimizer.name": {"factors": [2]},
            "stabilization.grad_clip": {"values": [1, 1]},
        },
        {"schedule.warmup_ratio": {"factors": [1, 11]}},
    )
    assert problems(found) == [
        'coarse.keys.optimizer.lrr: no key of a recipe; did you mean "optimizer.lr"?',
        "coarse.keys.schedule.steps: does not change what is trained, so that its trials would be one run; "
        "leave it out",
        "coarse.keys.stabilization.noise: found 0.9; allowed: a number from 0 to 0.5",
        'coarse.keys.optimizer.name: the recipe has "adamw", which has no multiples; state values',
        "coarse.keys.stabilization.grad_clip: 1 is stated twice; keep one",
        "local.keys.schedule.warmup_ratio: found 0.55; allowed: a number from 0 to 0.5",
    ]


def test_combinations_that_break_a_rule_are_refused() -> None:
    (line,) = problems(space({"model.num_heads": {"values": [4, 3]}}))
    assert line.startswith("with num_heads 3: model.num_heads: found 3, which does not divide")


def test_a_space_is_checked_by_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    keys = {"optimizer.lr": {"factors": [1], "values": [1]}, "stabilization.noise": {"within": 0.1}}
    path.write_text(json.dumps({"format": 1, "coarse": {"keys": keys}, "locl": {}}))
    with pytest.raises(RecipeError) as caught:
        read_space(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: 3 problems")
    assert 'locl: unknown key; did you mean "local"?' in text
    assert 'allowed: {"values": [...]} or {"factors": [...]}' in text


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    base = resolve(RECIPE)
    first = setting.describe(space({"optimizer.lr": {"factors": [1, 2]}}), RECIPE, [], base, "d", False)
    out = tmp_path / "sweep"
    setting.check_same(out, first)
    setting.establish(out, first)
    setting.check_same(out, first)
    assert resolve(out / "recipe.json") == base
    other = {**base, "optimizer": {**base["optimizer"], "lr": 0.1}}
    second = setting.describe(space({"optimizer.lr": {"factors": [1, 3]}}), RECIPE, [], other, "e", False)
    with pytest.raises(CheckpointError) as caught:
        setting.check_same(out, second)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "space.coarse.keys.optimizer.lr.factors: [1, 2] -> [1, 3]",
        "optimizer.lr: 0.002 -> 0.1",
        'manifest_digest: "d" -> "e"',
    ]
    with pytest.raises(CheckpointError, match="not empty, and no sweep"):
        setting.check_same(tmp_path, first)


def test_a_slurm_script_is_an_array_that_asks_to_stop_in_time(tmp_path: Path) -> None:
    text = setting.write_batch(tmp_path, 4, "cd / && exec true --worker", 2).read_text()
    assert "#SBATCH --array=0-3\n" in text
    assert "#SBATCH --signal=B:TERM@120" in text
    assert "cd / && exec true --worker &" in text


def report(**families: tuple[dict[str, float | None], dict[str, float | None]]) -> dict[str, Any]:
    return {"families": {name: {"model": own, "persistence": bar} for name, (own, bar) in families.items()}}


def test_the_objective_is_a_geometric_mean_against_the_better_trivial_predictor() -> None:
    found = report(
        a=({"nrmse@1": 0.1, "nrmse@4": 0.5, "vrmse@1": 9.0}, {"nrmse@1": 0.2, "nrmse@4": 3.0}),
        b=({"nrmse@1": 0.4}, {"nrmse@1": 0.3}),
    )
    value, worse, lost = measured(found)
    assert value == pytest.approx(math.exp((math.log(0.1 / 0.2) + math.log(0.5 / 1.0) + math.log(0.4 / 0.3)) / 3))
    assert worse == ("b",)
    assert lost == ()


def test_figures_that_are_not_finite_give_no_objective() -> None:
    found = report(a=({"nrmse@1": None, "nrmse@4": 0.5, "non_finite@4": 2}, {"nrmse@1": 0.2, "nrmse@4": 3.0}))
    assert measured(found) == (None, (), ("a at step 1", "a at step 4"))
    with pytest.raises(DataError, match="no nRMSE"):
        measured({"families": {}})
