"""What holds at the sides of a domain: conditions with a stated value, and by how much fields miss them.

Values stand at the centres of cells, so a side lies half a cell beyond the first and last of them; values and slopes
there are those of the parabola through the three nearest cells.

Dimensions: c field, x space (cells of a uniform grid); functions take any dimensions before x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ups_scale.physics.families import FAMILIES, FamilySpec

VALUE, SLOPE = "value", "slope"
LEAST_CELLS = 3
"""Along an axis, for the parabola."""
WEIGHTS = {VALUE: (15 / 8, -10 / 8, 3 / 8), SLOPE: (-2.0, 3.0, -1.0)}
"""Of the three cells nearest to a side: the value there, and the slope away from it times a cell's width."""


@dataclass(frozen=True)
class Condition:
    """`field`'s number has `stated` as its value, or as its slope along the axis, at one side of `axis` (0 low, 1
    high)."""

    field: int
    axis: int
    side: int
    kind: str
    stated: float


def conditions(spec: FamilySpec) -> tuple[Condition, ...]:
    """All that is stated of the predicted fields; nothing of periodic and open sides.

    dirichlet: the value that the registry has for the field, if any. neumann: a slope of 0, of every field. wall: no
    velocity across it, of fields called velocity_x and so on (slip walls; nothing else is stated). robin: nothing, as
    the condition holds parameters. None of data with a mask or on scattered points, which have no cells at the sides.
    """
    family = FAMILIES.get(spec.family)
    values: Mapping[str, float] = family.boundary_values if family else {}
    if spec.masked or spec.geometry != "grid" or min(spec.grid) < LEAST_CELLS:
        return ()
    found = []
    for axis, sides in enumerate(spec.boundaries):
        for side, kind in enumerate(sides):
            for number in spec.dynamic:
                name = spec.fields[number]
                if kind == "neumann":
                    found.append(Condition(number, axis, side, SLOPE, 0.0))
                elif kind == "dirichlet" and name in values:
                    found.append(Condition(number, axis, side, VALUE, values[name]))
                elif kind == "wall" and name == f"velocity_{'xyz'[axis]}":
                    found.append(Condition(number, axis, side, VALUE, 0.0))
    return tuple(found)


def residual(u_x: Tensor, condition: Condition, spec: FamilySpec) -> Tensor:
    """By how much a field (..., *X) misses a condition at each cell of the side: (..., *X without its axis).

    In the field's unit: slopes are times the domain's length along the axis.
    """
    along = u_x.movedim(condition.axis - spec.dimensions, -1)
    if condition.side:
        along = along[..., -LEAST_CELLS:].flip(-1)
    first, second, third = WEIGHTS[condition.kind]
    found = first * along[..., 0] + second * along[..., 1] + third * along[..., 2]
    return found * spec.grid[condition.axis] - condition.stated if condition.kind == SLOPE else found - condition.stated
