"""Extending, overriding, presets and derived values."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ups_scale.errors import RecipeError
from ups_scale.recipe.load import add_recipe_arguments, difference, from_dict, load, resolve

Write = Callable[..., Path]
Refusal = Callable[..., list[str]]


def test_extends_merges_objects_and_replaces_lists(write: Write) -> None:
    write({"run": {"name": "far", "seed": 5}, "curriculum": {"horizons": [1, 2, 3]}}, "far/base.json")
    write({"extends": "far/base.json", "run": {"name": "near"}, "data": {"draws_per_step": 2}}, "near.json")
    path = write({"extends": "../near.json", "curriculum": {"horizons": [8]}}, "folder/child.json")
    recipe = load(path)
    assert (recipe.run.name, recipe.run.seed) == ("near", 5)
    assert recipe.curriculum.horizons == (8,)
    assert recipe.data.draws_per_step == 2


def test_problem_of_a_base_names_the_base_even_if_it_is_overridden(write: Write, refusal: Refusal) -> None:
    base = write({"model": {"depth": 0}, "extends": 3, "zzz": 1}, "base.json")
    lines = refusal({"extends": "base.json", "model": {"depth": 2}})
    assert f"model.depth: found 0; allowed: an integer from 1 to 128 (from {base})" in lines
    assert any(line.startswith("zzz: unknown key") and line.endswith(f"(from {base})") for line in lines)
    assert any(line.startswith("extends: found 3; allowed: ") for line in lines)


def test_extends_in_a_circle_shows_the_chain(write: Write, tmp_path: Path, refusal: Refusal) -> None:
    write({"extends": "b.json"}, "a.json")
    write({"extends": "case.json"}, "b.json")
    chain = " -> ".join(str(tmp_path / name) for name in ("case.json", "a.json", "b.json", "case.json"))
    assert refusal({"extends": "a.json"}) == [f"extends: goes in a circle: {chain}; remove one of these"]
    assert refusal({"extends": "case.json"}) == [
        f"extends: goes in a circle: {tmp_path / 'case.json'} -> {tmp_path / 'case.json'}; remove one of these"
    ]


def test_missing_or_malformed_base_shows_the_chain(write: Write, tmp_path: Path, refusal: Refusal) -> None:
    (line,) = refusal({"extends": "none.json"})
    assert line == (
        f"extends: {tmp_path / 'case.json'} -> {tmp_path / 'none.json'}: no such file; "
        'the path in "extends" starts at the folder of its own file'
    )
    write("{", "broken.json")
    (line,) = refusal({"extends": "broken.json"})
    assert f"{tmp_path / 'broken.json'}: line 1, column 2: malformed JSON" in line


def test_overrides_are_json_and_the_last_one_wins(write: Write) -> None:
    path = write({"optimizer": {"lr": 1e-3}})
    recipe = load(
        path,
        [
            "optimizer.betas=[0.8, 0.9]",
            "schedule.name=wsd",
            "conditioning.dt=false",
            "run.seed=1",
            "run.seed=2",
            "optimizer.lr=null",
            'model={"depth": 2, "drop_path": 0}',
            "model.depth=3",
            "description=a=b",
        ],
    )
    assert recipe.optimizer.betas == (0.8, 0.9)
    assert recipe.schedule.name == "wsd"
    assert recipe.conditioning.dt is False
    assert recipe.run.seed == 2
    assert recipe.optimizer.lr == 3e-4
    assert (recipe.model.depth, recipe.model.drop_path) == (3, 0.0)
    assert recipe.description == "a=b"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optimizer.lr", "--set optimizer.lr: expected KEY=VALUE, such as optimizer.lr=3e-4"),
        ("=3", "--set =3: expected KEY=VALUE, such as optimizer.lr=3e-4"),
        ("run..seed=3", "--set run..seed=3: expected KEY=VALUE, such as optimizer.lr=3e-4"),
        ("extends=base.json", "--set extends=base.json: extends can only be stated in a file"),
        ("optimizer.lrr=1", 'optimizer.lrr: unknown key; did you mean "lr"? (from --set)'),
        ("optimizer.lr=NaN", 'optimizer.lr: found "NaN"; allowed: a number above 0 up to 1 or null (from --set)'),
        ("optimizer.lr.x=1", 'optimizer.lr: found {"x": 1}; allowed: a number above 0 up to 1 or null (from --set)'),
        ("optimizer=1", "optimizer: found 1; allowed: an object (from --set)"),
        ('run={"seed": 1, "seed": 2}', '--set run={"seed": 1, "seed": 2}: "seed" is stated more than once'),
    ],
)
def test_wrong_override(refusal: Refusal, override: str, line: str) -> None:
    assert refusal({}, override) == [line]


def test_size_fills_only_what_no_recipe_states(write: Write) -> None:
    write({"model": {"size": "S", "depth": 6}}, "base.json")
    recipe = load(write({"extends": "base.json"}), ["model.size=B", "model.latent_dim=96"])
    model = recipe.model
    assert (model.size, model.depth, model.model_dim, model.num_heads) == ("B", 6, 512, 8)
    assert (model.latent_tokens, model.latent_dim) == (768, 96)


@pytest.mark.parametrize(
    ("batch_tokens", "lr"),
    [(8192, 1.5e-4), (131072, 1.5e-4), (262144, 3e-4), (393216, 4.5e-4), (524288, 6e-4), (1048576, 6e-4)],
)
def test_unstated_learning_rate_follows_the_batch(write: Write, batch_tokens: int, lr: float) -> None:
    document = {"data": {"batch_tokens": batch_tokens}}
    assert resolve(write(document))["optimizer"]["lr"] == pytest.approx(lr, rel=1e-12)
    assert resolve(write(document | {"optimizer": {"lr": 0.01}}))["optimizer"]["lr"] == 0.01


def test_resolved_recipe_stands_on_its_own(write: Write) -> None:
    write({"run": {"name": "base"}}, "base.json")
    resolved = resolve(write({"$schema": "x.json", "extends": "base.json", "model": {"size": "tiny"}}))
    assert not {"$schema", "extends"} & resolved.keys()
    before = copy.deepcopy(resolved)
    recipe = from_dict(resolved)
    assert resolved == before
    assert recipe.as_dict() == resolved
    assert resolve(write(resolved, "saved.json")) == resolved
    assert json.loads(json.dumps(resolved, allow_nan=False)) == resolved


def test_numbers_take_the_type_of_their_key(write: Write) -> None:
    recipe = load(write('{"model": {"mlp_ratio": 2, "drop_path": -0.0}, "schedule": {"steps": 1e3}}'))
    assert isinstance(recipe.model.mlp_ratio, float)
    assert str(recipe.model.drop_path) == "0.0"
    assert isinstance(recipe.schedule.steps, int)
    assert recipe.schedule.steps == 1000


def test_recipe_is_frozen(write: Write) -> None:
    recipe = load(write({}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.run.seed = 1  # type: ignore[misc]


def test_recipes_do_not_share_defaults(write: Write) -> None:
    first: dict[str, Any] = resolve(write({}))
    first["curriculum"]["horizons"].append(64)
    first["run"]["seed"] = 9
    assert resolve(write({}))["curriculum"]["horizons"] == [4, 8, 16, 32]
    assert resolve(write({}))["run"]["seed"] == 0


def test_difference_names_the_keys_that_changed(write: Write) -> None:
    before = resolve(write({"optimizer": {"lr": 3e-4}}))
    after = resolve(write({"optimizer": {"lr": 6e-4}, "engine": {"accumulation": 4}, "run": {"name": "x"}}))
    assert difference(before, before) == []
    assert difference(before, after) == [
        'run.name: "run" -> "x"',
        "optimizer.lr: 0.0003 -> 0.0006",
        "engine.accumulation: null -> 4",
    ]
    del before["run"]["name"]
    assert difference(before, after)[-1] == 'run.name: (not there) -> "x"'


def test_command_line_arguments(write: Write) -> None:
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    path = str(write({}))
    arguments = parser.parse_args(["--recipe", path, "--set", "run.seed=3", "--set", "run.name=x"])
    assert load(arguments.recipe, arguments.set).run.seed == 3
    assert parser.parse_args(["--recipe", path]).set == []


def test_missing_recipe_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="check the path"):
        resolve(str(tmp_path / "gone.json"), ["run.seed=1"])
