"""PDEBench's recipe of advection and Burgers, and the finite volumes that solve its Burgers equation."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch

from ups_scale.solvers import SETUPS, generate_family
from ups_scale.solvers.burgers_volumes import solve_burgers_volumes
from ups_scale.solvers.generate import Request, generator, resolve
from ups_scale.solvers.setups.published import CELLS, draw_waves, start
from ups_scale.solvers.steepening import solve_steepening

ADVECTION, BURGERS = "advection_1d-pdebench", "burgers_1d-pdebench"
CENTRES = (np.arange(CELLS) + 0.5) / CELLS
NUM_STARTS = 2000


@functools.cache
def starts(max_wavenumber: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.stack([draw_waves(rng, max_wavenumber) for _ in range(NUM_STARTS)])


def binomial(share: float) -> tuple[float, float]:
    """Counts of `NUM_STARTS` that are exceeded once in a million."""
    spread = 5 * math.sqrt(NUM_STARTS * share * (1 - share))
    return NUM_STARTS * share - spread, NUM_STARTS * share + spread


def formula(waves: np.ndarray, x: np.ndarray) -> np.ndarray:
    """PDEBench's start, written again: (*x.shape,)."""
    *modes, (sign, unsigned, _), (low, high, _) = waves
    u = sum(a * np.sin(2 * math.pi * periods * x * 1024 / 1023 + phase) for periods, a, phase in modes)
    u = sign * (np.abs(u) if unsigned else u)
    return u * (np.tanh((x - low) / 0.01) - np.tanh((x - high) / 0.01)) / 2 if high else u


# Starts.


@pytest.mark.parametrize("most", [8, 4])
def test_two_wavenumbers_are_drawn_and_doubled_where_they_are_the_same(most):
    periods = starts(most)[:, :most, 0]
    times = periods / np.arange(1, most + 1)
    assert set(np.unique(times)) == {0, 1, 2}
    assert (times.sum(1) == 2).all()
    low, high = binomial(1 / most)
    assert low < (times == 2).any(1).sum() < high
    assert (times == 2).any(0).all()


def test_waves_that_are_not_drawn_add_constants():
    waves = starts(8)
    flat = np.where(waves[:, :8, 0] == 0, waves[:, :8, 1] * np.sin(waves[:, :8, 2]), 0).sum(1)
    u = start(torch.from_numpy(waves), torch.from_numpy(CENTRES).expand(NUM_STARTS, -1)).numpy()
    plain = (waves[:, 8, 1] == 0) & (waves[:, 9, 1] == 0)
    # Whole periods between the first and the last centre: the mean over them is that of the constants.
    np.testing.assert_allclose(u[plain, :-1].mean(1), (waves[:, 8, 0] * flat)[plain], atol=1e-12)
    assert 0.8 < np.sqrt((u[plain] ** 2).mean()) < 1.5


def test_amplitudes_phases_signs_and_windows():
    waves = starts(8)
    amplitude, phase = waves[:, :8, 1], waves[:, :8, 2]
    (sign, unsigned, _), (low, high, _) = np.moveaxis(waves[:, 8:], 0, -1)
    assert 0 <= amplitude.min() < 0.01 < 0.99 < amplitude.max() < 1
    assert 0 <= phase.min() < 0.05 < 6.2 < phase.max() < 2 * math.pi
    assert set(np.unique(sign)) == {-1, 1}
    least, most = binomial(0.5)
    assert least < (sign > 0).sum() < most
    least, most = binomial(0.1)
    assert least < (unsigned > 0).sum() < most
    windowed = high > 0
    assert least < windowed.sum() < most
    assert np.array_equal(low[~windowed], np.zeros((~windowed).sum()))
    assert 0.1 <= low[windowed].min() < 0.15 < 0.4 < low[windowed].max() <= 0.45
    assert 0.55 <= high[windowed].min() < 0.6 < 0.85 < high[windowed].max() <= 0.9


