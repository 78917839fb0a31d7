"""What a recipe asks of a data set, by family; entries without a train split are for evaluation."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mixed_shards
import pytest

from ups_scale.data.manifest import Manifest, load_manifest
from ups_scale.errors import RecipeError
from ups_scale.recipe import load
from ups_scale.train.requirements import chosen, trained_specs, unmet

DEMO = Path(__file__).parents[3] / "recipes" / "demo.json"
RECIPE = load(DEMO, ["evaluate.every_steps=0"])  # patches of 4


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Manifest]:
    """The waves and steady problems of `mixed_shards`, whose grids patches of 4 cut, changed by a function of the
    manifest's families."""
    mixed_shards.write(tmp_path)
    written = json.loads((tmp_path / "manifest.json").read_text())
    del written["families"]["ocean_2d"]

    def make(edit: Callable[[dict[str, Any]], object] = lambda families: None) -> Manifest:
        content = copy.deepcopy(written)
        edit(content["families"])
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        return load_manifest(tmp_path)

    return make


def with_test_at(families: dict[str, Any], name: str, size: int) -> None:
    """A further entry of waves, on a grid of `size` points, to be tested on only."""
    waves = families["waves_1d"]
    test = [
        shard | {"file": shard["file"].replace("waves_1d-valid", f"{name}-test")} for shard in waves["splits"]["valid"]
    ]
    families[name] = waves | {"grid": [size], "splits": {"test": test}, "num_frames": {"test": 5}}


def test_the_model_is_built_for_what_is_trained_on(data: Callable[..., Manifest]) -> None:
    manifest = data(lambda families: with_test_at(families, "odd_1d", 37))
    specs, notes = trained_specs(RECIPE, manifest)
    assert [spec.name for spec in specs] == ["waves_1d", "darcy_2d"]
    assert specs == [manifest.families[spec.name].spec for spec in specs]
    assert notes == []
    assert unmet(RECIPE, manifest, 1) == [], "what is not trained on asks nothing"


def test_a_model_can_be_trained_on_some_of_the_entries(data: Callable[..., Manifest]) -> None:
    def with_tests(families: dict[str, Any]) -> None:
        with_test_at(families, "waves_1d-37", 37)
        with_test_at(families, "darcy_2d-37", 37)

    manifest = data(with_tests)
    recipe = load(DEMO, ["evaluate.every_steps=0", 'data.families=["waves_1d"]'])
    some = chosen(recipe, manifest)
    # What is for evaluation stays if it is of the same family.
    assert list(some.families) == ["waves_1d", "waves_1d-37"]
    assert some.digest == manifest.digest
    assert [spec.name for spec in trained_specs(recipe, some)[0]] == ["waves_1d"]
    assert unmet(recipe, manifest, 1) == []
    assert chosen(RECIPE, manifest) is manifest


def test_entries_that_there_are_not_are_refused_with_those_that_there_are(data: Callable[..., Manifest]) -> None:
    manifest = data(lambda families: with_test_at(families, "waves_1d-37", 37))
    recipe = load(DEMO, ["evaluate.every_steps=0", 'data.families=["waves_1d-37", "wave_1d"]'])
    text = "data.families: found waves_1d-37, wave_1d; .* no such entries to train on. It has darcy_2d, waves_1d"
    with pytest.raises(RecipeError, match=text):
        chosen(recipe, manifest)
    assert [re.search(text, problem) is not None for problem in unmet(recipe, manifest, 1)] == [True]


def test_patches_that_overlap_are_said(data: Callable[..., Manifest]) -> None:
    manifest = data(lambda families: families["waves_1d"].update(grid=[37]))
    specs, notes = trained_specs(RECIPE, manifest)
    assert [spec.name for spec in specs] == ["waves_1d", "darcy_2d"]
    assert notes == ["waves_1d: 37 points in 10 patches of 4, which overlap"]
    assert unmet(RECIPE, manifest, 1) == []


