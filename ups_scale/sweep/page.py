"""sweep.html: what was tried, what each key did, and how the ranking held in the full suite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ups_scale.evaluate.page.charts import Line, line_chart
from ups_scale.evaluate.page.document import document
from ups_scale.evaluate.page.numbers import plural
from ups_scale.evaluate.page.tables import cell, facts, figure, row, table
from ups_scale.recipe.validate import show
from ups_scale.sweep.effects import Effect, effects
from ups_scale.sweep.journal import Trial
from ups_scale.sweep.outcome import DONE
from ups_scale.sweep.space import short, told
from ups_scale.sweep.work import Sweep

OBJECTIVE = "nRMSE / min(persistence, 1)"


def page(sweep: Sweep, setting: Mapping[str, Any], trials: Sequence[Trial], order: Sequence[Trial]) -> str:
    """The whole page, from all `trials` and those that are over, the best first (`order`)."""
    title = f"Sweep {sweep.place.out.name}"
    found = effects(sweep.space, trials)
    charts = "".join(itertools.chain.from_iterable(_effect(key, of_key) for key, of_key in found.items()))
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{escape(sweep.space.document["description"])}</p>',
        _verdict(sweep, trials, order),
        "<h2>Trials</h2>",
        f'<p class="muted">The objective is the geometric mean over families and steps of {OBJECTIVE} on the small '
        "suite: under 1 is better than the trivial predictors. A trial with a family that is worse than persistence "
        "ranks behind those without; then come those that were stopped, that diverged, that failed.</p>",
        _table(sweep, order),
        "<h2>Course</h2>",
        f'<div class="grid">{"".join(_course(trials))}</div>',
        "<h2>What each key did</h2>",
        '<p class="muted">Mean over the trials of the grid of the log ratio to the recipe\'s own point, with its '
        "standard error; under 0 is better. Trials that were stopped count with their gain at that step.</p>",
        f'<div class="grid">{charts}</div>',
        "<h2>Small suite and full suite</h2>",
        _full(order),
        "<h2>Setting</h2>",
        facts(
            {
                "recipe": setting["recipe"],
                "overrides": ", ".join(setting["overrides"]),
                "data": f"{setting['manifest']} ({setting['manifest_digest'][:12]})",
                "seed": str(sweep.space.seed),
                "commit": setting.get("commit") or "",
                "begun": setting["date"],
            }
        ),
    ]
    return document(title, "\n".join(parts))


def _verdict(sweep: Sweep, trials: Sequence[Trial], order: Sequence[Trial]) -> str:
    over, best = len(order), order[0] if order else None
    counts = f"{over} of {plural(len(trials), 'trial', 'trials')} so far are over"
    if best is None or best.outcome is None or best.outcome.value is None:
        return f'<div class="verdict plain"><strong>No result yet</strong>{escape(counts)}.</div>'
    own = trials[0].outcome.value if trials and trials[0].outcome else None
    against = ""
    if best.label == trials[0].label:
        against = " It is the recipe's own point: nothing that was tried beats it."
    elif own:
        against = f" The recipe's own point has {own:.4f}: {100 * (1 - best.outcome.value / own):.1f} % less."
    worse = f" Worse than persistence on {', '.join(best.outcome.worse)}." if best.outcome.worse else ""
    kind = " failed" if best.outcome.worse else ""
    text = f"{escape(told(best.values, sweep.place.base))} &middot; objective {best.outcome.value:.4f}."
    return (
        f'<div class="verdict{kind}"><strong>{escape(best.label)}</strong>{text}{escape(against + worse)} '
        f"{escape(counts)}.</div>"
    )


def _table(sweep: Sweep, order: Sequence[Trial]) -> str:
    keys = list(dict.fromkeys(key for trial in order for key in trial.values))
    rows = []
    for number, trial in enumerate(order, start=1):
        ended = trial.outcome
        assert ended is not None
        note = ended.error.replace(f"{sweep.place.out / 'runs'}/", "") or (
            f"worse than persistence: {', '.join(ended.worse)}" if ended.worse else ""
        )
        values = [cell(short(trial.values[key]) if key in trial.values else "") for key in keys]
        objective = figure(ended.value, best=number == 1) if ended.state == DONE else cell("-")
        shown = [cell(str(number)), cell(trial.label, "name"), cell(ended.state), objective]
        rows.append(
            row(
                [*shown, *values, cell(f"{ended.seconds:.0f}"), cell(note, "text")],
                "failed" if ended.state != DONE or ended.worse else "",
            )
        )
    header = ["rank", "trial", "state", "objective", *(key.partition(".")[2] for key in keys), "seconds", "note"]
    return table(header, rows, kinds=[*[""] * (len(header) - 1), "text"])


def _course(trials: Sequence[Trial]) -> Iterator[str]:
    done = [trial.outcome.value if trial.outcome and trial.outcome.state == DONE else None for trial in trials]
    places = list(range(1, len(trials) + 1))
    if not any(value is not None for value in done):
        return
    best: list[float | None] = []
    for value in done:
        before = best[-1] if best else None
        best.append(value if before is None or (value is not None and value < before) else before)
    dots = Line("trial", places, done, colour="var(--c1)", dash="0 1000", dots=True)  # no line between its points
    lines = [Line("best so far", places, best, colour="var(--model)"), dots]
    span = (0.5, len(trials) + 0.5)
    title = "Objective by trial, in the order in which they were made"
    yield line_chart(lines, title=title, x_label="trial", y_label=OBJECTIVE, whole_x=True, x_range=span)


def _effect(key: str, of_key: Sequence[Effect]) -> Iterator[str]:
    if not of_key:
        return
    numbers = all(isinstance(effect.value, int | float) and not isinstance(effect.value, bool) for effect in of_key)
    if numbers and len(of_key) > 1:
        x = [float(effect.value) for effect in of_key]
        log = min(x) > 0 and max(x) / min(x) >= 2
        means = [effect.mean for effect in of_key]
        line = Line(
            "mean",
            x,
            means,
            colour="var(--model)",
            low=[effect.mean - effect.error if effect.error is not None else None for effect in of_key],
            high=[effect.mean + effect.error if effect.error is not None else None for effect in of_key],
            dots=True,
        )
        note = ", ".join(f"{effect.value:g}: {plural(effect.count, 'trial', 'trials')}" for effect in of_key)
        yield line_chart([line], title=key, x_label=key, y_label="log ratio", log_x=log, note=note)
        return
    rows = [row([cell(show(effect.value)), figure(effect.mean), cell(str(effect.count))]) for effect in of_key]
    yield f"<figure>{table([key, 'mean log ratio', 'trials'], rows, wide=False)}</figure>"


def _full(order: Sequence[Trial]) -> str:
    there = [(number, trial) for number, trial in enumerate(order, start=1) if trial.full is not None]
    if not there:
        return '<p class="muted">No full evaluation yet.</p>'
    by_full = sorted(there, key=lambda pair: (pair[1].full or {}).get("value") or float("inf"))
    ranks = {trial.label: number for number, (_, trial) in enumerate(by_full, start=1)}
    rows = []
    for number, trial in there:
        assert trial.full is not None
        assert trial.outcome is not None
        note = trial.full["error"] or (
            f"worse than persistence: {', '.join(trial.full['worse'])}" if trial.full["worse"] else ""
        )
        small, full = figure(trial.outcome.value), figure(trial.full["value"])
        ranked = [cell(str(number)), cell(str(ranks[trial.label]))]
        rows.append(row([cell(trial.label, "name"), small, full, *ranked, cell(note, "text")]))
    header = ["trial", "small suite", "full suite", "rank in small", "rank in full", "note"]
    return table(header, rows, wide=False, kinds=[*[""] * (len(header) - 1), "text"])
