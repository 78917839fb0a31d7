"""What is stated at sides, and how far fields are from it."""

import math

import pytest
import torch
from measured_specs import spec_of

from ups_scale.physics.boundaries import SLOPE, VALUE, Condition, conditions, residual


def centres(points, length=1.0):
    return (torch.arange(points, dtype=torch.float64) + 0.5) * (length / points)


def test_what_is_stated_follows_the_kind_of_side():
    sorption = spec_of("diffusion_sorption_1d", (16,), boundaries=(("dirichlet", "robin"),))
    assert conditions(sorption) == (Condition(0, 0, 0, VALUE, 1.0),)
    species = spec_of("reaction_diffusion_2d", (8, 8), "neumann", ("a", "b"))
    assert len(conditions(species)) == 8
    assert {condition.kind for condition in conditions(species)} == {SLOPE}
    names = ("density", "pressure", "velocity_x", "velocity_y")
    gas = spec_of("compressible_flow_2d", (8, 8), "wall", names)
    assert [(one.field, one.axis, one.side) for one in conditions(gas)] == [(2, 0, 0), (2, 0, 1), (3, 1, 0), (3, 1, 1)]
    darcy = spec_of("darcy_2d", (8, 8), "dirichlet", ("permeability", "u"), static=("permeability",), steady=True)
    assert {(one.field, one.kind, one.stated) for one in conditions(darcy)} == {(1, VALUE, 0.0)}


@pytest.mark.parametrize("kind", ["periodic", "open", "robin"])
def test_nothing_is_stated_of_periodic_and_open_sides(kind):
    assert conditions(spec_of(kind=kind)) == ()


def test_values_that_the_registry_does_not_know_are_not_made_up():
    assert conditions(spec_of("burgers_1d", kind="dirichlet")) == ()
    assert conditions(spec_of("somebody_elses", kind="dirichlet")) == ()
    assert conditions(spec_of("darcy_2d", (8, 8), "dirichlet", masked=True)) == ()


@pytest.mark.parametrize("side", [0, 1])
def test_parabolas_are_met_exactly(side):
    spec = spec_of("darcy_2d", (8,), "dirichlet", extents=((0.0, 2.0),))
    x = centres(8, 2.0)
    u = 3 - 2 * x + 5 * x.square()
    at = 2.0 * side
    value = 3 - 2 * at + 5 * at**2
    assert residual(u, Condition(0, 0, side, VALUE, 1.0), spec).item() == pytest.approx(value - 1)
    outward = -1 if side else 1
    found = residual(u, Condition(0, 0, side, SLOPE, 0.0), spec).item()
    assert found == pytest.approx(outward * (-2 + 10 * at) * 2.0)  # times the length


def test_conditions_that_hold_are_met_the_better_the_finer_the_grid():
    missed = []
    for points in (16, 32, 64):
        spec = spec_of("reaction_diffusion_2d", (points, 4), "neumann")
        u = torch.cos(math.pi * centres(points))[:, None].expand(points, 4)
        missed.append(residual(u, Condition(0, 0, 0, SLOPE, 0.0), spec).abs().max().item())
    assert missed[0] < 0.06
    assert missed[0] / missed[1] > 3.5
    assert missed[1] / missed[2] > 3.5
