"""The local search: trials around the best of the grid, drawn by optuna's TPE.

Why TPE: the box around each centre mixes numbers and choices, a dozen or two of trials are all there is, several run at
a time, and some end without a figure. TPE takes all of that, with what was stopped or diverged as evidence of where not
to look. A Gaussian process has to fit the length of every choice and the noise from as few points; CMA-ES wants numbers
only, and some ten trials per generation. Each draw is seeded by the sweep's seed and the trial's own number, so that a
resumed sweep draws what the uninterrupted one would have from the same outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ups_scale.sweep.journal import COARSE, LOCAL, Journal, Trial, optuna
from ups_scale.sweep.outcome import DONE
from ups_scale.sweep.space import Choice, Space, Values, scaled, value_of

MOST_DRAWS = 50
"""Draws in a row of values that were tried before, after which the search has nothing left."""


def centres(space: Space, trials: Sequence[Trial]) -> list[Trial]:
    """The best trials of the grid that are done, the best first: what the local search is around."""
    there = [trial for trial in trials if trial.phase == COARSE and trial.outcome and trial.outcome.state == DONE]
    there = [trial for trial in there if trial.outcome and trial.outcome.value is not None]
    there.sort(key=lambda trial: trial.outcome.rank if trial.outcome else (9, 0.0))
    return there[: space.document["local"]["around"]]


def draw(journal: Journal, space: Space, base: Mapping[str, Any], around: Sequence[Trial]) -> Trial | None:
    """A new trial of the local search, taken at once; None if what it may draw has been tried. To be called while
    deciding (`Journal.deciding`)."""
    study = journal.studies[LOCAL]
    if study.user_attrs.get("exhausted"):
        return None
    if not study.get_trials(deepcopy=False):
        _add_evidence(study, space, base, around)
    for _ in range(MOST_DRAWS):
        study.sampler = _sampler(space.seed, len(study.get_trials(deepcopy=False)))
        trial = _finish(journal, space, base, around, study.ask())
        if trial is not None:
            return trial
    study.set_user_attr("exhausted", True)
    return None


def redraw(
    journal: Journal, space: Space, base: Mapping[str, Any], around: Sequence[Trial], trial: Trial
) -> Trial | None:
    """A trial whose draw a kill cut off, drawn as it would have been; None, and ended, if its values were tried."""
    journal.studies[LOCAL].sampler = _sampler(space.seed, trial.number)
    return _finish(journal, space, base, around, journal.running(trial))


def _finish(
    journal: Journal, space: Space, base: Mapping[str, Any], around: Sequence[Trial], drawn: Any
) -> Trial | None:
    """The trial that the library's `drawn` one stands for, its values written down."""
    labels = [trial.label for trial in around]
    centre = around[labels.index(drawn.suggest_categorical("around", labels))]
    values = dict(centre.values)
    for choice in space.local:
        values[choice.key] = _suggest(drawn, choice, _centre(choice.key, centre.values, base))
    same = next((trial for trial in journal.trials() if _whole(trial.values, base, values) == values), None)
    if same is not None and (same.phase, same.number) != (LOCAL, drawn.number):
        drawn.set_user_attr("repeats", same.label)
        worth = same.outcome.value if same.outcome else None
        states = optuna().trial.TrialState
        journal.studies[LOCAL].tell(drawn.number, worth, state=states.FAIL if worth is None else states.COMPLETE)
        return None
    drawn.set_user_attr("around", centre.label)
    drawn.set_user_attr("values", values)
    return Trial(LOCAL, drawn.number, values, running=True, outcome=None, around=centre.label)


def _sampler(seed: int, number: int) -> Any:
    samplers = optuna().samplers
    return samplers.TPESampler(seed=(seed * 100_003 + number) % 2**32, multivariate=True, n_startup_trials=6)


def _suggest(drawn: Any, choice: Choice, centre: Any) -> Any:
    if choice.kind == "within":
        factor = drawn.suggest_float(choice.key, 1 - choice.content, 1 + choice.content, log=True)
        return scaled(choice.key, centre, factor)
    options = choice.options(centre)  # by place: the library takes no lists as values
    return options[drawn.suggest_categorical(choice.key, list(range(len(choice.content))))]


def _centre(key: str, values: Values, base: Mapping[str, Any]) -> Any:
    return values[key] if key in values else value_of(base, key)


def _whole(values: Values, base: Mapping[str, Any], like: Values) -> Values:
    """A trial's values of all keys of `like`."""
    return {key: _centre(key, values, base) for key in like} if values else {}


def _add_evidence(study: Any, space: Space, base: Mapping[str, Any], around: Sequence[Trial]) -> None:
    """Tells the search what its centres are worth, where they lie in its box."""
    library = optuna()
    labels = [trial.label for trial in around]
    for trial in around:
        assert trial.outcome is not None
        params: dict[str, Any] = {"around": trial.label}
        spaces: dict[str, Any] = {"around": library.distributions.CategoricalDistribution(labels)}
        for choice in space.local:
            centre = _centre(choice.key, trial.values, base)
            if choice.kind == "within":
                low, high = 1 - choice.content, 1 + choice.content
                spaces[choice.key] = library.distributions.FloatDistribution(low, high, log=True)
                params[choice.key] = 1.0
                continue
            places = list(range(len(choice.content)))
            spaces[choice.key] = library.distributions.CategoricalDistribution(places)
            options = choice.options(centre)
            if centre in options:
                params[choice.key] = options.index(centre)
        if params.keys() == spaces.keys():
            study.add_trial(
                library.trial.create_trial(
                    value=trial.outcome.value, params=params, distributions=spaces, user_attrs={"evidence": True}
                )
            )
