"""When a run is not worth its remaining steps: no better score for a while, or too little gain over another run.

The score of a validation is the mean over families and steps of log(model / min(persistence, 1)), of nRMSE: 0 is as
good as the trivial predictors, and less is better.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ups_scale import distributed
from ups_scale.atomic import write_json
from ups_scale.distributed import Ranks
from ups_scale.errors import RecipeError
from ups_scale.recipe.types import GatesSettings, Recipe

FILE = "stopped.json"
PATIENCE, PROXY, NOT_FINITE = "patience", "proxy", "not_finite"
LEAST = 1e-12
"""nRMSE below it counts as this much: a logarithm needs more than 0."""


@dataclass(frozen=True)
class Stop:
    """Why a run ended before its last step. `gain` and its standard error `sigma` are those of the proxy rule."""

    step: int
    rule: str
    reason: str
    gain: float | None = None
    sigma: float | None = None


def log_ratios(figures: Mapping[str, float | None]) -> dict[str, float]:
    """`<family>@<step>` -> log(model / min(persistence, 1)) of a validation's figures; infinite where the model's is
    not finite, absent where the truth has nothing to measure."""
    found = {}
    for name, value in figures.items():
        family, model, metric = f"{name}//".split("/")[:3]
        if model != "model" or not metric.startswith("nrmse@"):
            continue
        bar = figures.get(f"{family}/persistence/{metric}")
        if bar is None or not math.isfinite(bar):
            continue
        whole = value is not None and math.isfinite(value)
        ratio = math.log(max(value or 0.0, LEAST) / max(min(bar, 1.0), LEAST)) if whole else math.inf
        found[f"{family}@{metric.partition('@')[2]}"] = ratio
    return found


def score(figures: Mapping[str, float | None]) -> float | None:
    """The mean of a validation's `log_ratios`, None if there are none."""
    found = log_ratios(figures).values()
    return sum(found) / len(found) if found else None


def gain(own: Mapping[str, float], reference: Mapping[str, float]) -> tuple[float, float]:
    """(by how much `own` log ratios are below the reference's, its standard error), over the pairs that both have.

    Raises:
        RecipeError: fewer than two pairs, which have no standard error.
    """
    pairs = [reference[name] - own[name] for name in own if math.isfinite(reference.get(name, math.inf))]
    if len(pairs) < 2:
        raise RecipeError(
            f"gates.proxy_against: {len(pairs)} of this run's families and steps are finite in the reference run; at "
            "least 2 are needed for a standard error: validate at more steps (evaluate.horizons), or set it to null"
        )
    return statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))


def validations(folder: Path, last: int | None = None) -> dict[int, dict[str, float | None]]:
    """The figures of a run's validations by step, in order, from its metrics.jsonl; up to step `last`."""
    found: dict[int, dict[str, float | None]] = {}
    path = folder / "metrics.jsonl"
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break  # a torn line, from a killed run; nothing was written after it
        if "validation" in record and (last is None or record["step"] <= last):
            found[record["step"]] = record["validation"]
    return found


def proxy_step(recipe: Recipe) -> int:
    """The step of the first validation at or past `gates.proxy_share` of the run, with an operator that is trained."""
    every, steps = recipe.evaluate.every_steps, recipe.schedule.steps
    least = max(math.ceil(recipe.gates.proxy_share * steps), recipe.curriculum.autoencoder_steps + 1)
    return min(math.ceil(least / every) * every, steps)


