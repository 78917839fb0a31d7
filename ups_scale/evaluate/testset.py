"""What is evaluated: one family's trajectories, and whether a model can be evaluated on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from ups_scale.errors import DataError
from ups_scale.evaluate.variants import same_extents
from ups_scale.physics.families import FamilySpec

POINTS_PER_BATCH = 2**18
"""Points of all fields in one frame of a batch, at most; trajectories per batch follow from it."""
MAX_BATCH = 64


class Trajectories(Protocol):
    """What the suite needs of a `data.reader.ShardReader`."""

    @property
    def num_trajectories(self) -> int: ...

    def read(self, indices: Sequence[int], first_frames: Sequence[int], num_frames: int) -> Any: ...


@dataclass(frozen=True)
class TestSet:
    """One entry's trajectories of the split that is evaluated; `regular` if their frames are `spec.dt` apart.

    `known_as` is the model's name for it, if it isn't the data's; `taken_as` says what the model was trained on in its
    place.
    """

    __test__ = False

    spec: FamilySpec
    num_frames: int
    trajectories: Trajectories
    regular: bool = True
    known_as: str = ""
    taken_as: str = ""

    @property
    def family(self) -> str:
        """What the model is asked for."""
        return self.known_as or self.spec.name


def batch_size(spec: FamilySpec) -> int:
    """Trajectories per batch."""
    return max(1, min(MAX_BATCH, POINTS_PER_BATCH // (len(spec.fields) * math.prod(spec.grid))))


def own_batches(test: TestSet, accelerator: Accelerator) -> list[list[int]]:
    """The numbers of the trajectories that this process evaluates, by batch."""
    own = range(accelerator.process_index, test.trajectories.num_trajectories, accelerator.num_processes)
    size = batch_size(test.spec)
    return [list(own[start : start + size]) for start in range(0, len(own), size)]


def read_batch(test: TestSet, indices: Sequence[int], num_frames: int, device: torch.device) -> Any:
    """The first frames of the trajectories `indices`, a FieldBatch on `device`.

    Raises:
        DataError: a value is not finite.
    """
    batch = test.trajectories.read(indices, [0] * len(indices), num_frames).to(device)
    if not (batch.u_btcx if batch.mask_btcx is None else batch.u_btcx[batch.mask_btcx]).isfinite().all():
        raise DataError(
            f"{test.spec.name}: the test data hold values that are not finite, in one of {', '.join(batch.keys)}; "
            "nothing can be measured against them: generate or shard these trajectories again"
        )
    return batch


def check_tests(
    tests: Mapping[str, TestSet], known: Mapping[str, FamilySpec], context: int, horizons: Sequence[int]
) -> None:
    """Raises a `DataError` that lists every reason why a model can't be evaluated on `tests`.

    Masks and times may differ from those of the training data: the model is given them.
    """
    problems = []
    unknown = [name for name, test in tests.items() if test.family not in known]
    if unknown:
        problems.append(
            f"the model does not know the families {', '.join(unknown)}; it knows {', '.join(known) or 'none'}. "
            "Evaluate on a manifest of those (--data), or fine-tune on the new ones first"
        )
    for name, test in tests.items():
        problems += _unlike(name, test.spec, known.get(test.family, test.spec))
        horizon = max(horizons)
        if context + horizon > test.num_frames and not test.spec.steady:
            problems.append(
                f"{name}: trajectories have {test.num_frames} frames, but {context} given frames and a rollout of "
                f"{horizon} steps need {context + horizon}; lower evaluate.horizons or use longer trajectories"
            )
        if test.trajectories.num_trajectories == 0:
            problems.append(f"{name}: the split has no trajectories; shard data that has some")
    if not tests:
        problems.append("the manifest holds no family")
    if problems:
        raise DataError("the model can't be evaluated on this data:\n  - " + "\n  - ".join(problems))


def _unlike(name: str, data: FamilySpec, trained: FamilySpec) -> list[str]:
    """What of the data's description differs from what the model takes."""
    problems = []
    for what in ("fields", "parameters"):
        expected, found = getattr(trained, what), getattr(data, what)
        if expected != found:
            problems.append(
                f"{name}: the data's {what} are ({', '.join(found)}), the model was trained with "
                f"({', '.join(expected)}); shard the data with the model's names and order"
            )
    for what in ("geometry", "grid", "extents", "boundaries", "static", "coordinates", "steady"):
        expected, found = getattr(trained, what), getattr(data, what)
        if not (same_extents(trained, data) if what == "extents" else expected == found):
            problems.append(
                f"{name}: the data's {what} are {found}, the model was trained with {expected}; evaluate on data "
                "of the same domain and kind"
            )
    return problems
