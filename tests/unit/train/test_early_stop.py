"""Stopping by patience, and by a small gain over another run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ups_scale.errors import RecipeError
from ups_scale.recipe.load import from_dict
from ups_scale.recipe.types import Recipe
from ups_scale.train import early_stop
from ups_scale.train.early_stop import EarlyStop


def recipe(steps: int = 100, every: int = 10, latent_steps: int = 0, **gates: Any) -> Recipe:
    return from_dict(
        {
            "model": {"size": "tiny", "prediction": "latent" if latent_steps else "field"},
            "schedule": {"steps": steps},
            "evaluate": {"every_steps": every},
            "curriculum": {"autoencoder_steps": latent_steps},
            "gates": gates,
        }
    )


def figures(*errors: float | None, persistence: float = 2.0) -> dict[str, float | None]:
    """Figures of a family per error, at step 1."""
    found: dict[str, float | None] = {"f0/quarantined": 0.0}
    for number, error in enumerate(errors):
        found |= {f"f{number}/model/nrmse@1": error, f"f{number}/persistence/nrmse@1": persistence}
    return found


def run(folder: Path, validations: dict[int, dict[str, float | None]]) -> Path:
    folder.mkdir()
    lines = [json.dumps({"step": step, "validation": found}) for step, found in validations.items()]
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": 1, "loss": 1.0}}\n{line}\n' for line in lines))
    return folder


def test_the_score_is_the_mean_log_ratio_to_the_better_trivial_predictor() -> None:
    found = {"a/model/nrmse@1": 0.5, "a/persistence/nrmse@1": 2.0, "a/model/nrmse@4": 0.1, "a/persistence/nrmse@4": 0.4}
    found |= {"b/model/nrmse@1": 0.3, "b/persistence/nrmse@1": math.nan, "a/model/u/reconstruction": 0.1}
    assert early_stop.log_ratios(found) == {"a@1": pytest.approx(math.log(0.5)), "a@4": pytest.approx(math.log(0.25))}
    assert early_stop.score(found) == pytest.approx((math.log(0.5) + math.log(0.25)) / 2)
    assert early_stop.score({}) is None


def test_patience_counts_validations_without_a_better_score(tmp_path: Path) -> None:
    watch = EarlyStop(recipe(patience=2), tmp_path, 0)
    assert [watch.look(step, figures(error)) for step, error in ((10, 0.5), (20, 0.6), (30, 0.4), (40, 0.4))] == [
        None
    ] * 4
    stop = watch.look(50, figures(0.41))
    assert stop is not None
    assert (stop.step, stop.rule) == (50, "patience")
    assert stop.reason.startswith("2 validations without a better score than -0.9163")


def test_patience_remembers_what_was_before_a_resume(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", {10: figures(0.4), 20: figures(0.5), 30: figures(0.1)})
    resumed = EarlyStop(recipe(patience=2), folder, 20)  # the validation of step 30 will be done again
    assert resumed.look(30, figures(0.41)) is not None
    assert EarlyStop(recipe(patience=2), folder, 10).look(20, figures(0.41)) is None


def test_the_last_step_is_no_early_stop(tmp_path: Path) -> None:
    watch = EarlyStop(recipe(patience=1), tmp_path, 0)
    assert watch.look(90, figures(0.4)) is None
    assert watch.look(100, figures(0.5)) is None


@pytest.mark.parametrize("lost", [None, math.nan, math.inf])
def test_a_validation_that_is_not_finite_is_hopeless_at_once(tmp_path: Path, lost: float | None) -> None:
    stop = EarlyStop(recipe(patience=50), tmp_path, 0).look(10, figures(0.5, lost))
    assert stop is not None
    assert stop.rule == "not_finite"
    assert stop.reason == "the validation is not finite for f1@1"
    assert EarlyStop(recipe(), tmp_path, 0).look(10, figures(0.5, lost)) is None, "no rule is asked for"


def test_the_autoencoders_validations_do_not_count(tmp_path: Path) -> None:
    watch = EarlyStop(recipe(latent_steps=30, patience=1), tmp_path, 0)
    found = [watch.look(step, figures(error)) for step, error in ((10, 0.5), (20, 0.6), (30, None), (40, 0.9))]
    assert found == [None] * 4
    assert watch.look(50, figures(0.91)) is not None


@pytest.mark.parametrize(("share", "step"), [(0.35, 40), (0.4, 40), (0.401, 50), (0.05, 10), (0.99, 100)])
def test_the_proxy_looks_at_the_first_validation_past_its_share(share: float, step: int) -> None:
    assert early_stop.proxy_step(recipe(proxy_share=share)) == step


def test_the_proxy_stops_a_gain_of_less_than_a_standard_error(tmp_path: Path) -> None:
    reference = run(tmp_path / "reference", {40: figures(0.4, 0.4, 0.4)})
    settings = recipe(proxy_against=str(reference))
    # By hand: gains log(0.4 / own) = 0.1, -0.1, 0.0 -> mean 0, standard deviation 0.1, standard error 0.1 / sqrt(3).
    scattered = figures(*(0.4 * math.exp(-g) for g in (0.1, -0.1, 0.0)))
    stop = EarlyStop(settings, tmp_path / "own", 0).look(40, scattered)
    assert stop is not None
    assert (stop.rule, stop.step) == ("proxy", 40)
    assert stop.gain == pytest.approx(0, abs=1e-12)
    assert stop.sigma == pytest.approx(0.1 / math.sqrt(3))
    better = figures(*(0.4 * math.exp(-g) for g in (0.2, 0.0, 0.1)))  # mean 0.1
    watch = EarlyStop(settings, tmp_path / "own", 0)
    assert watch.look(30, scattered) is None
    assert watch.look(40, better) is None
    assert watch.look(50, scattered) is None, "it is looked at once"
    same = EarlyStop(settings, tmp_path / "own", 0).look(40, figures(0.4, 0.4, 0.4))
    assert same is not None
    assert (same.gain, same.sigma) == (0, 0)


def test_a_reference_that_cannot_be_compared_is_refused_before_training(tmp_path: Path) -> None:
    reference = run(tmp_path / "reference", {25: figures(0.4, 0.4), 50: figures(0.4, 0.4)})
    with pytest.raises(RecipeError, match=r"has validations at steps 25, 50, but this run is compared after 40"):
        EarlyStop(recipe(proxy_against=str(reference)), tmp_path / "own", 0)
    with pytest.raises(RecipeError, match=r"has no validation in its metrics\.jsonl"):
        EarlyStop(recipe(proxy_against=str(tmp_path / "none")), tmp_path / "own", 0)
    with pytest.raises(RecipeError, match="is this very run"):
        EarlyStop(recipe(proxy_against=str(reference)), reference, 0)
    few = run(tmp_path / "few", {40: figures(0.4)})
    with pytest.raises(RecipeError, match="1 of this run's families and steps"):
        EarlyStop(recipe(proxy_against=str(few)), tmp_path / "own", 0)
    EarlyStop(recipe(proxy_against=str(tmp_path / "none")), tmp_path / "own", 40)  # past it: nothing to compare


def test_a_stopped_run_goes_on_only_with_another_setting(tmp_path: Path) -> None:
    assert early_stop.stopped(tmp_path) is None
    before = recipe(patience=2)
    stop = early_stop.Stop(50, "patience", "2 validations without a better score")
    early_stop.record(tmp_path, before, stop)
    assert early_stop.stopped(tmp_path) == stop
    assert early_stop.stopped(tmp_path, before) == stop
    assert early_stop.stopped(tmp_path, recipe(patience=2, proxy_share=0.3)) == stop
    assert early_stop.stopped(tmp_path, recipe(patience=3)) is None
    assert early_stop.stopped(tmp_path, recipe()) is None
    assert early_stop.stopped(tmp_path, recipe(steps=200, patience=2)) is None