class EarlyStop:
    """The rules of a run's recipe, and the scores they are about. For the main rank: it reads files.

    `folder` is the run's, `first_step` where it goes on from: what it scored before is read from its metrics.

    Raises:
        RecipeError: the run to compare with has no validation at the step at which it is to be.
    """

    def __init__(self, recipe: Recipe, folder: Path, first_step: int) -> None:
        self._recipe, gates = recipe, recipe.gates
        self._best, self._since = math.inf, 0
        self._reference: dict[str, float] = {}
        if gates.patience is not None:
            for step, figures in validations(folder, first_step).items():
                self._count(step, figures)
        if gates.proxy_against is not None and first_step < proxy_step(recipe):
            self._reference = _reference(recipe, folder)

    def look(self, step: int, figures: Mapping[str, float | None]) -> Stop | None:
        """Why the run is to stop after the validation of `step` gave these `figures`; None to go on."""
        gates = self._recipe.gates
        if gates.patience is None and gates.proxy_against is None:
            return None
        if step <= self._recipe.curriculum.autoencoder_steps:
            return None
        own = log_ratios(figures)
        lost = [name for name, ratio in own.items() if not math.isfinite(ratio)]
        if lost:
            return Stop(step, NOT_FINITE, f"the validation is not finite for {', '.join(lost)}")
        self._count(step, figures)
        if step >= self._recipe.schedule.steps:
            return None  # it has come to its end by itself
        if self._reference and step == proxy_step(self._recipe):
            gained, sigma = gain(own, self._reference)
            if gained < sigma or gained <= 0:  # the same run again has neither a gain nor an error
                reason = (
                    f"its gain over {gates.proxy_against} at this step is {gained:+.4f} in log nRMSE, less than its "
                    f"standard error {sigma:.4f} over {len(own)} families and steps"
                )
                return Stop(step, PROXY, reason, gained, sigma)
        if gates.patience is not None and self._since >= gates.patience:
            counted = "1 validation" if self._since == 1 else f"{self._since} validations"
            reason = f"{counted} without a better score than {self._best:.4f} (mean log nRMSE ratio)"
            return Stop(step, PATIENCE, reason)
        return None

    def _count(self, step: int, figures: Mapping[str, float | None]) -> None:
        if step <= self._recipe.curriculum.autoencoder_steps:
            return
        scored = score(figures)
        if scored is not None and scored < self._best:
            self._best, self._since = scored, 0
        else:
            self._since += 1


def decide(watch: EarlyStop, ranks: Ranks, step: int, figures: Mapping[str, float | None]) -> Stop | None:
    """What the main rank's `watch` says of a validation, alike on all ranks; every rank calls it."""
    return distributed.on_main(ranks, lambda: watch.look(step, figures))


def record(folder: Path, recipe: Recipe, stop: Stop) -> None:
    """Writes into the run folder that it was stopped, and by which settings."""
    write_json(folder / FILE, {**asdict(stop), "setting": _setting(recipe, stop.rule)})


def stopped(folder: Path, recipe: Recipe | None = None) -> Stop | None:
    """Why the run was stopped, None if it was not; with a recipe, None also if that has other settings than those that
    stopped it."""
    path = folder / FILE
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    setting = content.pop("setting")
    stop = Stop(**content)
    return stop if recipe is None or _setting(recipe, stop.rule) == setting else None


def _setting(recipe: Recipe, rule: str) -> dict[str, Any]:
    gates: GatesSettings = recipe.gates
    patience: dict[str, Any] = {"gates.patience": gates.patience}
    proxy: dict[str, Any] = {"gates.proxy_share": gates.proxy_share, "gates.proxy_against": gates.proxy_against}
    chosen = {PATIENCE: patience, PROXY: proxy, NOT_FINITE: patience | proxy}[rule]
    return {**chosen, "schedule.steps": recipe.schedule.steps}


def _reference(recipe: Recipe, folder: Path) -> dict[str, float]:
    """The log ratios of the run to compare with, at the step at which it is."""
    against, step = Path(recipe.gates.proxy_against or ""), proxy_step(recipe)
    if against.resolve() == folder.resolve():
        raise RecipeError(f"gates.proxy_against: {against} is this very run; name another, or null")
    found = validations(against)
    if step not in found:
        has = f"validations at steps {', '.join(map(str, found))}" if found else "no validation in its metrics.jsonl"
        raise RecipeError(
            f"gates.proxy_against: {against} has {has}, but this run is compared after {step} (the first validation "
            f"at or past gates.proxy_share {recipe.gates.proxy_share:g} of {recipe.schedule.steps} steps); use the "
            "same evaluate.every_steps and schedule.steps, name another run folder, or null"
        )
    reference = log_ratios(found[step])
    gain(reference, reference)  # too few figures are told before training
    return reference
