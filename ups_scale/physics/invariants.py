"""What families conserve, as functionals by name: the integral over the domain of a density of the fields."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ups_scale.physics.families import FAMILIES, FamilySpec

DENSITIES: dict[str, Callable[[Tensor], Tensor]] = {"integral": lambda u_cx: u_cx}
"""Invariant name -> its density, computed field by field from (..., C, *X)."""


def conserved(spec: FamilySpec) -> tuple[str, ...]:
    """The names of the invariants that hold for this data: none for an unknown family or another boundary kind.

    The registry grants invariants under one boundary kind only, so data with any other side gets none; nor does data
    with a mask, whose integral is not over the whole domain, or on scattered points, which give no integral.
    """
    family = FAMILIES.get(spec.family)
    partial = spec.masked or spec.geometry != "grid"
    if family is None or partial or any(kind != family.boundary for sides in spec.boundaries for kind in sides):
        return ()
    return family.invariants


def domain_integral(q_x: Tensor, extents: tuple[tuple[float, float], ...]) -> Tensor:
    """The integral over the domain, (...) float64 from (..., *X): mean over the uniform cells times the volume.

    The unit is that of `q` times that of the coordinates per axis.
    """
    volume = math.prod(high - low for low, high in extents)
    axes = tuple(range(-len(extents), 0))
    return q_x.double().mean(dim=axes) * volume
