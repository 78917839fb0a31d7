"""What a suite measures: which splits, trajectories and steps; the same for every model, and named by a hash."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ups_scale.errors import UserError
from ups_scale.physics.families import FamilySpec

TEST = "test"
OOD = "ood"
"""How the names of out-of-distribution splits begin."""
LONGEST = 4
"""The longest horizon of a suite that goes on, in longest horizons of the recipe."""


@dataclass(frozen=True)
class Suite:
    """What is measured of every entry of the data.

    Attributes:
        trajectories: at most so many of each split, drawn by `seed`; None: all.
        ood: whether the out-of-distribution splits are measured, too.
        on: whether rollouts go on past the recipe's horizons, as far as frames reach (`LONGEST`).
        members, ensemble_trajectories: size of the ensembles for reliability, and of how many trajectories; 0: none.
        factors: of super-resolution, for models that can be asked for any point.
    """

    name: str
    trajectories: int | None
    ood: bool
    on: bool
    members: int
    ensemble_trajectories: int
    factors: tuple[int, ...]
    seed: int = 0


SUITES = {
    suite.name: suite
    for suite in (
        Suite("small", 24, ood=False, on=False, members=0, ensemble_trajectories=0, factors=()),
        Suite("full", None, ood=True, on=True, members=8, ensemble_trajectories=16, factors=(2, 4)),
    )
}


def suite_named(name: str) -> Suite:
    """The suite of that name.

    Raises:
        UserError: there is none.
    """
    if name not in SUITES:
        raise UserError(f"--suite {name}: no such suite; there is {', '.join(SUITES)}")
    return SUITES[name]


def splits(suite: Suite, has: Iterable[str]) -> tuple[str, ...]:
    """Those of the splits that data have which the suite measures, `test` first."""
    found = sorted(name for name in has if name == TEST or (suite.ood and name.startswith(OOD)))
    return tuple(sorted(found, key=lambda name: name != TEST))


def steps(suite: Suite, spec: FamilySpec, horizons: Sequence[int], num_frames: int, given: int) -> tuple[int, ...]:
    """The rollout steps that are measured of an entry with trajectories of `num_frames` frames, `given` of them given:
    the recipe's `horizons` and, in a suite that goes on, the longest that there are frames for."""
    asked = spec.steps(sorted(horizons))
    longest = min(num_frames - given, LONGEST * max(horizons))
    if spec.steady or not suite.on or longest <= max(asked):
        return asked
    return (*asked, longest)


def chosen(suite: Suite, entry: str, split: str, num_trajectories: int) -> tuple[int, ...]:
    """The numbers of the trajectories that are measured, in order: the same for every model."""
    if suite.trajectories is None or num_trajectories <= suite.trajectories:
        return tuple(range(num_trajectories))
    draw = random.Random(f"{suite.seed}/{entry}/{split}")
    return tuple(sorted(draw.sample(range(num_trajectories), suite.trajectories)))


def settings(suite: Suite, horizons: Sequence[int], given: int, factors: Sequence[int]) -> dict[str, Any]:
    """What report.json says of the suite; `given` is the number of frames that are given."""
    return {**asdict(suite), "horizons": list(horizons), "context_frames": given, "factors": list(factors)}


def chain_hash(won: str, following: Suite) -> str:
    """12 hex digits of a suite's hash and the settings of the suite that its winners go on to: other ones if either
    has changed."""
    text = json.dumps([won, asdict(following)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def suite_hash(told: Mapping[str, Any], manifest_digest: str, measured: Mapping[str, Any]) -> str:
    """12 hex digits: evaluations with the same ones are of the same windows of the same data, and can be compared.

    `told` are the suite's `settings`, `measured` the entries' splits, steps and numbers of trajectories.
    """
    # What only some models can be asked for makes no two evaluations different.
    same = {key: value for key, value in told.items() if key != "factors"}
    text = json.dumps([same, manifest_digest, measured], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
