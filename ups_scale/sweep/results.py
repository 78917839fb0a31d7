"""What a sweep leaves behind, new after each trial: trials.csv, best.json, recipe.best.json, next.json, sweep.html."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ups_scale.atomic import write_json, write_text
from ups_scale.sweep.effects import effects, proposal
from ups_scale.sweep.journal import Journal, Trial
from ups_scale.sweep.page import page
from ups_scale.sweep.space import Values
from ups_scale.sweep.work import Sweep, ranked

COLUMNS = ("trial", "rank", "state", "objective", "full", "worse_than_persistence", "gain", "sigma", "step", "seconds")


def write(sweep: Sweep, journal: Journal, setting: Mapping[str, Any]) -> None:
    """Writes all of them, from what the journal has. To be called while deciding."""
    out, trials = sweep.place.out, journal.trials()
    order = ranked(trials)
    write_text(out / "trials.csv", csv_text(trials, order))
    summary = summarise(sweep, setting, order)
    if summary["best"] is not None:
        best = order[0]
        write_json(out / "best.json", summary["best"])
        write_json(out / "recipe.best.json", best_recipe(out, setting, best.values))
        found = effects(sweep.space, trials)
        write_json(out / "next.json", proposal(sweep.space, best, found))
    write_text(out / "sweep.html", page(sweep, setting, trials, order))


def summarise(sweep: Sweep, setting: Mapping[str, Any], order: Sequence[Trial]) -> dict[str, Any]:
    """The result as JSON: the best trial, None if none is done, and how many came to which end."""
    states = [trial.outcome.state for trial in order if trial.outcome]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    best = order[0] if order and order[0].outcome and order[0].outcome.value is not None else None
    of_best = None
    if best is not None and best.outcome is not None:
        of_best = {
            "trial": best.label,
            "run": str(sweep.place.run_of(best.values)),
            "values": best.values,
            "objective": best.outcome.value,
            "worse_than_persistence": list(best.outcome.worse),
            "full": best.full,
        }
    return {"out": str(sweep.place.out), "recipe": setting["recipe"], "trials": counts, "best": of_best}


def csv_text(trials: Sequence[Trial], order: Sequence[Trial]) -> str:
    """The content of trials.csv: a line per trial, in the order in which they were made."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    ranks = {trial.label: number for number, trial in enumerate(order, start=1)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, "run", *keys, "error"))
    for trial in trials:
        ended, full = trial.outcome, (trial.full or {}).get("value")
        state = ended.state if ended else "running" if trial.running else "waiting"
        figures: list[Any] = ["", "", "", "", "", ""]
        if ended:
            figures = [ended.value, full, " ".join(ended.worse), ended.gain, ended.sigma, ended.step]
        told = ["" if value is None else value for value in figures]
        values = [json.dumps(trial.values[key]) if key in trial.values else "" for key in keys]
        line = [trial.label, ranks.get(trial.label, ""), state, *told, ended.seconds if ended else ""]
        writer.writerow([*line, ended.run if ended else "", *values, ended.error if ended else ""])
    return text.getvalue()


def best_recipe(out: Path, setting: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """A recipe that extends the sweep's own by the best trial's values."""
    document: dict[str, Any] = {}
    for override in setting["overrides"]:
        key, _, text = override.partition("=")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        _put(document, key, value)
    for key, value in values.items():
        _put(document, key, value)
    extends = os.path.relpath(Path(setting["recipe"]).resolve(), out.resolve())
    description = f"The best trial of the sweep {out.name}."
    return {"format": 1, "description": description, "extends": extends, **document}


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
    document[name] = value
