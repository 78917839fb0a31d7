"""A worker: takes the next piece of work from the journal until there is none; any number of them share a sweep.

grid, the recipe's own point first -> local search around the best -> full evaluation of the best
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ups_scale.recipe.load import from_dict
from ups_scale.sweep import local, processes
from ups_scale.sweep.journal import COARSE, LOCAL, Claim, Journal, Trial
from ups_scale.sweep.outcome import DONE, Outcome
from ups_scale.sweep.space import Space, grid, told
from ups_scale.sweep.trial import Place
from ups_scale.train.early_stop import proxy_step, validations

POLL_S = 1.0


class Runs(Protocol):
    """Does the work itself; `trial.Runner` does so in processes."""

    def trial(self, trial: Trial, claim: Claim, reference: Path | None, share: float | None) -> Outcome:
        """What comes of a trial."""

    def full(self, trial: Trial, claim: Claim) -> dict[str, Any]:
        """What the full suite says of it."""


@dataclass(frozen=True)
class Sweep:
    """A sweep: its space, where its trials run, and whether the grid is taken whole."""

    space: Space
    place: Place
    everything: bool = False


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that are over, the best first."""
    over = [trial for trial in trials if trial.outcome is not None]
    return sorted(over, key=lambda trial: trial.outcome.rank if trial.outcome else (9, 0.0))


def finalists(space: Space, trials: Sequence[Trial]) -> list[Trial]:
    """The best trials, which the full suite measures."""
    there = [trial for trial in ranked(trials) if trial.outcome and trial.outcome.state == DONE]
    return there[: space.document["full"]["best"]]


def begin(sweep: Sweep, journal: Journal) -> None:
    """Writes the trials of the grid into a journal that has none."""
    with journal.deciding():
        have = sum(trial.phase == COARSE for trial in journal.trials())
        for values in grid(sweep.space, sweep.place.base, sweep.everything)[have:]:
            journal.add(values)


class Worker:
    """One worker. `say` gets a line per piece of work, `changed` is called when something has ended, while nobody else
    decides anything."""

    def __init__(
        self,
        sweep: Sweep,
        journal: Journal,
        runs: Runs,
        stop: threading.Event,
        say: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._sweep, self._journal, self._runs = sweep, journal, runs
        self._stop, self._say, self._changed = stop, say, changed
        self._space, self._out = sweep.space, sweep.place.out

    def work(self) -> None:
        """Works until nothing is left, or `stop` is set."""
        while not self._stop.is_set():
            with self._journal.deciding():
                taken = self._take()
            if taken is None:
                if self._over():
                    return
                self._stop.wait(POLL_S)  # others are at work on what must be there before
                continue
            trial, claim, full = taken
            try:
                self._do(trial, claim, full)
            except processes.Interrupted:
                self._say(f"{trial.label}: interrupted; it goes on from its newest checkpoint")
                claim.release()
                return

    def _do(self, trial: Trial, claim: Claim, full: bool) -> None:
        left = claim.left_behind()
        if left is not None and processes.end_left_behind(left, str(self._out / "runs")):
            self._say(f"{trial.label}: ended what a killed sweep had left running (process group {left})")
        shown = told(trial.values, self._sweep.place.base)
        if full:
            self._say(f"{trial.label}: full evaluation")
            found = self._runs.full(trial, claim)
            with self._journal.deciding():
                self._journal.set_full(trial, found)
                self._changed()
        else:
            self._say(f"{trial.label}: begins  {shown}")
            ended = self._runs.trial(trial, claim, *self._reference(trial))
            with self._journal.deciding():
                self._journal.end(trial, ended)
                self._changed()
        claim.release()

    def _take(self) -> tuple[Trial, Claim, bool] | None:
        """The next piece of work that nobody has."""
        trials = self._journal.trials()
        for trial in trials:
            if not trial.running or (claim := Claim.take(self._out, trial.label)) is None:
                continue
            if trial.outcome is not None:  # killed while this was written down
                self._journal.end(trial, trial.outcome)
                claim.release()
            elif trial.values:
                return trial, claim, False
            elif (drawn := self._finish_draw(trial, trials)) is not None:
                return drawn, claim, False
            else:
                claim.release()
        trials = self._journal.trials()
        waiting = [trial for trial in trials if not trial.running and trial.outcome is None]
        if waiting:
            if waiting[0].number > 0 and not self._reference_is_there(trials):
                return None
            return self._claimed(self._journal.begin_next())
        if any(trial.running and trial.phase == COARSE for trial in trials):
            return None
        around = local.centres(self._space, trials)
        if around and sum(trial.phase == LOCAL for trial in trials) < self._space.num_local:
            drawn = local.draw(self._journal, self._space, self._sweep.place.base, around)
            if drawn is not None:
                return self._claimed(drawn)
        if any(trial.running for trial in trials):
            return None
        for trial in finalists(self._space, trials):
            if trial.full is None and (claim := Claim.take(self._out, f"{trial.label}-full")) is not None:
                return trial, claim, True
        return None

    def _claimed(self, trial: Trial) -> tuple[Trial, Claim, bool] | None:
        claim = Claim.take(self._out, trial.label)
        assert claim is not None, "all claims are taken while deciding"
        return trial, claim, False

    def _finish_draw(self, trial: Trial, trials: Sequence[Trial]) -> Trial | None:
        around = local.centres(self._space, trials)
        return local.redraw(self._journal, self._space, self._sweep.place.base, around, trial)

    def _over(self) -> bool:
        trials = self._journal.trials()
        if any(trial.outcome is None or trial.running for trial in trials):
            return False
        return all(trial.full is not None for trial in finalists(self._space, trials))

    def _reference(self, trial: Trial) -> tuple[Path | None, float | None]:
        """(the run that a trial is compared with, after which share of its steps); none for the recipe's own point."""
        share = self._space.document["proxy_share"]
        own = self._journal.trials()[0]
        if share is None or (trial.phase, trial.number) == (own.phase, own.number):
            return None, None
        run = self._sweep.place.run_of(own.values)
        return (run, share) if proxy_step(self._proxy_recipe()) in validations(run) else (None, None)

    def _reference_is_there(self, trials: Sequence[Trial]) -> bool:
        """Whether others may begin: the recipe's own point is over, or has the validation that they are compared at."""
        share, own = self._space.document["proxy_share"], trials[0]
        if share is None or own.outcome is not None:
            return True
        return proxy_step(self._proxy_recipe()) in validations(self._sweep.place.run_of(own.values))

    def _proxy_recipe(self) -> Any:
        base = self._sweep.place.base
        share = self._space.document["proxy_share"]
        return from_dict({**base, "gates": {**base["gates"], "proxy_share": share}})


def time_left(trials: Sequence[Trial], expected: int, workers: int) -> float | None:
    """Seconds that are likely left for `expected` trials in all, from the mean of those that are over."""
    spent = [trial.outcome.seconds for trial in trials if trial.outcome is not None]
    if not spent:
        return None
    return max(0, expected - len(spent)) * sum(spent) / len(spent) / max(1, workers)


def wait_for(threads: Sequence[threading.Thread]) -> None:
    """Waits until the threads have ended, open to signals."""
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.1)
