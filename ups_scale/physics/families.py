"""The registry of PDE families: what each one's fields, parameters, boundaries and invariants are.

Losses, guards, search rewards and metrics ask this file what holds for a family, so that nothing is applied that the
physics does not grant (Burgers, for one, dissipates energy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ups_scale.errors import DataError

BOUNDARY_KINDS = ("periodic", "dirichlet", "neumann", "robin", "wall", "open")
GEOMETRIES = ("grid", "points")
VARIANT_MARK = "-"


@dataclass(frozen=True)
class Field:
    """A physical quantity: its name and unit. A `static` one (a coefficient, a forcing) does not change in time: it is
    given, never predicted."""

    name: str
    unit: str
    static: bool = False


@dataclass(frozen=True)
class Family:
    """A PDE with named parameters.

    Attributes:
        boundary: the usual kind on every side.
        invariants: names of quantities in `physics/invariants.py` whose integral over the domain changes only by what
            passes its sides; which kinds of side let nothing through is said there.
        steady: it maps its static fields to one solution.
        positive: fields that the exact solution never takes below zero.
        divergence_free: the components of a velocity without divergence, one per axis, in order.
        shocks: solutions steepen to jumps, or to fronts that are as thin as the grid shows.
        boundary_values: the value that a field has at sides of kind "dirichlet", where the equation states one.
    """

    name: str
    equation: str
    dimensions: int
    fields: tuple[Field, ...]
    parameters: tuple[str, ...]
    boundary: str
    invariants: tuple[str, ...] = ()
    steady: bool = False
    positive: tuple[str, ...] = ()
    divergence_free: tuple[str, ...] = ()
    shocks: bool = False
    boundary_values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FamilySpec:
    """A family as one data set holds it: everything about it that is the same for all its trajectories.

    Attributes:
        name: the family's, or `<family>-<variant>` where a data set holds several grids, domains or regimes of it.
        fields, units: what a frame holds, in this order.
        parameters: names, in the order of `FieldBatch.parameters_bp`.
        grid: number of points per axis; of a point set, the number of points.
        extents: (low, high) coordinate per axis of the domain.
        boundaries: (low side, high side) kind per axis of the domain.
        u_rms, delta_rms: the training split's root mean square of each field and of its change over one frame, in the
            field's unit, over the points that have a value.
        dt: median time between frames in s; NaN if the family is steady.
        static: names of the fields that do not change in time.
        steady: trajectories are two frames, the given fields and the solution; there is no time.
        masked: some points have no value (land in an ocean, the inside of an obstacle).
        geometry: "grid", or "points" whose positions are the static fields `coordinates`, one per axis of the domain.
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
    dt: float
    static: tuple[str, ...] = ()
    steady: bool = False
    masked: bool = False
    geometry: str = "grid"
    coordinates: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The family this is a variant of: its name in the registry, if it is there."""
        return self.name.partition(VARIANT_MARK)[0]

    @property
    def dimensions(self) -> int:
        return len(self.extents)

    @property
    def dynamic(self) -> tuple[int, ...]:
        """Numbers of the fields that are predicted."""
        return tuple(number for number, name in enumerate(self.fields) if name not in self.static)

    def steps(self, horizons: Sequence[int]) -> tuple[int, ...]:
        """The rollout steps that are measured, of the `horizons` asked for: a steady family has one step only."""
        return (1,) if self.steady else tuple(horizons)

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
            shocks=True,
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
        Family(
            name="reaction_diffusion_1d",
            equation="u_t = nu u_xx + rho u (1 - u)",
            dimensions=1,
            fields=(Field("u", "1"),),
            parameters=("nu", "rho"),
            boundary="periodic",
            positive=("u",),
        ),
        Family(
            name="diffusion_sorption_1d",
            equation="u_t = D / R(u) u_xx,  R(u) = 1 + (1 - phi) / phi rho_s k n_f u^(n_f - 1)  (Freundlich)",
            dimensions=1,
            fields=(Field("u", "1"),),
            parameters=("D",),
            boundary="dirichlet",
            positive=("u",),
            boundary_values={"u": 1.0},
        ),
        *(
            Family(
                name=f"compressible_flow_{dimensions}d",
                equation="compressible Navier-Stokes: mass, momentum (shear and bulk viscosity eta, zeta), energy",
                dimensions=dimensions,
                fields=(
                    Field("density", "1"),
                    Field("pressure", "1"),
                    *(Field(f"velocity_{axis}", "1") for axis in "xyz"[:dimensions]),
                ),
                parameters=("M", "eta", "zeta"),
                boundary="periodic",
                invariants=("mass", "momentum", "energy"),
                positive=("density", "pressure"),
                shocks=True,
            )
            for dimensions in (1, 2, 3)
        ),
        Family(
            name="shallow_water_2d",
            equation="h_t + div(h v) = 0;  (h v)_t + div(h v v) + g h grad(h) = 0  (radial dam break)",
            dimensions=2,
            fields=(Field("height", "1"),),
            parameters=(),
            boundary="neumann",
            invariants=("water",),
            positive=("height",),
            shocks=True,
        ),
        Family(
            name="incompressible_ns_2d",
            equation="v_t + (v . grad) v = -grad(p) + nu lap(v) + force,  div(v) = 0;  c_t + (v . grad) c = 0",
            dimensions=2,
            fields=(
                *(Field(name, "1") for name in ("velocity_x", "velocity_y", "particles")),
                *(Field(name, "1", static=True) for name in ("force_x", "force_y")),
            ),
            parameters=("nu",),
            boundary="dirichlet",
            divergence_free=("velocity_x", "velocity_y"),
            boundary_values={"velocity_x": 0.0, "velocity_y": 0.0},
        ),
        Family(
            name="darcy_2d",
            equation="-div(permeability grad(u)) = beta",
            dimensions=2,
            fields=(Field("permeability", "1", static=True), Field("u", "1")),
            parameters=("beta",),
            boundary="dirichlet",
            steady=True,
            positive=("u",),
            boundary_values={"u": 0.0},
        ),
        Family(
            name="korteweg_de_vries_1d",
            equation="u_t + 6 u u_x + delta u_xxx = 0",
            dimensions=1,
            fields=(Field("u", "1"),),
            parameters=("delta",),
            boundary="periodic",
            invariants=("integral",),
        ),
        Family(
            name="kuramoto_sivashinsky_1d",
            equation="u_t + u u_x + u_xx + nu u_xxxx = 0",
            dimensions=1,
            fields=(Field("u", "1"),),
            parameters=("nu",),
            boundary="periodic",
            invariants=("integral",),
        ),
        Family(
            name="advection_diffusion_2d",
            equation="u_t + velocity . grad(u) = nu lap(u)",
            dimensions=2,
            fields=(Field("u", "1"),),
            parameters=("velocity_x", "velocity_y", "nu"),
            boundary="periodic",
            invariants=("integral",),
        ),
        Family(
            name="gray_scott_2d",
            equation="u_t = 2e-5 lap(u) - u v^2 + feed (1 - u);  v_t = 1e-5 lap(v) + u v^2 - (feed + kill) v",
            dimensions=2,
            fields=(Field("u", "1"), Field("v", "1")),
            parameters=("feed", "kill"),
            boundary="periodic",
            positive=("u", "v"),
        ),
        Family(
            name="kolmogorov_flow_2d",
            equation="w_t + (velocity . grad) w = nu lap(w) - drag w - 4 amplitude cos(4 y),  velocity = curl^-1(w)",
            dimensions=2,
            fields=(Field("vorticity", "1/s"),),
            parameters=("nu", "drag", "amplitude"),
            boundary="periodic",
            invariants=("integral",),
        ),
        Family(
            name="acoustics_2d",
            equation="p_t + density sound_speed^2 div(v) = 0;  density v_t + grad(p) = 0",
            dimensions=2,
            fields=(
                *(Field(name, "1") for name in ("pressure", "velocity_x", "velocity_y")),
                *(Field(name, "1", static=True) for name in ("density", "sound_speed")),
            ),
            parameters=(),
            boundary="wall",
            invariants=("compression",),
        ),
        Family(
            name="navier_stokes_3d",
            equation="v_t + (v . grad) v = -grad(p) + nu lap(v),  div(v) = 0",
            dimensions=3,
            fields=tuple(Field(f"velocity_{axis}", "1") for axis in "xyz"),
            parameters=("nu",),
            boundary="periodic",
            invariants=("integral",),
            divergence_free=("velocity_x", "velocity_y", "velocity_z"),
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


def numbers(spec: FamilySpec, names: Sequence[str]) -> tuple[int, ...]:
    """The numbers, in the data's order, of those fields among `names` that the data have and that are predicted."""
    return tuple(number for number in spec.dynamic if spec.fields[number] in names)


def positive(spec: FamilySpec) -> tuple[int, ...]:
    """The numbers of the predicted fields that are never below zero; none for an unknown family."""
    known = FAMILIES.get(spec.family)
    return numbers(spec, known.positive) if known else ()


def divergence_free(spec: FamilySpec) -> tuple[int, ...]:
    """The numbers of the components of the velocity without divergence, one per axis in the axes' order; none if the
    family has no such velocity, is unknown, or the data lack a component."""
    known = FAMILIES.get(spec.family)
    if known is None or not set(known.divergence_free) <= {spec.fields[number] for number in spec.dynamic}:
        return ()
    return tuple(spec.fields.index(name) for name in known.divergence_free)


def has_shocks(spec: FamilySpec) -> bool:
    """Whether the family's solutions steepen to jumps or thin fronts."""
    known = FAMILIES.get(spec.family)
    return known is not None and known.shocks
