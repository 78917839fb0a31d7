"""What may be asked of a setup, and that what the equations conserve, and scale with, is so in what is generated."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from measured_specs import conserved

from ups_scale.errors import DataError
from ups_scale.physics.families import BOUNDARY_KINDS, FAMILIES
from ups_scale.physics.invariants import fields_of as named_fields
from ups_scale.physics.invariants import quantities
from ups_scale.solvers import SETUPS, generate_family
from ups_scale.solvers.generate import Request, resolve
from ups_scale.solvers.setups import Range

RANGES = [(name, quantity) for name, setup in SETUPS.items() for quantity in setup.ranges]


def fields_of(name, count=2, *, first=0, **request) -> np.ndarray:
    return generate_family(Request(name, **request), count, first=first).fields_btcx.astype(np.float64)


def drift(values_btx) -> float:
    """The largest change of the mean over the cells that have a value, relative to their root mean square."""
    space = tuple(range(2, values_btx.ndim))
    mean_bt = np.nanmean(values_btx, axis=space)
    return np.abs(mean_bt - mean_bt[:, :1]).max() / math.sqrt(np.nanmean(values_btx**2))


# Ranges.


@pytest.mark.parametrize(("name", "quantity"), RANGES)
def test_ranges_beyond_what_the_solver_resolves_are_refused_with_what_it_does(name, quantity):
    setup = SETUPS[name]
    least, most = setup.limits[quantity]
    span = most - least
    for low, high in ((least - 1e-3 * span, most), (least, most + 1e-3 * span), (least, math.nan)):
        with pytest.raises(DataError) as error:
            resolve(Request(name, ranges={quantity: (low, high)}), "train")
        assert f"{name}: {quantity} from {low:g} to {high:g}; its solver is stable" in str(error.value)
        assert f"for {quantity} from {least:g} to {most:g}" in str(error.value)
    with pytest.raises(DataError, match="the low is above the high"):
        resolve(Request(name, ranges={quantity: (most, 0.5 * most)}), "train")
    # What only a finer grid resolves is not to be asked for otherwise.
    usual, other = setup.ranges[quantity], None if setup.finest_other else setup.other_ranges.get(quantity)
    for low, high in filter(None, ((usual.low, usual.high), other)):
        assert least <= low <= high <= most
        taken = resolve(Request(name, ranges={quantity: (low, high)}), "train")[1].ranges[quantity]
        assert taken == replace(usual, low=low, high=high)


@pytest.mark.parametrize(("name", "quantity"), RANGES)
def test_a_range_of_one_value_draws_it(name, quantity):
    """Also at the limits, as far as drawing goes."""
    setup = SETUPS[name]
    for value in (setup.ranges[quantity].low, *setup.limits[quantity]):
        _, case = resolve(Request(name, ranges={quantity: (value, value)}), "train")
        drawn = case.ranges[quantity].draw(np.random.default_rng(0))
        assert abs(drawn) == pytest.approx(abs(value), rel=1e-12)


@pytest.mark.parametrize("name", SETUPS)
def test_what_is_not_drawn_cannot_be_set(name):
    with pytest.raises(DataError) as error:
        resolve(Request(name, ranges={"viscosity": (0.1, 0.2)}), "train")
    listed = ", ".join(SETUPS[name].ranges)
    assert str(error.value) == f"{name}: nothing called 'viscosity' is drawn; can be set: {listed}"


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (Range(2.0, 3.0), lambda u: 2 + u),
        (Range(1.0, 100.0, "log"), lambda u: 100**u),
        (Range(2.0, 3.0, "signed"), lambda u: 2 + u),
    ],
)
def test_numbers_are_drawn_as_the_scale_says(drawn, expected):
    values = np.array([drawn.draw(np.random.default_rng(seed)) for seed in range(400)])
    uniform = np.array([np.random.default_rng(seed).uniform() for seed in range(400)])
    np.testing.assert_allclose(np.abs(values), [expected(u) for u in uniform])
    share = (values < 0).mean()
    assert 0.35 < share < 0.65 if drawn.scale == "signed" else share == 0


def test_parameters_lie_in_the_ranges_that_are_asked_for():
    made = generate_family(Request("kolmogorov_flow_2d", num_frames=2, ranges={"nu": (0.5, 0.6), "drag": (1, 1)}), 2)
    assert ((made.parameters["nu"] >= 0.5) & (made.parameters["nu"] <= 0.6)).all()
    assert (made.parameters["drag"] == 1).all()
    usual = SETUPS["kolmogorov_flow_2d"].ranges["amplitude"]
    assert ((made.parameters["amplitude"] >= usual.low) & (made.parameters["amplitude"] <= usual.high)).all()


@pytest.mark.parametrize("name", SETUPS)
def test_setups_state_what_others_rely_on(name):
    setup = SETUPS[name]
    assert setup.family is FAMILIES[setup.family.name]
    assert set(setup.boundaries) <= set(BOUNDARY_KINDS)
    assert set(setup.limits) == set(setup.ranges) >= set(setup.other_ranges)
    assert setup.other_boundary in ("", *setup.boundaries[1:])
    for axis, (low, high) in zip(setup.coordinates(setup.grid), setup.extents, strict=True):
        step = (high - low) / setup.grid[0]
        np.testing.assert_allclose(np.diff(axis), step)
        assert low <= axis[0] <= low + step / 2
        assert high - step <= axis[-1] < high


@pytest.mark.parametrize(("points", "shift"), [("left", 0.0), ("centre", 0.5), ("first", 0.125)])
def test_points_stand_in_their_cells_as_the_setup_says(points, shift):
    setup = replace(SETUPS["advection_1d"], points=points, finest=64)
    np.testing.assert_allclose(setup.coordinates((16,))[0], (np.arange(16) + shift) / 16)


# What the equations say of all their solutions.


@pytest.mark.parametrize("name", [name for name, setup in SETUPS.items() if conserved(setup.spec())])
def test_what_the_registry_says_is_conserved_is(name):
    frames = {"kuramoto_sivashinsky_1d": 6, "burgers_1d-pdebench": 20}.get(name, 4)
    setup = SETUPS[name]
    spec = setup.spec()
    # Products of means over blocks of cells are no means of products.
    products = any(not quantity.field for quantity in quantities(spec))
    grid = {"grid": (setup.finest,) * spec.dimensions} if products else {}
    fields = fields_of(name, 1 if name == "navier_stokes_3d" else 2, num_frames=frames, **grid)
    # PDEBench's advected starts have kinks and steps, of which a sum over points is no exact integral.
    tolerance = 1e-4 if name == "advection_1d-pdebench" else 1e-6
    named = named_fields(torch.from_numpy(fields), spec)
    for quantity in quantities(spec):
        if quantity.is_closed:
            for density in quantity.components(named):
                assert drift(density.numpy()) < tolerance


@pytest.mark.parametrize(
    ("name", "boundary", "field", "frames"),
    [
        ("shallow_water_2d", "wall", 0, 24),
        ("shallow_water_2d", "periodic", 0, 6),
        ("compressible_flow_1d", "wall", 0, 12),
        ("compressible_flow_2d", "periodic", 0, 3),
        ("compressible_flow_2d", "wall", 0, 3),
        ("compressible_flow_2d-obstacles", "wall", 0, 12),
    ],
)
def test_mass_stays_between_walls_and_where_there_are_no_sides(name, boundary, field, frames):
    fields = fields_of(name, 1, num_frames=frames, boundary=boundary)
    assert np.abs(fields[:, -1, field] - fields[:, 0, field])[~np.isnan(fields[:, 0, field])].max() > 0.05
    assert drift(fields[:, :, field]) < 1e-6


def test_mass_leaves_through_open_sides():
    fields = fields_of("shallow_water_2d", 1, num_frames=24)
    assert drift(fields[:, :, 0]) > 1e-3


@pytest.mark.parametrize("boundary", ["wall", "periodic"])
def test_sound_conserves_what_drives_it(boundary):
    """d/dt of the integral of pressure / (density speed^2) is the flow through the sides."""
    fields = fields_of("acoustics_2d", 2, num_frames=24, grid=(64, 64), boundary=boundary)
    assert drift(fields[:, :, 0] / (fields[:, :, 3] * fields[:, :, 4] ** 2)) < 1e-6
    open_sides = fields_of("acoustics_2d", 2, num_frames=24, grid=(64, 64), boundary="open")
    assert drift(open_sides[:, :, 0] / (open_sides[:, :, 3] * open_sides[:, :, 4] ** 2)) > 1e-3


def test_kuramoto_sivashinsky_and_kolmogorov_flow_have_no_mean():
    for name in ("kuramoto_sivashinsky_1d", "kolmogorov_flow_2d"):
        fields = fields_of(name, num_frames=2)
        space = tuple(range(3, fields.ndim))
        assert np.abs(fields.mean(space)).max() < 1e-6 * np.sqrt((fields**2).mean())


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("gray_scott_2d", 1e-2), ("reaction_diffusion_2d", 1e-2), ("reaction_diffusion_1d", 2e-2), ("darcy_2d", 0.1)],
)
def test_more_internal_points_change_little(name, tolerance):
    setup = SETUPS[name]
    coarse, fine = (
        fields_of(name, 2, num_frames=4, grid=(size,) * len(setup.grid)) for size in (setup.finest, 2 * setup.finest)
    )
    for axis in range(3, fine.ndim):
        fine = np.moveaxis(fine, axis, -1)
        fine = np.moveaxis(fine.reshape(*fine.shape[:-1], -1, 2).mean(-1), -1, axis)
    for number in setup.spec().dynamic:
        difference = np.sqrt(np.mean((fine - coarse)[:, :, number] ** 2))
        assert difference < tolerance * np.sqrt(np.mean(coarse[:, :, number] ** 2))


def test_darcy_is_linear_in_its_source_and_positive():
    once, twice = (fields_of("darcy_2d", 3, ranges={"beta": (beta, beta)}) for beta in (1.0, 2.0))
    assert np.array_equal(once[:, :, 0], twice[:, :, 0])
    np.testing.assert_allclose(twice[:, 1, 1], 2 * once[:, 1, 1], rtol=1e-5)
    assert (once[:, 1, 1] > 0).all()


def test_contrast_of_media_is_what_is_asked_for():
    permeability = fields_of("darcy_2d", 6, grid=(64, 64), ranges={"contrast": (10, 10)})[:, 0, 0]
    assert (permeability.max((1, 2)) <= 1 + 1e-6).all()
    assert (permeability.min((1, 2)) >= 0.1 - 1e-6).all()
    two_valued = [len(np.unique(one)) == 2 for one in permeability]
    assert any(two_valued)
    assert not all(two_valued)


def test_gas_starts_at_the_mach_number_that_is_asked_for():
    """And at rest with M = 0."""
    request = {"num_frames": 2, "ranges": {"M": (0.0, 0.0)}}
    assert (fields_of("compressible_flow_1d", 4, **request)[:, 0, 2] == 0).all()
    slow, fast = (fields_of("compressible_flow_1d", 2, num_frames=2, ranges={"M": (m, m)})[:, 0, 2] for m in (0.2, 0.4))
    np.testing.assert_allclose(fast, 2 * slow, rtol=1e-5, atol=1e-6)


def test_advection_and_diffusion_of_a_plane_carry_every_mode_by_itself():
    """The amplitude of a mode decays with nu, and its phase turns with the velocity."""
    made = generate_family(Request("advection_diffusion_2d", num_frames=5), 2)
    spectrum = np.fft.fft2(made.fields_btcx[:, :, 0].astype(np.float64))
    t = 4 * SETUPS["advection_diffusion_2d"].dt
    for row in range(2):
        vx, vy, nu = (made.parameters[key][row] for key in ("velocity_x", "velocity_y", "nu"))
        for kx, ky in ((1, 0), (0, 2), (2, -1), (-3, 2)):
            turn = np.exp(-2j * math.pi * (kx * vx + ky * vy) * t - nu * (2 * math.pi) ** 2 * (kx**2 + ky**2) * t)
            expected = spectrum[row, 0, kx, ky] * turn
            assert abs(spectrum[row, 4, kx, ky] - expected) < 1e-3


def test_unknown_families_are_listed():
    with pytest.raises(DataError, match=re.escape(f"unknown family 'heat'; can be generated: {', '.join(SETUPS)}, or")):
        resolve(Request("heat"), "train")