def test_starts_are_the_published_formula():
    waves = starts(8)
    u = start(torch.from_numpy(waves), torch.from_numpy(CENTRES).expand(NUM_STARTS, -1)).numpy()
    of_one_sign, windowed = waves[:, 8, 1] > 0, waves[:, 9, 1] > 0
    for one in {0, 1, 2, *np.flatnonzero(of_one_sign)[:3], *np.flatnonzero(windowed)[:3]}:
        np.testing.assert_allclose(u[one], formula(waves[one], CENTRES), rtol=0, atol=1e-12)
    assert (u[of_one_sign] * waves[of_one_sign, 8, :1] >= 0).all()
    outside = (waves[windowed, 9, :1] - 0.06 > CENTRES) | (waves[windowed, 9, 1:2] + 0.06 < CENTRES)
    assert np.abs(u[windowed][outside]).max() < 1e-4
    # The waves are whole between the first and the last centre, so the seam is a small step.
    plain = ~of_one_sign & ~windowed
    np.testing.assert_allclose(u[plain, 0], u[plain, -1], atol=1e-11)


# Advection.


@pytest.mark.parametrize("beta", [0.1, 7.0])
def test_advection_is_the_start_shifted(beta):
    count, frames = 12, [0, 1, 125]
    request = Request(ADVECTION, num_frames=126, ranges={"beta": (beta, beta)})
    made = generate_family(request, count, split="valid")
    setup, case = resolve(request, "valid")
    u = made.fields_btcx[:, frames, 0]
    for row in range(count):
        waves = setup.draw(generator(0, ADVECTION, "valid", row), case, CELLS).initial_cx
        for number, frame in enumerate(frames):
            expected = formula(waves, (CENTRES - beta * 0.01 * frame) % 1)
            np.testing.assert_allclose(u[row, number], expected, rtol=0, atol=1e-6)
    # 125 frames later it has gone a whole number of cells.
    np.testing.assert_allclose(u[:, 2], np.roll(u[:, 0], round(beta * 1.25 * CELLS), axis=-1), rtol=0, atol=1e-6)
    assert (made.parameters["beta"] == beta).all()


@pytest.mark.parametrize("name", [ADVECTION, BURGERS])
def test_the_protocols_files_are_every_fourth_cell_and_fifth_frame_of_the_published(name):
    whole = generate_family(Request(name, num_frames=21), 3).fields_btcx
    taken = generate_family(Request(name, num_frames=5, stride=5, grid=(256,)), 3).fields_btcx
    assert np.array_equal(taken, whole[:, ::5, :, ::4])
    setup = SETUPS[name]
    np.testing.assert_allclose(setup.coordinates((256,))[0], CENTRES[::4])
    assert (setup.num_frames, setup.dt, setup.grid) == (201, 0.01, (1024,))


# Finite volumes.


def centres(size: int) -> torch.Tensor:
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def coarse(u: torch.Tensor, size: int) -> torch.Tensor:
    return u.unflatten(-1, (size, -1)).mean(-1)


def test_order_two_where_the_solution_is_smooth():
    def wave(size):
        return (0.3 + 0.5 * torch.sin(2 * math.pi * centres(size)))[None]

    # The shock forms at 1 / pi.
    diffusion, dt = 1e-4, 0.2
    exact = solve_steepening(wave(2048), diffusion_b=diffusion, dt=dt, num_frames=2, steps_per_frame=400)[0, 1]
    errors = []
    for size in (64, 128, 256):
        start_bx = coarse(wave(2048), size)
        u = solve_burgers_volumes(start_bx, torch.tensor([diffusion]), dt=dt, num_frames=2)[0, 1]
        errors.append(float((u - coarse(exact, size)).abs().mean()))
    assert errors[-1] < 1e-4
    for before, after in itertools.pairwise(errors):
        assert 1.9 < math.log2(before / after) < 2.4


