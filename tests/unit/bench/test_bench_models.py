"""The kinds of models that `tools/bench.py models` trains, and the table it prints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mixed_shards
import pytest

import ups_scale
from ups_scale.bench.models import COMBINATIONS, choose, render
from ups_scale.errors import UserError
from ups_scale.recipe.load import load

DEMO = Path(ups_scale.__file__).parents[1] / "recipes" / "demo.json"


def test_every_kind_of_model_is_trained_once_by_a_valid_recipe() -> None:
    assert len({combination.name for combination in COMBINATIONS}) == len(COMBINATIONS) == 32
    models = {dataclasses.astuple(load(DEMO, combination.overrides(100)).model) for combination in COMBINATIONS}
    assert len(models) == 32
    for combination in COMBINATIONS:
        model = load(DEMO, combination.overrides(100)).model
        assert (model.encoder, model.decoder, model.prediction) == (
            combination.encoder,
            combination.decoder,
            combination.prediction,
        )


def test_kinds_are_chosen_by_parts_of_their_names(tmp_path) -> None:
    mixed_shards.write(tmp_path)
    manifest = str(tmp_path / "manifest.json")
    assert choose(manifest, []) == list(COMBINATIONS)
    assert [c.name for c in choose(manifest, ["stacked_grid_patch_latent"])] == ["stacked_grid_patch_latent"]
    with pytest.raises(UserError, match=r"--only spectral: no such model for .*; there is stacked_grid_patch_field, "):
        choose(manifest, ["spectral"])


@pytest.mark.parametrize(("error", "beats"), [(0.1, "yes"), (0.5, "**no**"), (float("nan"), "**no**")])
def test_a_row_beats_both_trivial_predictors_everywhere_or_does_not(error: float, beats: str) -> None:
    row = {"prediction": "field", "encoder": "grid", "operator": "stacked", "decoder": "patch"}
    row |= {"params_m": 1.234, "steps": 7, "cpu_s": 12.3}
    row["families"] = {"a_1d": {"1": [0.1, 0.4], "4": [error, 0.4]}, "b_1d": {"1": [0.2, 0.4], "4": [0.9, 1.5]}}
    *_, line, persistence = render([row]).splitlines()
    assert line.endswith(f"| {beats} |")
    assert line.startswith("| field | grid | stacked | patch | 1.23 | 7 | 12 | 0.100 |")
    assert persistence.endswith("| 0.400 | 0.400 | 0.400 | 1.500 | |")
