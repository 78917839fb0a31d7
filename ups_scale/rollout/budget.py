"""Budgets: how much of each conserved quantity a rollout gains or loses, per step and in total."""

from __future__ import annotations

import torch
from torch import Tensor

from ups_scale.physics.families import FamilySpec
from ups_scale.physics.invariants import Quantity, domain_integral, fields_of, quantities

# Dimensions: b trajectory, h step, c field, v component of a vector (1 of a scalar), x space axes.


class Budget:
    """The record of one rollout: the integral Q of every quantity that the registry names, frame by frame.

    Quantities are called by their name in `physics/invariants.py`, with the field behind it where each field has its
    own ("integral_vorticity"). Those that pass the sides are recorded too: `closed` says which must stay constant. A
    family without any has an empty record.

    Args:
        last_bcx: (B, C, *X) the last given frame, in physical units.
    """

    def __init__(self, spec: FamilySpec, last_bcx: Tensor) -> None:
        self._spec = spec
        self._quantities = {_label(quantity): quantity for quantity in quantities(spec)}
        self.closed = {name: quantity.is_closed for name, quantity in self._quantities.items()}
        self.steps: list[int] = []
        self._first = self._integrals(last_bcx)
        self._values: dict[str, list[Tensor]] = {name: [value] for name, value in self._first.items()}

    def step(self, step: int, u_bcx: Tensor) -> None:
        """Records a predicted frame; steps come in order, and may be left out."""
        self.steps.append(step)
        for name, value in self._integrals(u_bcx).items():
            self._values[name].append(value)

    def initial(self) -> dict[str, Tensor]:
        """Q(0) of the last given frame, by name, (B, V) float64 on the CPU."""
        return dict(self._first)

    def total(self) -> dict[str, Tensor]:
        """Q(k) - Q(0) at the recorded steps k, by name, (B, H, V) float64 on the CPU."""
        return {name: self._stacked(values[1:], [values[0]] * len(self.steps)) for name, values in self._values.items()}

    def per_step(self) -> dict[str, Tensor]:
        """Q(k) - Q(before), since the frame recorded before it, by name, (B, H, V) float64 on the CPU."""
        return {name: self._stacked(values[1:], values[:-1]) for name, values in self._values.items()}

    def _stacked(self, values: list[Tensor], less: list[Tensor]) -> Tensor:
        if not values:
            return torch.zeros(0, dtype=torch.float64)
        return torch.stack(values, dim=1) - torch.stack(less, dim=1)

    def _integrals(self, u_bcx: Tensor) -> dict[str, Tensor]:
        fields = fields_of(u_bcx.double(), self._spec) if self._quantities else {}
        return {
            name: torch.stack(
                [domain_integral(density, self._spec.extents) for density in quantity.components(fields)], dim=1
            ).cpu()
            for name, quantity in self._quantities.items()
        }


def _label(quantity: Quantity) -> str:
    return f"{quantity.name}_{quantity.field}" if quantity.field else quantity.name