def column(x):
    """1 between 1/4 and 1/2: until t = 1/2 a fan from 1/4 follows a front from 1/2 that moves at 1/2."""
    t = 0.4
    fan = (x - 0.25) / t
    return ((x > 0.25) & (x < 0.5)).double(), torch.where((x > 0.25) & (x < 0.5 + t / 2), fan.clamp(max=1), 0.0), t


def parting(x):
    """-1 outside, 1 between 1/4 and 3/4: a fan through u = 0 at 1/4, a front at rest at 3/4."""
    t = 0.2
    inside = (x > 0.25) & (x < 0.75)
    start_x = torch.where(inside, 1.0, -1.0).double()
    fan = (x - 0.25) / t
    return start_x, torch.where(x < 0.75, fan.clamp(-1, 1), -1.0), t


@pytest.mark.parametrize("case", [column, parting])
@pytest.mark.parametrize("mirrored", [False, True])
def test_fronts_and_fans_of_square_waves(case, mirrored):
    errors = []
    for size in (128, 256, 512):
        u, exact, t = case(centres(size))
        if mirrored:  # u(x) -> -u(-x)
            u, exact = -u.flip(0), -exact.flip(0)
        found = solve_burgers_volumes(u[None], torch.zeros(1), dt=t / 4, num_frames=5)[0]
        errors.append(float((found[-1] - exact).abs().mean()))
        assert found.abs().max() <= 1 + 1e-12
    assert errors[-1] < 4e-3
    assert errors[0] > 1.6 * errors[1] > 1.6**2 * errors[2]
    if case is column:
        front = 512 * (1 - 0.7 if mirrored else 0.7)
        crossing = (found[-1].abs() > 0.5).nonzero()[0 if mirrored else -1]
        assert abs(float(crossing) - front) < 2


def test_the_mean_is_conserved_and_the_amplitude_never_grows():
    rng = np.random.default_rng(3)
    u = torch.from_numpy(rng.standard_normal((3, 128)))
    found = solve_burgers_volumes(u, torch.tensor([0.0, 1e-3, 0.5]), dt=0.05, num_frames=8)
    means = found.mean(-1)
    assert float((means - means[:, :1]).abs().max()) < 1e-12
    assert (found.abs().amax(-1).diff(dim=1) < 1e-12).all()


def test_large_viscosity_is_heat():
    a, dt = 4 / math.pi, 0.004
    u = 1e-6 * torch.sin(2 * math.pi * 3 * centres(64))[None]
    found = solve_burgers_volumes(u, torch.tensor([a]), dt=dt, num_frames=4)
    decay = torch.exp(-a * (6 * math.pi) ** 2 * dt * torch.arange(4, dtype=torch.float64))
    torch.testing.assert_close(found[0], u * decay[:, None], rtol=0, atol=1e-6 * 1e-5)


def test_a_trajectory_does_not_depend_on_the_steps_of_its_batch():
    rng = np.random.default_rng(4)
    u = torch.from_numpy(rng.standard_normal((3, 64))) * torch.tensor([[0.2], [1.0], [5.0]])
    nu = torch.tensor([1e-3, 1e-2, 0.0], dtype=torch.float64)
    together = solve_burgers_volumes(u, nu, dt=0.05, num_frames=4)
    for row in range(3):
        alone = solve_burgers_volumes(u[row : row + 1], nu[row : row + 1], dt=0.05, num_frames=4)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)


def test_the_domains_length_scales_time():
    u = torch.sin(2 * math.pi * centres(64))[None]
    unit = solve_burgers_volumes(u, torch.tensor([0.01]), dt=0.1, num_frames=3)
    double = solve_burgers_volumes(u, torch.tensor([0.02]), dt=0.2, num_frames=3, length=2.0)
    torch.testing.assert_close(double, unit, rtol=0, atol=1e-12)
