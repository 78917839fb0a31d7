"""Fields at scattered points: their values, where the points lie, and the way through files and shards."""

import math

import numpy as np
import pytest

from ups_scale.data.reader import ShardReader
from ups_scale.data.shards import convert
from ups_scale.errors import DataError
from ups_scale.solvers import SETUPS, generate_family
from ups_scale.solvers.files import Part, file_name, write_part
from ups_scale.solvers.generate import Request, resolve
from ups_scale.solvers.scattered import scatter

LEFT, CENTRE, SHARP = "navier_stokes_2d", "gray_scott_2d", "shallow_water_2d"


def sample(name, fields_btcx, num_points=400, boundary=None):
    """`scatter` of fields that the setup `name` would have on this grid."""
    setup, case = resolve(Request(name, grid=fields_btcx.shape[3:], boundary=boundary), "train")
    generators = [np.random.default_rng([5, row]) for row in range(len(fields_btcx))]
    return scatter(fields_btcx.astype(np.float32), setup, case, num_points, generators)


def grid_of(name, size):
    return np.meshgrid(*SETUPS[name].coordinates((size, size)), indexing="ij")


def unit(name, positions_dp):
    """Positions in the domain as parts of it."""
    low, high = np.array(SETUPS[name].extents).T[..., None]
    return (positions_dp - low) / (high - low)


def waves(x, y):
    turn = 2 * math.pi
    return np.sin(turn * 4 * x) * np.cos(turn * 3 * y) + 0.5 * np.sin(turn * (x - 4 * y) + 1)


@pytest.mark.parametrize("name", [LEFT, CENTRE])
def test_smooth_periodic_fields_are_sampled_exactly_up_to_the_domains_sides(name):
    x, y = unit(name, np.stack(grid_of(name, 64)).reshape(2, -1)).reshape(2, 64, 64)
    fields = np.stack([waves(x, y), 2 * waves(y, x)])[None, None]
    values, positions = sample(name, fields, 4000)
    assert values.shape == (1, 1, 2, 4000)
    assert positions.shape == (1, 2, 4000)
    x, y = unit(name, positions[0])
    assert min(x.min(), y.min(), 1 - x.max(), 1 - y.max()) < 1 / 128
    np.testing.assert_allclose(values[0, 0], [waves(x, y), 2 * waves(y, x)], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "tolerance"), [(SHARP, 1e-5), (CENTRE, 1e-3)])
def test_linear_functions_are_exact_within_the_outermost_centres(name, tolerance):
    x, y = grid_of(name, 32)
    size = x[-1, 0] - x[0, 0]
    values, positions = sample(
        name, ((2 * x - y) / size)[None, None, None], boundary="wall" if name == SHARP else "neumann"
    )
    px, py = positions[0]
    inside = (px > x[0, 0]) & (px < x[-1, 0]) & (py > y[0, 0]) & (py < y[0, -1])
    assert 0.8 < inside.mean() < 1
    difference = np.abs(values[0, 0, 0] - (2 * px - py) / size)
    if name == CENTRE:  # a spline's ends are flat
        cell = x[1, 0] - x[0, 0]
        inside &= (np.minimum(px, py) > x[4, 0]) & (np.maximum(px, py) < x[-1, 0] - 4 * cell)
    assert difference[inside].max() < tolerance


def test_shocks_do_not_overshoot():
    fields = np.ones((1, 2, 1, 32, 32))
    fields[..., :10, :] = 3.0
    values, _ = sample(SHARP, fields)
    assert values.min() == 1
    assert values.max() == 3


def test_points_lie_outside_of_obstacles_and_take_nothing_from_inside():
    fields = np.ones((2, 3, 5, 32, 32))
    fields[:, :, 1:] *= 7
    solid = np.hypot(*np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5)) < 9
    fields[:, :, :, solid] = np.nan
    values, positions = sample("acoustics_2d-obstacles", fields, 300)
    cells = np.floor(unit("acoustics_2d-obstacles", positions) * 32).astype(int)
    assert not solid[cells[:, 0], cells[:, 1]].any()
    assert (values[:, :, 0] == 1).all()
    np.testing.assert_allclose(values[:, :, 1:], 7, rtol=1e-6)
    assert not np.array_equal(positions[0], positions[1])