def test_a_lattice_that_the_windows_do_not_fit_is_refused_with_those_that_do(data: Callable[..., Manifest]) -> None:
    manifest = data(lambda families: families["waves_1d"].update(grid=[52]))
    recipe = load(
        DEMO,
        [
            "evaluate.every_steps=0",
            "model.operator=u_shaped",
            "model.depth=7",
            "model.u_stages=[1,2,4,8]",
            "model.latent_tokens=14",
        ],
    )
    (problem,) = unmet(recipe, manifest, 1)
    assert problem.startswith("family waves_1d: a grid of 52 points makes 13 tokens along axis 0")
    assert "the nearest that do are 8 and 16" in problem


def test_sound_data_is_enough_with_and_without_validation(data: Callable[..., Manifest]) -> None:
    assert trained_specs(RECIPE, data())[1] == []
    assert unmet(RECIPE, data(), 2) == []
    assert unmet(load(DEMO, ["evaluate.every_steps=250", "evaluate.horizons=[4]"]), data(), 2) == []


def test_a_cache_needs_room_for_the_shards_that_are_open(data: Callable[..., Manifest], tmp_path: Path) -> None:
    data()
    for gib, problems in ((1.0, 0), (1e-6, 1)):
        manifest = load_manifest(f"file://{tmp_path}", tmp_path / "cache", gib)
        found = unmet(RECIPE, manifest, 2)
        assert len(found) == problems
        assert all(text.startswith("data.cache_gib: found 1e-06; at least ") for text in found)


def test_a_train_split_is_needed_and_a_valid_one_to_validate_on(data: Callable[..., Manifest]) -> None:
    def untrained(families: dict[str, Any]) -> None:
        for family in families.values():
            del family["splits"]["train"], family["num_frames"]["train"]

    manifest = data(untrained)
    assert unmet(RECIPE, manifest, 1) == [
        f"{manifest.path}: no family has a train split; give tools/shard.py training data too"
    ]

    def unvalidated(families: dict[str, Any]) -> None:
        with_test_at(families, "fine_1d", 32)
        del families["waves_1d"]["splits"]["valid"], families["waves_1d"]["num_frames"]["valid"]

    manifest = data(unvalidated)
    assert unmet(RECIPE, manifest, 1) == []
    (problem,) = unmet(load(DEMO, ["evaluate.every_steps=250", "evaluate.horizons=[4]"]), manifest, 1)
    assert problem == (
        "family waves_1d has no valid split, though evaluate.every_steps 250 asks for validation during training; it "
        "has train. Convert one too, or set it to 0"
    )


def test_horizons_ask_for_frames_but_not_of_steady_families(data: Callable[..., Manifest]) -> None:
    (problem,) = unmet(load(DEMO, ["evaluate.every_steps=0", "curriculum.horizons=[1,8]"]), data(), 1)
    assert problem.startswith("curriculum.horizons: ")
    assert '"waves_1d", which has 6 frames' in problem
    assert unmet(load(DEMO, ["evaluate.every_steps=0", "curriculum.horizons=[1,5]"]), data(), 1) == []


def test_each_horizon_leaves_every_rank_a_window(data: Callable[..., Manifest]) -> None:
    """Of the 4096 tokens of a draw a frame of waves takes 4, one of the steady family 1, which has one horizon."""
    recipe = load(DEMO, ["evaluate.every_steps=0", "curriculum.horizons=[1,2]", "data.draws_per_step=1"])
    assert unmet(recipe, data(), 512) == []
    told = [re.match(r"data.batch_tokens gives a draw of (.*), fewer", line)[1] for line in unmet(recipe, data(), 5000)]
    assert told == [
        "darcy_2d 4096 windows at horizon 1",
        "waves_1d 1024 windows at horizon 1",
        "waves_1d 512 windows at horizon 2",
    ]
    stated = load(
        DEMO, ["evaluate.every_steps=0", "data.draws_per_step=1", "engine.accumulation=1", "engine.micro_batch=1"]
    )
    problems = unmet(stated, data(), 1)
    assert problems[0].startswith("engine.accumulation: found 1, which gives ")
