"""How much better one evaluation is than another, and how sure that is: a paired bootstrap over trajectories.

Both models predicted the same trajectories, and each resample draws the same ones for both: what is hard for both
cancels.

trajectories.json of both -> pairs by key -> per family and step log(mean nRMSE / mean nRMSE), as it is and resampled
                          -> over families the mean of these logarithms
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_scale.errors import DataError

FORMAT = 1
MODEL = "model"
TRIVIAL = ("zero", "persistence")
SMALLEST = 1e-12  # an nRMSE under it is no error at all: float64 rounds there, and its logarithm would rule all others
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """How much lower the candidate's nRMSE is, relative (0.05: 5 % lower); `sigma` is its standard error, `low` to
    `high` the confidence interval. One trajectory tells nothing of its noise: `sigma` is infinite then."""

    improvement: float
    sigma: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Log ratios candidate / champion of the mean nRMSE.

    Attributes:
        log_ratio: by family and step.
        resampled: the same of every resample, (resamples,).
        diverged: by family, how many trajectories (candidate, champion) left the finite numbers by the last step.
        single: families with one trajectory only.
        confidence: of the intervals.
    """

    log_ratio: Mapping[str, Mapping[int, float]]
    resampled: Mapping[str, Mapping[int, Floats]]
    diverged: Mapping[str, tuple[int, int]]
    single: tuple[str, ...]
    confidence: float

    def family(self, name: str, step: int) -> Gain:
        """The gain on one family at one of its steps."""
        return self._gain(self.log_ratio[name][step], self.resampled[name][step], name in self.single)

    def overall(self, step: int | None = None) -> Gain:
        """The gain over all families, at `step` (default: `shared_step`) or the last one before it that a family has:
        the geometric mean of their ratios."""
        at = {name: self.step_of(name, step) for name in self.log_ratio}
        mean = float(np.mean([self.log_ratio[name][k] for name, k in at.items()]))
        return self._gain(mean, np.mean([self.resampled[name][k] for name, k in at.items()], axis=0), bool(self.single))

    def shared_step(self) -> int:
        """The largest step that all families have; where they share none, the largest first step."""
        shared = set.intersection(*(set(of) for of in self.log_ratio.values()))
        return max(shared) if shared else max(min(of) for of in self.log_ratio.values())

    def step_of(self, name: str, step: int | None = None) -> int:
        """The family's last step that is not beyond `step`; its first, if all are."""
        return last_step(tuple(self.log_ratio[name]), self.shared_step() if step is None else step)

    def _gain(self, log_ratio: float, resampled: Floats, single: bool) -> Gain:
        tail = (1 - self.confidence) / 2
        gains = 1 - np.exp(resampled)
        low, high = (float(x) for x in np.quantile(gains, (tail, 1 - tail)))
        if single:
            return Gain(1 - math.exp(log_ratio), math.inf, -math.inf, 1.0)
        return Gain(1 - math.exp(log_ratio), float(gains.std(ddof=1)), low, high)


def compare(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any],
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """The comparison of two trajectories.json, trajectories matched by their keys.

    A resample draws n - 1 of n trajectories with replacement, so that its variance is that of the mean, n small or not
    (Rao and Wu, JASA 83, 1988, section 2). A trajectory that diverged counts as the worst of both models, and at least
    1, the zero predictor's nRMSE; one whose truth is zero (no trivial predictor has a figure either) is left out.

    Raises:
        DataError: other suites, other trajectories, or what is no trajectories.json.
    """
    ours, theirs = checked(candidate, "candidate"), checked(champion, "champion")
    _same_suite(candidate, champion, ours, theirs)
    log_ratio: dict[str, dict[int, float]] = {}
    resampled: dict[str, dict[int, Floats]] = {}
    diverged: dict[str, tuple[int, int]] = {}
    single: list[str] = []
    for name, table in ours.items():
        steps = sorted({int(k) for k in table["nrmse"][MODEL]} & {int(k) for k in theirs[name]["nrmse"][MODEL]})
        if not steps:
            raise DataError(f"{name}: the candidate and the champion share no step; {REMEDY}")
        order = _order(table["keys"], theirs[name]["keys"])
        pairs = {k: (_column(table, MODEL, k), _column(theirs[name], MODEL, k)[order]) for k in steps}
        exists = {k: _has_truth(table, k) for k in steps}
        a, b = (int((~np.isfinite(of) & exists[steps[-1]]).sum()) for of in pairs[steps[-1]])
        diverged[name] = (a, b)
        num = len(order)
        if num == 1:
            single.append(name)
        draws = np.random.default_rng([seed, zlib.crc32(name.encode())]).multinomial(
            max(1, num - 1), np.full(num, 1 / num), size=resamples
        )
        log_ratio[name], resampled[name] = {}, {}
        for k in steps:
            point, samples = _log_ratios(*_worst(*pairs[k], exists[k]), draws[:, exists[k]])
            log_ratio[name][k], resampled[name][k] = point, samples
    return Comparison(log_ratio, resampled, diverged, tuple(single), confidence)


REMEDY = "both must be evaluated by the same suite on the same data: evaluate the older one again (--force)"


