"""Whether the small suite ranks checkpoints as the full one does, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau, spearmanr

from ups_scale.errors import UserError
from ups_scale.evaluate import zoo
from ups_scale.evaluate.gates import steps
from ups_scale.evaluate.leaderboard_row import geometric_mean
from ups_scale.evaluate.loading import open_checkpoint
from ups_scale.evaluate.run import Request, line_up, measure, open_accelerator
from ups_scale.evaluate.suites import suite_named

LEAST = 3
"""Checkpoints, fewer of which have no ranking to speak of."""


@dataclass(frozen=True)
class Row:
    """A checkpoint, and by suite its score (the lower the better) and the seconds that it took."""

    checkpoint: str
    scores: dict[str, float]
    seconds: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint, "scores": self.scores, "seconds": self.seconds}


def compare(checkpoints: Sequence[Path], say: Callable[[str], None]) -> list[Row]:
    """A row per checkpoint, evaluated by both suites on its recipe's data, on the CPU or the first GPU.

    Raises:
        CheckpointError, DataError, UserError: there are too few, or one can't be evaluated.
    """
    if len(checkpoints) < LEAST:
        raise UserError(f"{len(checkpoints)} checkpoints have no ranking to speak of: name {LEAST} or more")
    accelerator, rows = open_accelerator("auto"), []
    for path in checkpoints:
        checkpoint = open_checkpoint(path, accelerator.device)
        scores, seconds = {}, {}
        for name in ("small", "full"):
            say(f"{checkpoint.run}, step {checkpoint.step}, suite {name}")
            request = Request(suite=name, zoo=zoo.NONE)
            report = measure(line_up(checkpoint, suite_named(name), request, accelerator.device), accelerator).report
            scores[name], seconds[name] = score(report), report["wall_clock_s"]
        rows.append(Row(f"{checkpoint.run}/step-{checkpoint.step}", scores, seconds))
    return rows


def score(report: Mapping[str, Any]) -> float:
    """Geometric mean, over all families of all splits and their steps, of nRMSE / min(persistence, 1); infinite if a
    rollout is not finite."""
    ratios = []
    for tables in (report["families"], *report.get("splits", {}).values()):
        for table in tables.values():
            for k in steps(table):
                value, bar = table["model"][f"nrmse@{k}"], table["persistence"][f"nrmse@{k}"]
                if value is None:
                    return math.inf
                ratios.append(value / min(1.0, math.inf if bar is None else bar))
    return geometric_mean(ratios)


def correlations(rows: Sequence[Row]) -> dict[str, float]:
    """Spearman's and Kendall's rank correlation of the two suites' scores."""
    small, full = ([row.scores[name] for row in rows] for name in ("small", "full"))
    return {"spearman": float(spearmanr(small, full).statistic), "kendall": float(kendalltau(small, full).statistic)}


def render(rows: Sequence[Row]) -> str:
    """The rows as text, best by the full suite first, and the correlations."""
    width = max(len(row.checkpoint) for row in rows)
    lines = [f"{'checkpoint'.ljust(width)}   small    full   small s   full s"]
    for row in sorted(rows, key=lambda row: row.scores["full"]):
        figures = f"{row.scores['small']:8.4f}{row.scores['full']:8.4f}"
        times = f"{row.seconds['small']:10.1f}{row.seconds['full']:9.1f}"
        lines.append(f"{row.checkpoint.ljust(width)}{figures}{times}")
    found = correlations(rows)
    lines.append(
        f"{len(rows)} checkpoints: rank correlation Spearman {found['spearman']:.3f}, Kendall {found['kendall']:.3f}"
    )
    return "\n".join(lines)
