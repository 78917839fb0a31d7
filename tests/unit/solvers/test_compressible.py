"""Compressible flow against Sod's shock tube, an isentropic vortex, budgets, and viscous decay."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from ups_scale.solvers.compressible import Gas
from ups_scale.solvers.finite_volume import solve

AIR = 1.4
PERIODIC, OPEN, WALL = ("periodic", "periodic"), ("open", "open"), ("wall", "wall")


def exact_tube(left, right, speed):
    """(density, velocity, pressure) at x / t = `speed` of two gases, (rho, u, p) each: Godunov's exact solution (Toro,
    chapter 4) for gamma 1.4, (3, N)."""

    def sound(rho, _, p):
        return math.sqrt(AIR * p / rho)

    def jump(p, state):
        rho, _, p0 = state
        if p > p0:
            return (p - p0) * math.sqrt(2 / ((AIR + 1) * rho) / (p + (AIR - 1) / (AIR + 1) * p0))
        return 2 * sound(*state) / (AIR - 1) * ((p / p0) ** ((AIR - 1) / (2 * AIR)) - 1)

    p = brentq(lambda p: jump(p, left) + jump(p, right) + right[1] - left[1], 1e-8, 100)
    u = 0.5 * (left[1] + right[1] + jump(p, right) - jump(p, left))

    def at(s):
        (rho0, u0, p0), sign = (left, 1) if s < u else (right, -1)
        c0, ratio, small = sound(rho0, u0, p0), p / p0, (AIR - 1) / (AIR + 1)
        if p > p0:
            shock = u0 - sign * c0 * math.sqrt((AIR + 1) / (2 * AIR) * ratio + (AIR - 1) / (2 * AIR))
            return (rho0, u0, p0) if sign * (s - shock) < 0 else (rho0 * (ratio + small) / (small * ratio + 1), u, p)
        head, tail = u0 - sign * c0, u - sign * c0 * ratio ** ((AIR - 1) / (2 * AIR))
        if sign * (s - head) < 0:
            return rho0, u0, p0
        if sign * (s - tail) > 0:
            return rho0 * ratio ** (1 / AIR), u, p
        c = 2 / (AIR + 1) * (c0 + sign * (AIR - 1) / 2 * (u0 - s))
        return rho0 * (c / c0) ** (2 / (AIR - 1)), s + sign * c, p0 * (c / c0) ** (2 * AIR / (AIR - 1))

    return np.array([at(s) for s in speed]).T


def sod(num_points, axis, num_axes):
    """Mean error of the density at t = 0.2, the tube lying along `axis`."""
    x = (np.arange(num_points) + 0.5) / num_points
    fine = (np.arange(num_points * 16) + 0.5) / (num_points * 16)
    exact = exact_tube((1, 0, 1), (0.125, 0, 0.1), (fine - 0.5) / 0.2)[0].reshape(num_points, 16).mean(1)
    grid = [4] * num_axes
    grid[axis] = num_points
    start = torch.zeros(1, 2 + num_axes, *grid, dtype=torch.float64)
    along = [1] * num_axes
    along[axis] = num_points
    start[:, 0] = torch.from_numpy(np.where(x < 0.5, 1, 0.125)).view(along)
    start[:, 1] = torch.from_numpy(np.where(x < 0.5, 1, 0.1)).view(along)
    sides = [PERIODIC] * num_axes
    sides[axis] = OPEN
    frames = solve(Gas(AIR), start, dx=(1 / num_points,) * num_axes, sides=sides, dt=0.2, num_frames=2)
    density = frames[0, 1, 0].movedim(axis, -1).reshape(-1, num_points)
    torch.testing.assert_close(density, density[:1].expand_as(density), rtol=0, atol=1e-13)
    return np.abs(density[0].numpy() - exact).mean()


def test_sods_shock_tube():
    errors = [sod(num_points, 0, 1) for num_points in (128, 256, 512)]
    assert errors[0] < 0.005
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]


@pytest.mark.parametrize(("axis", "num_axes"), [(0, 2), (1, 2), (2, 3)])
def test_the_tube_may_lie_along_any_axis(axis, num_axes):
    # Steps are shorter where there are more axes.
    assert sod(64, axis, num_axes) == pytest.approx(sod(64, 0, 1), rel=0.1)


def vortex(num_points):
    """Yee, Sandham and Djomehri's isentropic vortex on [-5, 5)^2 in a flow of (1, 1): cell averages, primitive."""
    x = (torch.arange(num_points, dtype=torch.float64) + 0.5) * (10 / num_points) - 5
    law, average = Gas(AIR), 0
    nodes, weights = np.polynomial.legendre.leggauss(3)
    for a, weight_a in zip(nodes, weights, strict=True):
        for b, weight_b in zip(nodes, weights, strict=True):
            xx, yy = torch.meshgrid(x + a * 5 / num_points, x + b * 5 / num_points, indexing="ij")
            square = xx**2 + yy**2
            swirl = 5 / (2 * math.pi) * torch.exp((1 - square) / 2)
            warmth = 1 - (AIR - 1) / (2 * AIR) * swirl**2
            density = warmth ** (1 / (AIR - 1))
            state = torch.stack((density, density * warmth, 1 - swirl * yy, 1 + swirl * xx))[None]
            average = average + weight_a * weight_b / 4 * law.conserved(state)
    return law.primitive(average)


def test_a_vortex_is_carried_unchanged_and_converges_with_second_order():
    errors = []
    for num_points in (32, 64):
        start, half = vortex(num_points), num_points // 2
        frames = solve(Gas(AIR), start, dx=(10 / num_points,) * 2, sides=(PERIODIC,) * 2, dt=5, num_frames=2)
        errors.append((frames[0, 1, 0].roll((half, half), (0, 1)) - start[0, 0]).abs().mean().item())
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.6, errors


