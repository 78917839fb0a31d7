"""What is evaluated: trajectories of one split of one entry of the data, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from ups_scale.errors import DataError
from ups_scale.evaluate.suites import TEST
from ups_scale.evaluate.variants import same_extents
from ups_scale.physics.families import FamilySpec

POINTS_PER_BATCH = 2**18
"""Points of all fields in one frame of a batch, at most; trajectories per batch follow from it."""
MAX_BATCH = 64
VALUES_AT_ONCE = 2**25
"""Values of the truth that are read at once, at most, if that is a frame: 128 MiB."""


class Trajectories(Protocol):
    """What the suite needs of a `data.reader.ShardReader`."""

    @property
    def num_trajectories(self) -> int: ...

    def read(self, indices: Sequence[int], first_frames: Sequence[int], num_frames: int) -> Any: ...

    def times_between(self, indices: Sequence[int], num_frames: int) -> Tensor: ...


@dataclass(frozen=True)
class TestSet:
    """Trajectories of one split of one entry of the data; `regular` if their frames are `spec.dt` apart.

    Attributes:
        known_as: the model's name for the entry, if it isn't the data's.
        taken_as: what the model was trained on in its place.
        steps: the rollout steps that are measured, in order.
        chosen: the numbers of the trajectories that are; None: all.
    """

    __test__ = False

    spec: FamilySpec
    num_frames: int
    trajectories: Trajectories
    regular: bool = True
    known_as: str = ""
    taken_as: str = ""
    split: str = TEST
    steps: tuple[int, ...] = ()
    chosen: tuple[int, ...] | None = None

    @property
    def family(self) -> str:
        """What the model is asked for."""
        return self.known_as or self.spec.name

    @property
    def name(self) -> str:
        """Of the entry, and of the split if it isn't the test split."""
        return self.spec.name if self.split == TEST else f"{self.spec.name} ({self.split})"

    @property
    def indices(self) -> tuple[int, ...]:
        """The numbers of the trajectories that are evaluated."""
        return tuple(range(self.trajectories.num_trajectories)) if self.chosen is None else self.chosen


@dataclass(frozen=True)
class Given:
    """What a batch of rollouts starts from: the given frames, (B, T, C, *X), and what else a model is told."""

    keys: tuple[str, ...]
    u_btcx: Tensor
    mask_btcx: Tensor | None
    parameters_bp: Tensor
    dt_bt: Tensor
    """(B, T + H - 1), all times up to the last frame to be predicted."""


def batch_size(spec: FamilySpec) -> int:
    """Trajectories per batch."""
    return max(1, min(MAX_BATCH, POINTS_PER_BATCH // (len(spec.fields) * math.prod(spec.grid))))


def own_batches(
    test: TestSet, accelerator: Accelerator, most: int | None = None, size: int | None = None
) -> list[list[int]]:
    """The numbers of the trajectories that this process evaluates, of the first `most`, by batches of `size`."""
    own = test.indices[:most][accelerator.process_index :: accelerator.num_processes]
    size = size or batch_size(test.spec)
    return [list(own[start : start + size]) for start in range(0, len(own), size)]


def read_rollouts(
    test: TestSet, indices: Sequence[int], given: int, horizon: int, device: torch.device
) -> tuple[Given, Iterator[tuple[Tensor, Tensor | None]]]:
    """The first `given` frames of the trajectories `indices`, and the `horizon` frames after them one by one: each
    (B, C, *X) with its mask. Of a long rollout only a part is in memory.

    Raises:
        DataError: a value is not finite.
    """
    values = len(indices) * len(test.spec.fields) * math.prod(test.spec.grid)
    at_once = max(1, VALUES_AT_ONCE // values)
    first = min(horizon, max(1, at_once - given))
    batch = read_batch(test, indices, given + first, device)
    dt_bt = batch.dt_bt
    if first < horizon:
        dt_bt = test.trajectories.times_between(indices, given + horizon).to(device)
    mask = batch.mask_btcx
    start = Given(
        batch.keys, batch.u_btcx[:, :given], None if mask is None else mask[:, :given], batch.parameters_bp, dt_bt
    )

    def frames() -> Iterator[tuple[Tensor, Tensor | None]]:
        part, place, done = batch, given, 0
        while done < horizon:
            if place == part.u_btcx.shape[1]:
                count = min(at_once, horizon - done)
                part, place = read_batch(test, indices, count, device, first=given + done), 0
            yield part.u_btcx[:, place], None if part.mask_btcx is None else part.mask_btcx[:, place]
            place, done = place + 1, done + 1

    return start, frames()


def read_batch(test: TestSet, indices: Sequence[int], num_frames: int, device: torch.device, first: int = 0) -> Any:
    """Frames of the trajectories `indices` from number `first` on, a FieldBatch on `device`.

    Raises:
        DataError: a value is not finite.
    """
    batch = test.trajectories.read(indices, [first] * len(indices), num_frames).to(device)
    if not (batch.u_btcx if batch.mask_btcx is None else batch.u_btcx[batch.mask_btcx]).isfinite().all():
        raise DataError(
            f"{test.name}: the data hold values that are not finite, in one of {', '.join(batch.keys)}; "
            "nothing can be measured against them: generate or shard these trajectories again"
        )
    return batch


def check_tests(
    tests: Sequence[TestSet], known: Mapping[str, FamilySpec], context: int, horizons: Sequence[int]
) -> None:
    """Raises a `DataError` that lists every reason why a model can't be evaluated on `tests`.

    Masks and times may differ from those of the training data: the model is given them.
    """
    problems = []
    unknown = [test.name for test in tests if test.family not in known]
    if unknown:
        problems.append(
            f"the model does not know the families {', '.join(unknown)}; it knows {', '.join(known) or 'none'}. "
            "Evaluate on a manifest of those (--data), or fine-tune on the new ones first"
        )
    for test in tests:
        problems += _unlike(test.name, test.spec, known.get(test.family, test.spec))
        horizon = max(horizons)
        if context + horizon > test.num_frames and not test.spec.steady:
            problems.append(
                f"{test.name}: trajectories have {test.num_frames} frames, but {context} given frames and a rollout of "
                f"{horizon} steps need {context + horizon}; lower evaluate.horizons or use longer trajectories"
            )
        if not test.indices:
            problems.append(f"{test.name}: the split has no trajectories; shard data that has some")
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
