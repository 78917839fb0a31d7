"""Shallow water against Stoker's dam break, and its budgets."""

import math

import numpy as np
import torch
from scipy.optimize import brentq

from ups_scale.solvers.finite_volume import solve
from ups_scale.solvers.shallow_water import ShallowWater

OPEN, WALL = ("open", "open"), ("wall", "wall")


def stoker(deep, shallow, gravity, speed):
    """Height at x / t = `speed` after a dam between water at rest of two depths is gone (Stoker, Water Waves, 1957)."""
    fast = math.sqrt(gravity * deep)

    def shock(height):
        return math.sqrt(gravity * height * (height + shallow) / (2 * shallow))

    def mismatch(height):
        return 2 * (fast - math.sqrt(gravity * height)) * height - shock(height) * (height - shallow)

    middle = brentq(mismatch, shallow * (1 + 1e-12), deep * (1 - 1e-12))
    flow = 2 * (fast - math.sqrt(gravity * middle))
    fan = (2 * fast - speed) ** 2 / (9 * gravity)
    inside = np.where(speed < flow - math.sqrt(gravity * middle), fan, np.where(speed < shock(middle), middle, shallow))
    return np.where(speed < -fast, deep, inside)


def test_a_dam_break():
    errors = []
    for num_points in (128, 256, 512):
        x = (np.arange(num_points) + 0.5) / num_points
        start = torch.from_numpy(np.stack((np.where(x < 0.5, 2.0, 1.0), 0 * x)))[None]
        frames = solve(ShallowWater(1.0), start, dx=(1 / num_points,), sides=(OPEN,), dt=0.25, num_frames=2)
        fine = (np.arange(num_points * 16) + 0.5) / (num_points * 16)
        exact = stoker(2.0, 1.0, 1.0, (fine - 0.5) / 0.25).reshape(num_points, 16).mean(1)
        errors.append(np.abs(frames[0, 1, 0].numpy() - exact).mean())
    assert errors[0] < 0.005
    assert errors[0] > 1.7 * errors[1] > 2.5 * errors[2]


def test_a_radial_dam_keeps_its_symmetry_and_no_water_leaves_between_walls():
    size = 32
    x = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    start = torch.zeros(1, 3, size, size, dtype=torch.float64)
    start[:, 0] = torch.where(x[:, None] ** 2 + x**2 < 0.2**2, 2.0, 1.0)
    frames = solve(ShallowWater(1.0), start, dx=(1 / size,) * 2, sides=(WALL, WALL), dt=0.1, num_frames=11)
    height = frames[0, :, 0]
    torch.testing.assert_close(height.mean((1, 2)), height[0].mean().expand(11), rtol=1e-12, atol=0)
    for same in (height.flip(1), height.flip(2), height.transpose(1, 2)):
        torch.testing.assert_close(height, same, rtol=0, atol=1e-12)
    energy = (0.5 * height * frames[0, :, 1:].square().sum(1) + 0.5 * height**2).mean((1, 2))
    assert (energy.diff() < 0).all(), "shocks dissipate"
    assert height.min() > 0.3


def test_a_lake_around_an_island_stays_at_rest():
    island = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(1)) > 0.7
    rest = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    rest[:, 0] = 1.5
    frames = solve(ShallowWater(9.81), rest, dx=(0.1, 0.1), sides=(WALL, WALL), dt=1, num_frames=2, solid_bx=island)
    torch.testing.assert_close(frames[:, 1], rest, rtol=0, atol=1e-13)
