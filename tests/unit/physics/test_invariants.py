"""Which invariants hold for which data, and the integral over a domain."""

from dataclasses import replace

import pytest
import torch
from measured_specs import conserved

from ups_scale.physics.families import FAMILIES, FamilySpec
from ups_scale.physics.invariants import FUNCTIONALS, domain_integral, fields_of, quantities
from ups_scale.solvers.compressible import Gas

SPEC = FamilySpec(
    name="burgers_1d",
    fields=("u",),
    units=("1",),
    parameters=("nu",),
    grid=(4,),
    extents=((0.0, 1.0),),
    boundaries=(("periodic", "periodic"),),
    u_rms=(1.0,),
    delta_rms=(0.1,),
    dt=0.1,
)


def test_integral_is_mean_times_volume():
    u_x = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert domain_integral(u_x, ((0.0, 2.0), (-1.0, 2.0))).tolist() == [3.0 * 6.0]


def test_integral_of_float32_is_computed_in_float64():
    u_x = torch.full((1, 4), 16777216.0)
    u_x[0, 0] += 2
    assert domain_integral(u_x, ((0.0, 4.0),)).item() == 4 * 16777216 + 2


def test_registered_families_name_known_functionals():
    assert {name for family in FAMILIES.values() for name in family.invariants} <= FUNCTIONALS.keys()


def test_invariants_hold_only_under_the_registered_boundary():
    assert conserved(SPEC) == ("integral",)
    assert conserved(replace(SPEC, boundaries=(("periodic", "dirichlet"),))) == ()


@pytest.mark.parametrize("name", ["somebody_elses", "reaction_diffusion_2d"])
def test_nothing_is_granted_to_unknown_or_dissipative_families(name):
    assert conserved(replace(SPEC, name=name, boundaries=(("neumann", "neumann"),))) == ()


GAS = replace(
    SPEC,
    name="compressible_flow_2d",
    fields=("density", "pressure", "velocity_x", "velocity_y"),
    units=("1",) * 4,
    grid=(4, 4),
    extents=((0.0, 1.0), (0.0, 2.0)),
    boundaries=(("periodic", "periodic"),) * 2,
    u_rms=(1.0,) * 4,
    delta_rms=(0.1,) * 4,
)


@pytest.mark.parametrize(
    ("sides", "closed"),
    [
        (("periodic", "periodic"), ("mass", "momentum", "energy")),
        (("wall", "wall"), ("mass", "energy")),
        (("open", "wall"), ()),
    ],
)
def test_a_gas_keeps_what_its_sides_let_it_keep(sides, closed):
    spec = replace(GAS, boundaries=(("periodic", "periodic"), sides))
    assert conserved(spec) == closed
    assert [one.name for one in quantities(spec)] == ["mass", "momentum", "energy"]


def test_a_gas_without_a_velocity_has_its_mass_only():
    spec = replace(GAS, fields=("density", "pressure", "velocity_x", "other"))
    assert [one.name for one in quantities(spec)] == ["mass"]


def test_densities_of_a_gas_are_the_solvers_conserved_variables():
    state = 1 + torch.rand(2, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    density, energy, *momentum = Gas().conserved(state).unbind(1)
    expected = {"mass": [density], "momentum": momentum, "energy": [energy]}
    for one in quantities(GAS):
        found = one.components(fields_of(state, GAS))
        torch.testing.assert_close(list(found), expected[one.name])


def test_what_each_field_keeps_by_itself_comes_per_field():
    spec = replace(SPEC, name="navier_stokes_3d", fields=("a", "given", "b"), static=("given",))
    assert [(one.name, one.field) for one in quantities(spec)] == [("integral", "a"), ("integral", "b")]
