"""Random starts do not depend on the grid, and have the properties that their setups rely on."""

import numpy as np
import pytest

from ups_scale.solvers.initial import (
    bump,
    cosine_band,
    disc,
    distances,
    obstacles,
    periodic_band,
    sinusoids,
    solenoidal_waves,
)


@pytest.mark.parametrize("size", [16, 32])
def test_initial_fields_do_not_depend_on_the_grid(size):
    for draw in (
        lambda n: sinusoids(np.random.default_rng(1), n, num_modes=3, max_wavenumber=6),
        lambda n: periodic_band(np.random.default_rng(1), n, low=1, high=4),
        lambda n: solenoidal_waves(np.random.default_rng(1), n, num_waves=5, max_wavenumber=2)[0],
    ):
        coarse, fine = draw(size), draw(2 * size)
        np.testing.assert_allclose(fine[(slice(None, None, 2),) * fine.ndim], coarse, atol=1e-11)
        assert abs(fine.mean()) < 1e-13


def test_cosine_fields_have_no_slope_at_the_edges():
    field = cosine_band(np.random.default_rng(2), 512, high=4)
    for edge in (field, field.T, field[::-1], field.T[::-1]):
        assert np.abs(edge[1] - edge[0]).max() < 0.05 * np.abs(np.diff(edge, axis=0)).max()


def test_solenoidal_waves_have_no_divergence():
    field = solenoidal_waves(np.random.default_rng(3), 16, num_waves=8, max_wavenumber=3)
    k = np.fft.fftfreq(16, 1 / 16)
    spectrum = np.fft.fftn(field, axes=(1, 2, 3))
    divergence = sum(
        spectrum[axis] * k.reshape([-1 if axis == other else 1 for other in range(3)]) for axis in range(3)
    )
    assert np.abs(divergence).max() < 1e-9 * np.abs(spectrum).max()
    assert np.abs(field).max() > 0.1


def test_discs_and_bumps_lie_where_they_are_put():
    centre = np.array([0.25, 0.75])
    inside = disc(64, centre, 0.2, edge=0.0)
    assert np.array_equal(inside, np.hypot(*distances(64, centre)) < 0.2)
    assert inside.mean() == pytest.approx(np.pi * 0.04, rel=0.05)
    peak = np.unravel_index(bump(64, centre, 0.1).argmax(), (64, 64))
    assert np.abs((np.array(peak) + 0.5) / 64 - centre).max() < 1 / 64
    wrapped = disc(64, np.array([0.0, 0.0]), 0.2, edge=0.03, periodic=True)
    np.testing.assert_allclose(wrapped, wrapped[::-1, ::-1], atol=1e-12)
    assert min(wrapped[0, 0], wrapped[-1, 0], wrapped[0, -1]) > 0.99


@pytest.mark.parametrize("shapes", ["discs", "bars"])
def test_obstacles_leave_what_they_must_free(shapes):
    clear = [np.array([0.5, 0.5]), np.array([0.3, 0.6])]
    shares = []
    for seed in range(50):
        solid = obstacles(np.random.default_rng(seed), 32, shapes, keep_clear=clear, margin=0.12)
        shares.append(solid.mean())
        for centre in clear:
            assert not solid[np.hypot(*distances(32, centre)) <= 0.12].any()
    assert max(shares) < 0.25
    assert np.median(shares) > 0.005


def test_unknown_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes 'stars': discs or bars"):
        obstacles(np.random.default_rng(0), 32, "stars", keep_clear=(), margin=0.0)
