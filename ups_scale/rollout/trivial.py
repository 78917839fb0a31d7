"""Predictors that know no physics, with the interface of a `Simulator`: what a model has to be better than."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ups_scale.errors import DataError
from ups_scale.model.places import Places
from ups_scale.model.requirements import check_shapes, check_steps
from ups_scale.physics.families import FamilySpec

# Dimensions: b trajectory, t frame, h predicted frame, c field, x space axes or points, p parameter.


@dataclass(frozen=True)
class Persistence:
    """Repeats the last given frame.

    Args:
        specs: the families it is asked for.
    """

    specs: Mapping[str, FamilySpec]
    context_frames: ClassVar[int] = 1
    """Of the given frames, how many at the end it looks at."""

    def frames(
        self,
        context_btcx: Tensor,
        family: str,
        parameters_bp: Tensor,
        dt_bt: Tensor,
        horizon: int,
        mask_btcx: Tensor | None = None,
        *,
        at: Places | None = None,
        steps: Collection[int] | None = None,
        guard: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """(step, frame) one by one, as `Simulator.frames`; static fields, and points without a value in the last given
        frame, stay as they are. A guard's frames are not predicted from.

        Raises:
            DataError: a shape is not the family's, fields are asked for elsewhere than at the given points, or too few
                frames are given.
        """
        if family not in self.specs:
            raise DataError(f"{self._name} was not set up for family {family!r}; it is for {', '.join(self.specs)}")
        spec = self.specs[family]
        most = max(1, context_btcx.shape[1]) if context_btcx.ndim > 1 else 1  # however many: it looks at the last ones
        check_shapes(spec, most, context_btcx, parameters_bp, dt_bt, horizon, mask_btcx)
        wanted = check_steps(horizon, steps, False, False)
        if at is not None:
            raise DataError(f"family {family}: {self._name} gives fields at the given points only: leave out `at`")
        self._check(spec, context_btcx)
        return self._run(spec, context_btcx, dt_bt, mask_btcx, wanted, guard)

    def __call__(self, *arguments: object, **named: object) -> Tensor:
        """(B, H, C, *X), all of `frames` at once; `horizon` is at least 1."""
        return torch.stack([u_bcx for _, u_bcx in self.frames(*arguments, **named)], dim=1)  # type: ignore[arg-type]

    def _run(
        self,
        spec: FamilySpec,
        context_btcx: Tensor,
        dt_bt: Tensor,
        mask_btcx: Tensor | None,
        wanted: Collection[int],
        guard: Callable[[Tensor], Tensor] | None,
    ) -> Iterator[tuple[int, Tensor]]:
        last_bcx = context_btcx[:, -1]
        changes_bcx = torch.zeros_like(last_bcx, dtype=torch.bool)
        changes_bcx[:, list(spec.dynamic)] = True
        if mask_btcx is not None:
            changes_bcx &= mask_btcx[:, -1]
        for step in wanted:
            frame = torch.where(changes_bcx, self._predicted(context_btcx, dt_bt, mask_btcx, step), last_bcx)
            yield step, frame if guard is None else guard(frame)

    def _check(self, spec: FamilySpec, context_btcx: Tensor) -> None:
        """Raises a `DataError` if too few frames are given."""

    def _predicted(self, context_btcx: Tensor, dt_bt: Tensor, mask_btcx: Tensor | None, step: int) -> Tensor:
        return context_btcx[:, -1]

    @property
    def _name(self) -> str:
        return type(self).__name__.lower()


class Zero(Persistence):
    """Predicts zero: its nRMSE is 1."""

    def _predicted(self, context_btcx: Tensor, dt_bt: Tensor, mask_btcx: Tensor | None, step: int) -> Tensor:
        return torch.zeros_like(context_btcx[:, -1])


class Extrapolation(Persistence):
    """Goes on linearly in time from the last two given frames, by their own times; where a time isn't known, as if
    frames were evenly spaced. A point without a value in the earlier one stays as it is."""

    context_frames: ClassVar[int] = 2

    def _check(self, spec: FamilySpec, context_btcx: Tensor) -> None:
        if context_btcx.shape[1] < 2:
            raise DataError(
                f"family {spec.name}: extrapolation needs two given frames, and {context_btcx.shape[1]} is given; give "
                "two, or leave it out of the comparison"
            )

    def _predicted(self, context_btcx: Tensor, dt_bt: Tensor, mask_btcx: Tensor | None, step: int) -> Tensor:
        given = context_btcx.shape[1]
        steps_b = dt_bt[:, given - 1 : given - 1 + step].double().sum(dim=1) / dt_bt[:, given - 2].double()
        steps_b = torch.where(steps_b.isfinite(), steps_b, float(step)).to(context_btcx.dtype)
        change_bcx = context_btcx[:, -1] - context_btcx[:, -2]
        if mask_btcx is not None:
            change_bcx = torch.where(mask_btcx[:, -2], change_bcx, 0.0)
        return context_btcx[:, -1] + steps_b.reshape(-1, *(1,) * (change_bcx.ndim - 1)) * change_bcx
