"""The registry of PDE families: what each one's fields, parameters, boundaries and invariants are.

Losses, guards, search rewards and metrics ask this file what holds for a family, so that nothing is applied that the
physics does not grant (Burgers, for one, dissipates energy).
"""

from __future__ import annotations

from dataclasses import dataclass

from ups_scale.errors import DataError

BOUNDARY_KINDS = ("periodic", "dirichlet", "neumann", "wall")


@dataclass(frozen=True)
class Field:
    """A physical quantity: its name and unit."""

    name: str
    unit: str


@dataclass(frozen=True)
class Family:
    """A PDE with named parameters.

    `invariants` are names of functionals in `physics/invariants.py` that the exact solution keeps constant in time
    under `boundary`, the kind on every side in the data that `tools/generate.py` makes.
    """

    name: str
    equation: str
    dimensions: int
    fields: tuple[Field, ...]
    parameters: tuple[str, ...]
    boundary: str
    invariants: tuple[str, ...] = ()


@dataclass(frozen=True)
class FamilySpec:
    """A family as one data set holds it: everything about it that is the same for all its trajectories.

    `grid` is the number of points per axis, `extents` the (low, high) coordinate per axis, `boundaries` the
    (low side, high side) kind per axis, `u_rms` and `delta_rms` the training split's root mean square of each field
    and of its change over one frame, in the field's unit.
    """

    name: str
    fields: tuple[str, ...]
    units: tuple[str, ...]
    parameters: tuple[str, ...]
    grid: tuple[int, ...]
    extents: tuple[tuple[float, float], ...]
    boundaries: tuple[tuple[str, str], ...]
    u_rms: tuple[float, ...]
    delta_rms: tuple[float, ...]

    @property
    def dimensions(self) -> int:
        return len(self.grid)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Per axis, whether both sides are periodic."""
        return tuple(sides == ("periodic", "periodic") for sides in self.boundaries)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="advection_1d",
            equation="u_t + beta u_x = 0",
            dimensions=1,
            fields=(Field("u", "1"),),
            parameters=("beta",),
            boundary="periodic",
            invariants=("integral",),
        ),
        Family(
            name="burgers_1d",
            equation="u_t + u u_x = (nu/pi) u_xx",
            dimensions=1,
            fields=(Field("u", "1"),),
            parameters=("nu",),
            boundary="periodic",
            invariants=("integral",),
        ),
        Family(
            name="reaction_diffusion_2d",
            equation="u_t = du lap(u) + u - u^3 - k - v;  v_t = dv lap(v) + u - v  (FitzHugh-Nagumo)",
            dimensions=2,
            fields=(Field("activator", "1"), Field("inhibitor", "1")),
            parameters=("du", "dv", "k"),
            boundary="neumann",
        ),
        Family(
            name="navier_stokes_2d",
            equation="w_t + (velocity . grad) w = nu lap(w),  velocity = curl^-1(w)  (decaying, incompressible)",
            dimensions=2,
            fields=(Field("vorticity", "1/s"),),
            parameters=("nu",),
            boundary="periodic",
            invariants=("integral",),
        ),
    )
}


def family(name: str) -> Family:
    """The registry's entry for `name`.

    Raises:
        DataError: no such family; the message lists those that exist.
    """
    if name not in FAMILIES:
        raise DataError(f"unknown family {name!r}; known families: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
