"""What a sweep prints: a line per piece of work, and how long the rest is likely to take."""

from __future__ import annotations

import threading

from ups_scale.sweep.journal import COARSE, Journal, Trial
from ups_scale.sweep.outcome import DONE, Outcome
from ups_scale.sweep.space import told
from ups_scale.sweep.work import Sweep, time_left


class Progress:
    """Prints for all workers of this process, of which there are `workers`."""

    def __init__(self, sweep: Sweep, journal: Journal, workers: int) -> None:
        self._sweep, self._journal, self._workers = sweep, journal, workers
        self._printing = threading.Lock()
        self._told = {trial.label for trial in journal.trials() if trial.outcome is not None}
        self._told |= {f"{trial.label} full" for trial in journal.trials() if trial.full is not None}

    def say(self, text: str) -> None:
        """Prints a line."""
        with self._printing:
            print(text, flush=True)

    def line(self) -> None:
        """Prints what has ended since the last call."""
        trials = self._journal.trials()
        for trial in trials:
            if trial.outcome is not None and trial.label not in self._told:
                self._told.add(trial.label)
                self.say(f"{trial.label}: {_ended(trial.outcome)}  {told(trial.values, self._sweep.place.base)}")
                self._left(trials)
            if trial.full is not None and f"{trial.label} full" not in self._told:
                self._told.add(f"{trial.label} full")
                value = trial.full["value"]
                self.say(f"{trial.label}: full suite {'failed' if value is None else format(value, '.4f')}")

    def _left(self, trials: list[Trial]) -> None:
        expected = sum(trial.phase == COARSE for trial in trials) + self._sweep.space.num_local
        over = sum(trial.outcome is not None for trial in trials)
        left = time_left(trials, expected, self._workers)
        if left:
            self.say(f"  {over} of {expected} trials; about {_duration(left)} left")


def _ended(outcome: Outcome) -> str:
    if outcome.state == DONE and outcome.value is not None:
        worse = f" (worse than persistence: {', '.join(outcome.worse)})" if outcome.worse else ""
        return f"objective {outcome.value:.4f}{worse} in {outcome.seconds:.0f} s"
    return f"{outcome.state} after {outcome.seconds:.0f} s: {outcome.error}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 90 else f"{minutes} min"
