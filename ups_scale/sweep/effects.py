"""What each key did to the result, and which space to try next."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ups_scale.recipe import validate
from ups_scale.recipe.validate import show
from ups_scale.sweep.journal import COARSE, Trial
from ups_scale.sweep.outcome import DONE
from ups_scale.sweep.space import Space


@dataclass(frozen=True)
class Effect:
    """A value of a key: mean log ratio of its trials to the recipe's own point (less is better), its standard error
    (None of one trial), and how many trials that is."""

    value: Any
    mean: float
    error: float | None
    count: int


def log_ratio(trial: Trial, own: Trial) -> float | None:
    """How a trial compares with the recipe's own point, in log nRMSE: its objective if it is done, its gain when it was
    stopped; None where there is neither."""
    if trial.outcome is None or own.outcome is None:
        return None
    if trial.outcome.state == DONE and trial.outcome.value and own.outcome.value:
        return math.log(trial.outcome.value / own.outcome.value)
    return None if trial.outcome.gain is None else -trial.outcome.gain


def effects(space: Space, trials: Sequence[Trial]) -> dict[str, list[Effect]]:
    """Of each key of the grid, its values in order, over the trials of the grid."""
    found: dict[str, list[Effect]] = {}
    grid = [trial for trial in trials if trial.phase == COARSE]
    for choice in space.coarse:
        by_value: dict[str, tuple[Any, list[float]]] = {}
        for trial in grid:
            ratio = log_ratio(trial, grid[0])
            if ratio is not None:
                value = trial.values[choice.key]
                by_value.setdefault(show(value), (value, []))[1].append(ratio)
        found[choice.key] = sorted(
            (_effect(value, ratios) for value, ratios in by_value.values()), key=lambda effect: _order(effect.value)
        )
    return found


def proposal(space: Space, best: Trial, found: Mapping[str, Sequence[Effect]]) -> dict[str, Any]:
    """The next sweep's space, with a reason per key: where an end of the range won it is widened there, where nothing
    was gained the key is dropped, else it is looked at more closely."""
    keys: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for choice in space.coarse:
        key, of_key = choice.key, found[choice.key]
        won = best.values[key]
        values = [effect.value for effect in of_key]
        if not _numbers(values) or len(values) < 2:
            reasons[key] = f"dropped: there is nothing to compare; {show(won)} stays"
        elif _flat(of_key):
            reasons[key] = f"dropped: its values differ by no more than their standard error; {show(won)} stays"
        else:
            keys[key], reasons[key] = _next_values(key, sorted(values), won)
    if not keys:  # a space needs a key: the one that matters most, closer
        key = space.coarse[0].key
        won = best.values[key]
        keys[key] = {"values": _legal(key, [won * f for f in (0.9, 1, 1.1)]) if _numbers([won]) else [won]}
        reasons[key] += "; kept, closer, because a grid needs a key"
    return {
        "format": 1,
        "description": "Proposed by a sweep; start it from the recipe.best.json beside it.",
        "seed": space.seed + 1,
        "proxy_share": space.document["proxy_share"],
        "coarse": {"sample": space.document["coarse"]["sample"], "keys": keys},
        "local": space.document["local"],
        "full": space.document["full"],
        "reasons": reasons,
    }


def _next_values(key: str, values: list[float], won: float) -> tuple[dict[str, Any], str]:
    low, high = values[0], values[-1]
    ratio = (high / low) ** (1 / (len(values) - 1)) if low > 0 else 0.0
    if won <= low or won >= high:
        direction = "lowest" if won <= low else "highest"
        further = [won / ratio, won * ratio] if ratio else [won - (high - low), won + (high - low)]
        reason = f"widened: the {direction} value tried, {show(won)}, won"
        return {"values": _legal(key, [further[0], won, further[1]])}, reason
    closer = ratio**0.5
    reason = f"narrowed: {show(won)} won inside of {show(low)} to {show(high)}"
    return {"values": _legal(key, [won / closer, won, won * closer] if ratio else [won])}, reason


def _legal(key: str, values: Sequence[float]) -> list[float]:
    """The values that the recipe's schema allows, in order."""
    section, name = key.split(".")
    kinds = validate.leaves()[key]["type"]
    rounded = [float(f"{value:.4g}") if "number" in kinds else round(value) for value in values]
    return [value for value in dict.fromkeys(rounded) if not validate.check({section: {name: value}})]


def _flat(of_key: Sequence[Effect]) -> bool:
    means = [effect.mean for effect in of_key]
    errors = [effect.error for effect in of_key if effect.error is not None]
    if not errors:
        return max(means) == min(means)
    return max(means) - min(means) <= math.sqrt(2 * statistics.fmean(error**2 for error in errors))


def _effect(value: Any, ratios: Sequence[float]) -> Effect:
    error = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else None
    return Effect(value, statistics.fmean(ratios), error, len(ratios))


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _order(value: Any) -> tuple[int, float, str]:
    return (0, value, "") if _numbers([value]) else (1, 0.0, show(value))
