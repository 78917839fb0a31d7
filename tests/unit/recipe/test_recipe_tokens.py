"""The arithmetic of tokens, and the fit of windows to the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups_scale.errors import RecipeError
from ups_scale.recipe import rules
from ups_scale.recipe.load import from_dict, load
from ups_scale.recipe.types import Recipe


def recipe_of(tokens: int = 8192, draws: int = 4, micro_batch: int = 16, **engine: Any) -> Recipe:
    return from_dict(
        {
            "data": {"batch_tokens": tokens, "draws_per_step": draws},
            "model": {"latent_tokens": 64},
            "curriculum": {"horizons": [1]},
            "engine": {"micro_batch": micro_batch, **engine},
        }
    )


def test_micro_tokens_take_the_longest_horizon(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"curriculum": {"horizons": [2, 8]}, "engine": {"micro_batch": 3}}')
    assert rules.micro_tokens(load(tmp_path / "r.json")) == 3 * 64 * 8


@given(
    tokens=st.integers(1024, 10**7), draws=st.integers(1, 16), micro_batch=st.integers(1, 64), ranks=st.integers(1, 64)
)
def test_derived_accumulation_is_the_least_that_reaches_the_batch(
    tokens: int, draws: int, micro_batch: int, ranks: int
) -> None:
    recipe = recipe_of(tokens, draws, micro_batch)
    steps = rules.accumulation(recipe, ranks)
    per_draw_round = draws * ranks * rules.micro_tokens(recipe)
    assert steps % draws == 0
    assert steps // draws * per_draw_round >= tokens
    assert (steps // draws - 1) * per_draw_round < tokens


def test_stated_accumulation_is_taken_when_it_reaches_the_batch() -> None:
    assert rules.accumulation(recipe_of(accumulation=4), 2) == 4
    assert rules.accumulation(recipe_of(accumulation=16), 2) == 16


def test_stated_accumulation_that_falls_short_shows_the_arithmetic() -> None:
    with pytest.raises(RecipeError) as caught:
        rules.accumulation(recipe_of(accumulation=4), 1)
    assert str(caught.value) == (
        "engine.accumulation: found 4, which gives 4 microsteps x 1 ranks x 1024 tokens per microstep "
        "(engine.micro_batch 16 x model.latent_tokens 64 x longest horizon 1) = 4096 tokens per step, "
        "less than data.batch_tokens 8192; use 8, or null to derive it"
    )


@pytest.fixture
def windows() -> Callable[..., Recipe]:
    def build(context: int, horizons: list[int], evaluated: list[int], every: int = 10) -> Recipe:
        return from_dict(
            {
                "run": {"name": "fit"},
                "model": {"context_frames": context},
                "curriculum": {"horizons": horizons},
                "evaluate": {"horizons": evaluated, "every_steps": every},
            }
        )

    return build


def test_windows_that_fit_the_data(windows: Callable[..., Recipe]) -> None:
    rules.check_data(windows(2, [4, 8], [1]), {"burgers": {"train": 10}, "advection": {"train": 11, "valid": 3}})
    rules.check_data(windows(1, [1], [1, 16], every=0), {"burgers": {"train": 2, "valid": 2}})


def test_each_split_has_room_for_its_own_horizons(windows: Callable[..., Recipe]) -> None:
    """A long trajectory is split in time: its train split is longer than the others."""
    recipe = windows(1, [1, 16], [1, 4])
    rules.check_data(recipe, {"cylinder": {"train": 17, "valid": 5, "test": 2}, "ood_only": {"test": 1, "valid": 1}})
    with pytest.raises(RecipeError) as caught:
        rules.check_data(recipe, {"cylinder": {"train": 16, "valid": 4}})
    text = str(caught.value)
    assert "2 problems" in text
    assert (
        'curriculum.horizons: a window of 1 context + 16 predicted frames = 17 does not fit family "cylinder"' in text
    )
    assert "which has 16 frames per trajectory in its train split; the longest horizon that fits is 15" in text
    assert "which has 4 frames per trajectory in its valid split; the longest horizon that fits is 3" in text


def test_windows_that_do_not_fit_name_every_family(windows: Callable[..., Recipe]) -> None:
    data = {name: {"train": n, "valid": n} for name, n in (("wave", 18), ("burgers", 9), ("heat", 1))}
    with pytest.raises(RecipeError) as caught:
        rules.check_data(windows(2, [4, 8], [1, 16]), data)
    assert str(caught.value).splitlines() == [
        "recipe fit on data/demo/manifest.json: 4 problems",
        '  curriculum.horizons: a window of 2 context + 8 predicted frames = 10 does not fit family "burgers", '
        "which has 9 frames per trajectory in its train split; the longest horizon that fits is 7",
        '  curriculum.horizons: a window of 2 context + 8 predicted frames = 10 does not fit family "heat", '
        "which has 1 frame per trajectory in its train split; none fits: lower model.context_frames, or leave the "
        "family out of data.manifest",
        '  evaluate.horizons: a window of 2 context + 16 predicted frames = 18 does not fit family "burgers", '
        "which has 9 frames per trajectory in its valid split; the longest horizon that fits is 7",
        '  evaluate.horizons: a window of 2 context + 16 predicted frames = 18 does not fit family "heat", '
        "which has 1 frame per trajectory in its valid split; none fits: lower model.context_frames, or leave the "
        "family out of data.manifest",
    ]