def blast(num_points, num=1):
    """Blobs of dense, hot gas in a wind."""
    x = (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points
    xx, yy = torch.meshgrid(x, x, indexing="ij")
    states = []
    for index in range(num):
        blob = torch.exp(-((xx - 0.3 - 0.1 * index) ** 2 + (yy - 0.4) ** 2) / 0.01)
        states.append(torch.stack((1 + 0.3 * blob, 1 + 2 * blob, 0.3 + 0 * xx, 0.1 * blob)))
    return torch.stack(states)


@pytest.mark.parametrize("sides", [(PERIODIC, PERIODIC), (WALL, PERIODIC), (WALL, WALL)])
@pytest.mark.parametrize("obstacle", [False, True])
@pytest.mark.parametrize("viscosity", [None, 0.01])
def test_mass_and_energy_stay_in_between_walls_and_around_obstacles(sides, obstacle, viscosity):
    size = 24
    eta = None if viscosity is None else torch.tensor([viscosity], dtype=torch.float64)
    x = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    solid = ((x[:, None] - 0.6) ** 2 + (x - 0.5) ** 2 < 0.15**2)[None]
    law, fluid = Gas(AIR, eta, eta), ~solid[0] if obstacle else torch.ones(size, size, dtype=torch.bool)
    frames = solve(
        law, blast(size), dx=(1 / size,) * 2, sides=sides, dt=0.1, num_frames=5, solid_bx=solid if obstacle else None
    )
    conserved = torch.stack([law.conserved(frames[:, frame])[0] for frame in range(5)])
    totals = conserved[:, :2][..., fluid].sum(-1)
    torch.testing.assert_close(totals, totals[:1].expand_as(totals), rtol=1e-12, atol=0)
    if obstacle:
        torch.testing.assert_close(frames[0, 4][:, solid[0]], blast(size)[0][:, solid[0]])
    assert frames[0, 4, 0].std() > 0.01


def test_walls_and_obstacles_do_not_hold_the_gas_back_along_them():
    size = 16
    wind = torch.tensor([1.0, 1.0, 0.3, 0.0], dtype=torch.float64)[None, :, None, None].expand(1, 4, size, size)
    slab = torch.zeros(1, size, size, dtype=torch.bool)
    slab[:, :, 5:9] = True
    eta = torch.tensor([0.02], dtype=torch.float64)
    for sides, solid in (((PERIODIC, WALL), None), ((PERIODIC, PERIODIC), slab)):
        frames = solve(Gas(AIR, eta, eta), wind, dx=(0.1, 0.1), sides=sides, dt=1, num_frames=2, solid_bx=solid)
        torch.testing.assert_close(frames[:, 1], wind, rtol=0, atol=1e-13)


def test_gas_at_rest_around_an_obstacle_stays_at_rest():
    solid = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(1)) > 0.7
    rest = torch.tensor([1.2, 0.8, 0.0, 0.0], dtype=torch.float64)[None, :, None, None].expand(1, 4, 12, 12)
    frames = solve(Gas(), rest, dx=(0.1, 0.1), sides=(WALL, PERIODIC), dt=1, num_frames=2, solid_bx=solid)
    torch.testing.assert_close(frames[:, 1], rest, rtol=0, atol=1e-14)


def test_a_shear_wave_decays_at_the_rate_of_its_viscosity_and_a_sound_wave_at_that_of_both():
    eta, zeta = (torch.tensor([value], dtype=torch.float64) for value in (0.01, 0.03))
    k = 2 * math.pi
    errors = []
    for size in (16, 32):
        x = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        shear = torch.zeros(1, 4, size, 4, dtype=torch.float64)
        shear[:, 0], shear[:, 1] = 1, 10
        shear[:, 3] = 0.01 * torch.sin(k * x)[:, None]
        frames = solve(Gas(eta_b=eta, zeta_b=zeta), shear, dx=(1 / size,) * 2, sides=(PERIODIC,) * 2, dt=0.5,
                       num_frames=2)  # fmt: skip
        errors.append((frames[0, 1, 3].norm() / frames[0, 0, 3].norm()).item() / math.exp(-0.01 * k**2 * 0.5) - 1)
    assert abs(errors[1]) < 1e-3
    assert abs(errors[1]) < abs(errors[0]) / 3

    size, pressure = 64, 0.6
    x = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    sound = math.sqrt(5 / 3 * pressure)
    wave = 1e-4 * torch.sin(k * x)
    start = torch.stack((1 + wave / sound, pressure * (1 + 5 / 3 * wave / sound), wave))[None]
    frames = solve(Gas(eta_b=eta, zeta_b=zeta), start, dx=(1 / size,), sides=(PERIODIC,), dt=1 / sound, num_frames=2)
    decay = (frames[0, 1, 2].norm() / frames[0, 0, 2].norm()).item()
    assert decay == pytest.approx(math.exp(-0.5 * (4 / 3 * 0.01 + 0.03) * k**2 / sound), rel=0.01)


def test_a_trajectory_does_not_depend_on_the_others_of_its_batch():
    three = blast(16, 3)
    three[1, 1] *= 4  # faster, so with shorter steps
    settings = {"dx": (1 / 16,) * 2, "sides": (PERIODIC, OPEN), "dt": 0.1, "num_frames": 3}
    together = solve(Gas(), three, **settings)
    for index in range(3):
        assert torch.equal(together[index], solve(Gas(), three[index : index + 1], **settings)[0])


def test_a_mixed_pair_of_sides_is_refused():
    with pytest.raises(ValueError, match="both periodic"):
        solve(Gas(), blast(8), dx=(1, 1), sides=(("periodic", "wall"), WALL), dt=1, num_frames=2)
