"""Sound: standing waves, its energy in any medium and around obstacles, reflection, and open sides."""

import math
from itertools import pairwise

import pytest
import torch

from ups_scale.solvers.acoustics import solve_acoustics

PERIODIC, WALL, OPEN = ("periodic", "periodic"), ("wall", "wall"), ("open", "open")


def centres(size):
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def pulse(size):
    x = centres(size)
    return torch.exp(-((x[:, None] - 0.3) ** 2 + (x - 0.4) ** 2) / 0.005)[None]


def test_a_standing_wave_converges_with_second_order():
    density, sound, t = 2.0, 1.5, 1.0
    omega = math.sqrt(5) * math.pi * sound
    errors = []
    for size in (16, 32, 64):
        x = centres(size)
        start = (torch.cos(2 * math.pi * x)[:, None] * torch.cos(math.pi * x))[None]
        frames = solve_acoustics(
            start, torch.full_like(start, density), torch.full_like(start, sound), dx=(1 / size,) * 2,
            sides=(PERIODIC, WALL), dt=t / 10, num_frames=11, steps_per_frame=size // 4,
        )[0, -1]  # fmt: skip
        swing = math.sin(omega * t) / (omega * density)
        expected = torch.stack((
            start[0] * math.cos(omega * t),
            swing * 2 * math.pi * torch.sin(2 * math.pi * x)[:, None] * torch.cos(math.pi * x),
            swing * math.pi * torch.cos(2 * math.pi * x)[:, None] * torch.sin(math.pi * x),
        ))  # fmt: skip
        errors.append((frames - expected).abs().amax((1, 2)))
    for coarse, fine in pairwise(errors):
        assert ((coarse / fine).log2() - 2).abs().max() < 0.2


@pytest.mark.parametrize("sides", [(PERIODIC, PERIODIC), (WALL, PERIODIC), (WALL, WALL)])
def test_energy_and_mass_are_kept_in_any_medium_and_around_obstacles(sides):
    size = 48
    x = centres(size)
    density = (1 + 0.5 * (x > 0.5)).expand(1, size, size)
    sound = (1 + 0.3 * torch.sin(2 * math.pi * x))[:, None].expand(1, size, size)
    solid = ((x[:, None] - 0.6) ** 2 + (x - 0.5) ** 2 < 0.15**2)[None]
    frames = solve_acoustics(
        pulse(size), density, sound, dx=(1 / size,) * 2, sides=sides, dt=0.1, num_frames=31, steps_per_frame=40,
        solid_bx=solid,
    )[0]  # fmt: skip
    stiffness = density * sound**2
    mass = (frames[:, 0] / stiffness)[:, ~solid[0]].sum(1)
    torch.testing.assert_close(mass, mass[:1].expand(31), rtol=1e-12, atol=0)
    energy = (frames[:, 0] ** 2 / stiffness + density * frames[:, 1:].square().sum(1))[:, ~solid[0]].sum(1)
    # Velocities are means over two faces, which lose what varies from cell to cell.
    assert (energy / energy[0] - 1).abs().max() < 0.06
    assert frames[-1, 0].abs().max() > 0.1
    torch.testing.assert_close(frames[:, 0][:, solid[0]], pulse(size)[0][solid[0]].expand(31, -1))


def test_a_pulse_comes_back_from_a_wall_upright_and_leaves_through_an_open_side():
    size = 200
    x = centres(size)
    start = torch.exp(-((x - 0.5) ** 2) / 0.002)[None]
    one = torch.ones_like(start)
    settings = {"dx": (1 / size,), "dt": 0.5, "num_frames": 3, "steps_per_frame": 110}
    walls = solve_acoustics(start, one, one, sides=(WALL,), **settings)[0, :, 0]
    torch.testing.assert_close(walls[2], start[0], rtol=0, atol=0.01)
    assert walls[1, [0, -1]].min() > 0.95, "twice the half that went there"
    left = solve_acoustics(start, one, one, sides=(OPEN,), **settings)[0, 2, 0]
    assert left.abs().max() < 1e-3


def test_a_layer_reflects_what_its_impedance_says():
    size = 800
    x = centres(size)
    start = torch.exp(-((x - 0.2) ** 2) / 5e-4)[None]
    density = torch.where(x < 0.5, 1.0, 3.0).double()[None]
    frames = solve_acoustics(
        start, density, torch.ones_like(start), dx=(1 / size,), sides=(OPEN,), dt=0.5, num_frames=2,
        steps_per_frame=450,
    )[0, 1, 0]  # fmt: skip
    # Half of it meets the layer at 0.5 after 0.3 and then goes either way for 0.2.
    assert frames[x < 0.5].max().item() == pytest.approx(0.5 * (3 - 1) / (3 + 1), rel=0.02)
    assert frames[x > 0.5].max().item() == pytest.approx(0.5 * 2 * 3 / (3 + 1), rel=0.02)


def test_too_long_a_step_is_refused_with_the_number_that_would_do():
    one = torch.ones(1, 10, 10)
    with pytest.raises(ValueError, match=r"7 steps per frame: stable above 14\.1"):
        solve_acoustics(one, one, one, dx=(0.1, 0.1), sides=(WALL, WALL), dt=1, num_frames=2, steps_per_frame=7)
