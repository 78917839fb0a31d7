"""A sweep whose trials are computed in no time: an objective that is known, in place of trainings."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ups_scale.recipe.load import resolve
from ups_scale.sweep import results, setting, work
from ups_scale.sweep.journal import Claim, Journal, Trial
from ups_scale.sweep.outcome import DONE, Outcome
from ups_scale.sweep.space import Space, space_of
from ups_scale.sweep.trial import Place

ROOT = Path(__file__).parents[1]
RECIPE = str(ROOT / "recipes" / "demo.json")
SPACE = {
    "format": 1,
    "coarse": {
        "sample": 6,
        "keys": {"optimizer.lr": {"factors": [0.5, 1, 1.5]}, "stabilization.grad_clip": {"values": [0.5, 1.0]}},
    },
    "local": {"trials": 5, "keys": {"optimizer.lr": {"within": 0.2}, "stabilization.noise": {"factors": [0.5, 1]}}},
    "proxy_share": None,
}


def objective(values: dict[str, Any]) -> float:
    """Least at lr 0.0033 and clip 0.5."""
    return 0.2 + abs(math.log(values["optimizer.lr"] / 0.0033)) + 0.01 * values["stabilization.grad_clip"]


class Computed:
    """Notes every call, by process, in a file, so that it can be told what a killed sweep had done."""

    def __init__(self, out: Path, seconds: float = 0.0) -> None:
        self._calls, self._seconds = out.with_suffix(".calls"), seconds

    def trial(self, trial: Trial, claim: Claim, reference: Path | None, share: float | None) -> Outcome:
        self._note(f"begin {trial.label}")
        time.sleep(self._seconds)
        self._note(f"end {trial.label}")
        return Outcome(DONE, objective(trial.values), run=trial.label, seconds=1.0)

    def full(self, trial: Trial, claim: Claim) -> dict[str, Any]:
        self._note(f"full {trial.label}")
        return {"value": objective(trial.values) + 0.1, "worse": [], "error": ""}

    def _note(self, text: str) -> None:
        with self._calls.open("a") as file:
            file.write(text + "\n")


def calls(out: Path) -> list[str]:
    path = out.with_suffix(".calls")
    return path.read_text().splitlines() if path.exists() else []


def sweep_in(out: Path, document: dict[str, Any] | None = None) -> tuple[work.Sweep, dict[str, Any]]:
    """A sweep, and the content of its sweep.json."""
    space: Space = space_of(document or SPACE)
    base = resolve(RECIPE)
    found = setting.establish(out, setting.describe(space, RECIPE, [], base, "d" * 64, False))
    return work.Sweep(space, Place(out, ROOT, base, "d" * 64)), found


def run(out: Path, runs: Any, workers: int = 1, document: dict[str, Any] | None = None) -> list[Trial]:
    """Works a sweep off, and gives its trials."""
    sweep, found = sweep_in(out, document)
    journal, stop = Journal(out), threading.Event()
    work.begin(sweep, journal)
    made = [
        work.Worker(sweep, journal, runs, stop, lambda text: None, lambda: results.write(sweep, journal, found))
        for _ in range(workers)
    ]
    threads = [threading.Thread(target=worker.work) for worker in made]
    for thread in threads:
        thread.start()
    work.wait_for(threads)
    return journal.trials()


if __name__ == "__main__":
    work.POLL_S = 0.05
    run(Path(sys.argv[1]), Computed(Path(sys.argv[1]), float(sys.argv[2])))
    print(os.getpid())
