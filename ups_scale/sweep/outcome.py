"""What came of a trial, and which of two is better.

The objective is the geometric mean over families and steps of nRMSE / min(persistence, 1), from report.json: under 1 is
better than the trivial predictors. Trials that pass rank first, then those with a family worse than persistence, then
those that were stopped (by their gain), then what diverged or failed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ups_scale.errors import DataError
from ups_scale.train.early_stop import LEAST

DONE, STOPPED, DIVERGED, FAILED = "done", "stopped", "diverged", "failed"


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        state: done, stopped (too little gain at the proxy step), diverged or failed.
        value: the objective, of those that are done.
        worse: families that are not better than persistence and zero at some step.
        error: what went wrong, or why it was stopped.
        gain, sigma: over the recipe's own point when it was stopped, in log nRMSE, and its standard error.
        step: the last step that was trained.
        run: the run folder's name.
        seconds: of training and evaluating, since it was last taken up.
    """

    state: str
    value: float | None = None
    worse: tuple[str, ...] = ()
    error: str = ""
    gain: float | None = None
    sigma: float | None = None
    step: int | None = None
    run: str = ""
    seconds: float = 0.0

    @property
    def rank(self) -> tuple[int, float]:
        """Less is better."""
        if self.state == DONE and self.value is not None:
            return (1 if self.worse else 0, self.value)
        if self.state == STOPPED:
            return (2, -(self.gain or 0.0))
        return (3 if self.state == DIVERGED else 4, 0.0)

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return {**asdict(self), "worse": list(self.worse)}


def from_dict(content: Mapping[str, Any]) -> Outcome:
    """The outcome that `Outcome.as_dict` gave."""
    return Outcome(**{**content, "worse": tuple(content["worse"])})


def measured(report: Mapping[str, Any]) -> tuple[float | None, tuple[str, ...], tuple[str, ...]]:
    """(the objective, None if a figure is not finite; the families that are worse than a trivial predictor at some
    step; the figures that are not finite) of a report.json.

    Raises:
        DataError: it has no figure at all.
    """
    logs, worse, lost = [], [], []
    for family, table in report["families"].items():
        for name, error in table["model"].items():
            if not name.startswith("nrmse@"):
                continue
            bar = min(1.0, math.inf if table["persistence"].get(name) is None else table["persistence"][name])
            step = name.partition("@")[2]
            if error is None or not math.isfinite(error) or table["model"].get(f"non_finite@{step}"):
                lost.append(f"{family} at step {step}")
                continue
            logs.append(math.log(max(error, LEAST) / max(bar, LEAST)))
            if error >= bar and family not in worse:
                worse.append(family)
    if not logs and not lost:
        raise DataError("report.json has no nRMSE of the model; evaluate again with --force")
    value = None if lost else math.exp(sum(logs) / len(logs))
    return value, tuple(worse), tuple(lost)
