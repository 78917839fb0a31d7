"""What families conserve: integrals over the domain of densities that are computed from the fields.

A quantity's integral changes only by what passes the sides. Where no side lets any through, it is constant (closed);
elsewhere a prediction can only be held against the truth's integral of the same time (open).

Dimensions: b trajectory, c field, x space (cells of a uniform grid); densities take any dimensions before x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ups_scale.physics.families import FAMILIES, FamilySpec

Fields = Mapping[str, Tensor]
"""By name, (..., *X) in physical units; static fields may have fewer dimensions that broadcast."""

GAS_GAMMA = 5 / 3
"""Ratio of specific heats of the registry's compressible flows (PDEBench's, arXiv 2210.07182, appendix D.5)."""


@dataclass(frozen=True)
class Functional:
    """A conserved quantity: `components` gives its density, one tensor per component (several for a vector).

    `closed` are the kinds of side that let nothing of it through; `needs` the fields that it is computed from, where
    "velocity" stands for one component per axis.
    """

    components: Callable[[Fields], tuple[Tensor, ...]]
    closed: tuple[str, ...]
    needs: tuple[str, ...] = ()


def _velocity(fields: Fields) -> tuple[Tensor, ...]:
    return tuple(fields[name] for name in ("velocity_x", "velocity_y", "velocity_z") if name in fields)


def _energy(fields: Fields) -> tuple[Tensor, ...]:
    square = torch.stack([v.square() for v in _velocity(fields)]).sum(0)
    return (fields["pressure"] / (GAS_GAMMA - 1) + 0.5 * fields["density"] * square,)


INTEGRAL = "integral"
"""Every field by itself."""
FUNCTIONALS: dict[str, Functional] = {
    INTEGRAL: Functional(lambda fields: tuple(fields.values()), ("periodic",)),
    "mass": Functional(lambda fields: (fields["density"],), ("periodic", "wall"), ("density",)),
    # A wall takes up momentum.
    "momentum": Functional(
        lambda fields: tuple(fields["density"] * v for v in _velocity(fields)), ("periodic",), ("density", "velocity")
    ),
    "energy": Functional(_energy, ("periodic", "wall"), ("density", "pressure", "velocity")),
    "water": Functional(lambda fields: (fields["height"],), ("periodic", "wall"), ("height",)),
    # d/dt of p / (density c^2) is -div(v).
    "compression": Functional(
        lambda fields: (fields["pressure"] / (fields["density"] * fields["sound_speed"].square()),),
        ("periodic", "wall"),
        ("pressure", "density", "sound_speed"),
    ),
}


@dataclass(frozen=True)
class Quantity:
    """One quantity of one data set: `name` of its functional, `field` the field it is of, "" if it is of several."""

    name: str
    field: str
    components: Callable[[Fields], tuple[Tensor, ...]]
    is_closed: bool


def quantities(spec: FamilySpec) -> tuple[Quantity, ...]:
    """What of the data has a budget: none for an unknown family, for data with a mask, whose integral is not over the
    whole domain, on scattered points, which give no integral, or without a field that the quantity is computed from.

    Quantities of each field by itself come one per predicted field.
    """
    family = FAMILIES.get(spec.family)
    if family is None or spec.masked or spec.geometry != "grid":
        return ()
    kinds = {kind for sides in spec.boundaries for kind in sides}
    found = []
    for name in family.invariants:
        functional = FUNCTIONALS[name]
        needs = set(functional.needs)
        if "velocity" in needs:
            needs = needs - {"velocity"} | {f"velocity_{axis}" for axis in "xyz"[: spec.dimensions]}
        if not needs <= set(spec.fields):
            continue
        is_closed = kinds <= set(functional.closed)
        fields = [spec.fields[number] for number in spec.dynamic] if name == INTEGRAL else [""]
        for field in fields:
            found.append(Quantity(name, field, _only(field) if field else functional.components, is_closed))
    return tuple(found)


def _only(field: str) -> Callable[[Fields], tuple[Tensor, ...]]:
    return lambda fields: (fields[field],)


def fields_of(u_cx: Tensor, spec: FamilySpec) -> dict[str, Tensor]:
    """(..., C, *X) as fields by name, (..., *X) each."""
    return dict(zip(spec.fields, u_cx.unbind(-1 - spec.dimensions), strict=True))


def domain_integral(q_x: Tensor, extents: tuple[tuple[float, float], ...]) -> Tensor:
    """The integral over the domain, (...) float64 from (..., *X): mean over the uniform cells times the volume.

    The unit is that of `q` times that of the coordinates per axis.
    """
    volume = math.prod(high - low for low, high in extents)
    axes = tuple(range(-len(extents), 0))
    return q_x.double().mean(dim=axes) * volume