def test_without_room_for_points_it_says_so():
    fields = np.full((1, 2, 5, 32, 32), np.nan)
    fields[..., 3, 3] = 1.0
    with pytest.raises(DataError, match="acoustics_2d-obstacles: obstacles leave no room for 1000 points"):
        sample("acoustics_2d-obstacles", fields, 1000)


@pytest.mark.parametrize("name", ["navier_stokes_2d", "acoustics_2d-obstacles", "darcy_2d"])
def test_generated_points(name):
    request = Request(name, num_frames=3, points=50)
    made = generate_family(request, 3, batch_size=3)
    frames = 2 if SETUPS[name].family.steady else 3
    assert made.fields_btcx.shape == (3, frames, len(SETUPS[name].family.fields), 50)
    assert made.fields_btcx.dtype == np.float32
    assert np.isfinite(made.fields_btcx).all()
    for axis, (low, high) in enumerate(SETUPS[name].extents):
        along = made.positions_bdp[:, axis]
        assert ((low <= along) & (along < high)).all()
        assert np.ptp(along) > 0.8 * (high - low)
    alone = generate_family(request, 1, first=2)
    assert np.array_equal(alone.positions_bdp[0], made.positions_bdp[2])
    np.testing.assert_allclose(alone.fields_btcx[0], made.fields_btcx[2], rtol=0, atol=1e-6)
    assert np.abs(made.positions_bdp[0] - made.positions_bdp[1]).max() > 0.1


def test_points_are_of_the_solution_and_not_of_what_a_coarse_grid_shows_of_it():
    made = generate_family(Request("navier_stokes_2d", num_frames=3, points=60), 1)
    spectrum = (
        np.fft.fft2(generate_family(Request("navier_stokes_2d", num_frames=3, grid=(64, 64)), 1).fields_btcx[0, :, 0])
        / 64**2
    )
    k = np.fft.fftfreq(64, 1 / 64)
    x, y = made.positions_bdp[0]
    exact = np.einsum("tkl,kp,lp->tp", spectrum, np.exp(1j * np.outer(k, x)), np.exp(1j * np.outer(k, y))).real
    np.testing.assert_allclose(made.fields_btcx[0, :, 0], exact, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", ["navier_stokes_2d", "acoustics_2d-obstacles", "reaction_diffusion_2d"])
def test_points_come_back_from_shards(tmp_path, name):
    request = Request(name, num_frames=3, points=40)
    label = f"{name}-points"
    for split, count in (("train", 2), ("test", 1)):
        path = tmp_path / "hdf5" / file_name(label, request, split, None)
        path.parent.mkdir(exist_ok=True)
        write_part(Part(label, path, request, split, 0, count))
    manifest = convert([tmp_path / "hdf5"], tmp_path, workers=1, show_progress=False)
    setup = SETUPS[name]
    assert list(manifest.families) == [setup.family.name]
    spec = manifest.families[setup.family.name].spec
    assert (spec.geometry, spec.coordinates, spec.masked) == ("points", ("x", "y"), False)
    assert (spec.grid, spec.extents, spec.boundaries) == ((40,), setup.extents, setup.spec().boundaries)
    assert spec.fields == (*setup.spec().fields, "x", "y")
    assert spec.static == (*setup.spec().static, "x", "y")
    assert spec.dt == pytest.approx(setup.dt)
    for split, count in (("train", 2), ("test", 1)):
        made = generate_family(request, count, split=split)
        read = ShardReader(manifest, setup.family.name, split).read(range(count), [0] * count, 3)
        found = read.u_btcx.numpy()
        assert np.array_equal(found[:, :, :-2], made.fields_btcx)
        for frame in range(3):
            np.testing.assert_allclose(found[:, frame, -2:], made.positions_bdp, rtol=1e-6, atol=1e-6)
        for column, parameter in enumerate(spec.parameters):
            np.testing.assert_allclose(read.parameters_bp[:, column], made.parameters[parameter], rtol=1e-6)
