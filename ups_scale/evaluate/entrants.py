"""Who is evaluated: the model, the trivial predictors and the zoo, each rolled out alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ups_scale.evaluate.testset import TestSet
from ups_scale.rollout.guards import Guards
from ups_scale.rollout.trivial import Extrapolation, Persistence, Zero

MODEL = "model"
TRIVIAL = ("persistence", "extrapolation", "zero")
EXTRAPOLATED_FROM = 2  # given frames


@dataclass(frozen=True)
class Entrant:
    """A predictor that `rollout` can roll out, and its names for the test sets that it takes, by `TestSet.name`;
    `guards` act on every frame that it predicts."""

    name: str
    model: Any
    families: Mapping[str, str]
    guards: Guards | None = None


def model_entrant(model: Any, tests: Iterable[TestSet]) -> Entrant:
    """The model that is evaluated; `TestSet.family` is its name for each."""
    return Entrant(MODEL, model, {test.name: test.family for test in tests})


def trivial_entrants(tests: Sequence[TestSet], context_frames: int) -> list[Entrant]:
    """Persistence, linear extrapolation where there are two given frames, and zero."""
    specs = {test.spec.name: test.spec for test in tests}
    names = {test.name: test.spec.name for test in tests}
    moving = {test.name: test.spec.name for test in tests if not test.spec.steady}
    entrants = [Entrant("persistence", Persistence(specs), names)]
    if context_frames >= EXTRAPOLATED_FROM and moving:
        entrants.append(Entrant("extrapolation", Extrapolation(specs), moving))
    return [*entrants, Entrant("zero", Zero(specs), names)]


def guarded(entrants: Sequence[Entrant], tests: Sequence[TestSet], names: Sequence[str]) -> list[Entrant]:
    """The entrants with the guards `names`, the same for all but `zero`, whose nRMSE is 1: at the faces of the first
    one's patches, where these don't move.

    Raises:
        UserError: there is no guard of a name.
    """
    if not names:
        return [replace(entrant, guards=None) for entrant in entrants]
    specs = {test.spec.name: test.spec for test in tests}
    judged = entrants[0].model
    guards = Guards(tuple(names), specs, judged.patches, judged.moving_patches)
    return [replace(entrant, guards=None if entrant.name == "zero" else guards) for entrant in entrants]