def last_step(steps: Sequence[int], step: int) -> int:
    """The last of `steps` that is not beyond `step`; the first, if all are."""
    return max((k for k in steps if k <= step), default=min(steps))


def horizon_change(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Per family (candidate's mean correlation horizon, champion's, standard error of their paired difference), in
    steps. A trajectory that has none counts as 0 steps; families for which a file tells no horizon are left out."""
    ours, theirs = checked(candidate, "candidate"), checked(champion, "champion")
    _same_suite(candidate, champion, ours, theirs)
    changes = {}
    for name, table in ours.items():
        if MODEL in table.get("horizon", {}) and MODEL in theirs[name].get("horizon", {}):
            a, b = (np.nan_to_num(_floats(of["horizon"][MODEL]), nan=0.0) for of in (table, theirs[name]))
            b = b[_order(table["keys"], theirs[name]["keys"])]
            error = float((a - b).std(ddof=1)) / math.sqrt(len(a)) if len(a) > 1 else math.inf
            changes[name] = (float(a.mean()), float(b.mean()), error)
    return changes


def checked(trajectories: Mapping[str, Any], whose: str) -> Mapping[str, Mapping[str, Any]]:
    """The families of a trajectories.json. Raises `DataError` if it is none; `whose` is for the message."""

    def wrong(text: str) -> DataError:
        return DataError(f"the {whose}'s trajectories.json: {text}; evaluate it again (--force)")

    if not isinstance(trajectories, Mapping) or trajectories.get("format") != FORMAT:
        raise wrong(f"not of format {FORMAT}")
    families = trajectories.get("families")
    if not isinstance(families, Mapping) or not families:
        raise wrong("it holds no families")
    for name, table in families.items():
        try:
            num = len(set(table["keys"]))
            lists = [of for steps in table["nrmse"].values() for of in steps.values()]
            lists += list(table.get("horizon", {}).values())
            whole = bool(table["nrmse"][MODEL]) and num > 0 and all(len(of) == num for of in [*lists, table["keys"]])
        except (KeyError, TypeError, AttributeError) as error:
            raise wrong(f"{name} is malformed ({type(error).__name__}: {error})") from None
        if not whole:
            raise wrong(f"{name}: expected one figure per trajectory and step, and every key once")
    return families


def _same_suite(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any],
    ours: Mapping[str, Mapping[str, Any]],
    theirs: Mapping[str, Mapping[str, Any]],
) -> None:
    a, b = candidate.get("suite_hash"), champion.get("suite_hash")
    if a != b:
        raise DataError(f"can't compare: suite_hash is {a} for the candidate and {b} for the champion; {REMEDY}")
    if ours.keys() != theirs.keys():
        alone = ", ".join(sorted(ours.keys() ^ theirs.keys()))
        raise DataError(f"can't compare: only one of candidate and champion has {alone}; {REMEDY}")
    for name in ours:
        alone_keys = sorted(set(ours[name]["keys"]) ^ set(theirs[name]["keys"]))
        if alone_keys:
            raise DataError(
                f"can't compare: {name}: {len(alone_keys)} trajectories are in one of candidate and champion only "
                f"({', '.join(alone_keys[:3])}{', ...' if len(alone_keys) > 3 else ''}); {REMEDY}"
            )


def _order(keys: Sequence[str], others: Sequence[str]) -> list[int]:
    """Where each of `keys` is in `others`."""
    place = {key: number for number, key in enumerate(others)}
    return [place[key] for key in keys]


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _column(table: Mapping[str, Any], predictor: str, step: int) -> Floats:
    return _floats(table["nrmse"][predictor][str(step)])


def _has_truth(table: Mapping[str, Any], step: int) -> NDArray[np.bool_]:
    """Which trajectories have a figure of any trivial predictor: these are always finite, unless the truth is zero."""
    found = [_column(table, name, step) for name in TRIVIAL if str(step) in table["nrmse"].get(name, {})]
    if not found:
        return np.ones(len(table["keys"]), dtype=np.bool_)
    return np.asarray(np.isfinite(np.stack(found)).any(axis=0), dtype=np.bool_)


def _worst(a: Floats, b: Floats, exists: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Both, where there is a truth, with the worst of both in place of what is not finite."""
    a, b = a[exists], b[exists]
    finite = np.concatenate([a[np.isfinite(a)], b[np.isfinite(b)], [1.0]])
    return np.where(np.isfinite(a), a, finite.max()), np.where(np.isfinite(b), b, finite.max())


def _log_ratios(a: Floats, b: Floats, draws: NDArray[np.int64]) -> tuple[float, Floats]:
    """log(mean a / mean b), and of every resample; without any trajectory, 0: neither is better."""
    if not len(a):
        return 0.0, np.zeros(len(draws))
    point = float(np.log(max(a.mean(), SMALLEST)) - np.log(max(b.mean(), SMALLEST)))
    count = draws.sum(axis=1)
    sums = [np.maximum(draws @ of, SMALLEST * np.maximum(count, 1)) for of in (a, b)]
    return point, np.where(count > 0, np.log(sums[0]) - np.log(sums[1]), point)
