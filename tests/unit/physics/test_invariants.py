"""Which invariants hold for which data, and the integral over a domain."""

from dataclasses import replace

import pytest
import torch

from ups_scale.physics.families import FAMILIES, FamilySpec
from ups_scale.physics.invariants import DENSITIES, conserved, domain_integral

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
    assert {name for family in FAMILIES.values() for name in family.invariants} <= DENSITIES.keys()


def test_invariants_hold_only_under_the_registered_boundary():
    assert conserved(SPEC) == ("integral",)
    assert conserved(replace(SPEC, boundaries=(("periodic", "dirichlet"),))) == ()


@pytest.mark.parametrize("name", ["somebody_elses", "reaction_diffusion_2d"])
def test_nothing_is_granted_to_unknown_or_dissipative_families(name):
    assert conserved(replace(SPEC, name=name, boundaries=(("neumann", "neumann"),))) == ()
