"""Burgers against Cole-Hopf by quadrature, Korteweg-de Vries against its solitons, and orders in time."""

import math

import numpy as np
import pytest
import torch

from ups_scale.solvers.spectral import integrate
from ups_scale.solvers.steepening import solve_steepening


def solve_burgers(u, nu, **settings):
    """With PDEBench's nu."""
    return solve_steepening(u, diffusion_b=nu / math.pi, **settings)


def cole_hopf(x, t, viscosity, mean):
    """u(x, t) from u(x, 0) = mean + sin(2 pi x) by quadrature of Cole and Hopf's formula (float64, logarithms shifted).

    u(x, t) = mean + s(x - mean t, t), where s starts from the sine: Burgers is Galilean invariant.
    """
    x = x - mean * t
    y = np.linspace(-1.5, 1.5, 24001) + x[:, None]
    integral = (1 - np.cos(2 * math.pi * y)) / (2 * math.pi)
    exponent = -((x[:, None] - y) ** 2 / (2 * t) + integral) / (2 * viscosity)
    weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return mean + ((x[:, None] - y) / t * weight).sum(1) / weight.sum(1)


@pytest.mark.parametrize(
    ("nu", "num_points", "tolerance"),
    [(0.05, 256, 1e-7), (0.01, 512, 2e-5), (0.005, 1024, 2e-5)],
)
def test_agrees_with_cole_hopf_through_the_shock(nu, num_points, tolerance):
    x = np.arange(num_points) / num_points
    t = 0.3  # the shock forms at 1 / (2 pi)
    start = torch.from_numpy(0.3 + np.sin(2 * math.pi * x))[None]
    steps = num_points // 2
    frames = solve_burgers(start, torch.tensor([nu]), dt=t / 2, num_frames=3, steps_per_frame=steps)
    assert np.abs(frames[0, 2].numpy() - cole_hopf(x, t, nu / math.pi, 0.3)).max() < tolerance


def test_a_weak_mode_decays_at_the_rate_of_nu_over_pi():
    x = torch.arange(64, dtype=torch.float64) / 64
    start = 1e-7 * torch.cos(2 * math.pi * 3 * x)[None].repeat(2, 1)
    nu = torch.tensor([0.1, 0.01], dtype=torch.float64)
    frames = solve_burgers(start, nu, dt=0.1, num_frames=2, steps_per_frame=3)
    decay = torch.exp(-(nu / math.pi) * (6 * math.pi) ** 2 * 0.1)
    torch.testing.assert_close(frames[:, 1], start * decay[:, None], rtol=0, atol=1e-13)


def test_the_linear_part_is_exact_at_any_step():
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(2, 9, dtype=torch.complex128, generator=generator)
    rate = -torch.rand(2, 9, dtype=torch.float64, generator=generator) * 50
    after = integrate(state, rate, torch.zeros_like, 0.7, 3)
    torch.testing.assert_close(after, state * torch.exp(rate * 2.1), rtol=1e-12, atol=1e-25)


def test_time_stepping_is_of_fourth_order():
    x = torch.arange(128, dtype=torch.float64) / 128
    start = (0.2 + torch.sin(2 * math.pi * x) + 0.5 * torch.cos(4 * math.pi * x))[None]

    def end(steps):
        return solve_burgers(start, torch.tensor([0.05]), dt=0.2, num_frames=2, steps_per_frame=steps)[0, 1]

    reference = end(1280)
    errors = [(end(steps) - reference).abs().max().item() for steps in (40, 80)]
    assert 3.6 < math.log2(errors[0] / errors[1]) < 4.4


def test_momentum_is_conserved_and_energy_never_grows():
    generator = torch.Generator().manual_seed(2)
    x = torch.arange(256, dtype=torch.float64) / 256
    phase = torch.rand(4, 3, 1, dtype=torch.float64, generator=generator) * 6.28
    start = 0.3 + torch.sin(2 * math.pi * torch.tensor([[1.0], [2.0], [3.0]]) * x + phase).sum(1) / 2
    frames = solve_burgers(start, torch.full((4,), 0.02), dt=0.03, num_frames=12, steps_per_frame=20)
    torch.testing.assert_close(frames.mean(-1), start.mean(-1, keepdim=True).expand(4, 12), rtol=0, atol=1e-13)
    assert (frames.square().mean(-1).diff(dim=1) < 0).all()


def soliton(x, t, *, speed, start, length):
    """Of u_t + 6 u u_x + u_xxx = 0, on a domain so long that its tails don't meet."""
    distance = (x - start - speed * t + length / 2) % length - length / 2
    return speed / 2 / np.cosh(math.sqrt(speed) / 2 * distance) ** 2


def test_solitons_of_korteweg_and_de_vries_travel_unchanged_and_pass_through_each_other():
    length, num_points = 60.0, 384
    x = np.arange(num_points) * (length / num_points)
    one = torch.from_numpy(soliton(x, 0, speed=2.0, start=20, length=length))[None]
    frames = solve_steepening(
        one, steepening=6, dispersion_b=-1, dt=2.0, num_frames=3, steps_per_frame=800, length=length
    )
    for frame in range(3):
        expected = soliton(x, 2.0 * frame, speed=2.0, start=20, length=length)
        assert np.abs(frames[0, frame].numpy() - expected).max() < 1e-7

    # The faster one catches up, is thrown ahead and throws the other back, each by a known distance.
    speeds, starts = (2.0, 0.8), (10.0, 22.0)
    both = sum(soliton(x, 0, speed=c, start=s, length=length) for c, s in zip(speeds, starts, strict=True))
    after = solve_steepening(
        torch.from_numpy(both)[None], steepening=6, dispersion_b=-1, dt=24.0, num_frames=2, steps_per_frame=6000,
        length=length,
    )[0, 1].numpy()  # fmt: skip
    roots = [math.sqrt(c) / 2 for c in speeds]
    throw = math.log((roots[0] + roots[1]) / (roots[0] - roots[1]))
    ends = (starts[0] + speeds[0] * 24 + throw / roots[0], starts[1] + speeds[1] * 24 - throw / roots[1])
    expected = sum(soliton(x, 0, speed=c, start=s, length=length) for c, s in zip(speeds, ends, strict=True))
    assert np.abs(after - expected).max() < 0.01  # what is left of their tails


def test_kuramoto_sivashinsky_grows_and_decays_as_its_linear_part_says_and_converges():
    length, num_points = 64.0, 128
    k = 2 * math.pi / length * torch.tensor([3.0, 9.0, 12.0], dtype=torch.float64)
    x = torch.arange(num_points, dtype=torch.float64) * (length / num_points)
    weak = 1e-8 * torch.cos(k[:, None] * x)
    settings = {"diffusion_b": -1.0, "hyperdiffusion_b": -1.0, "dt": 2.0, "num_frames": 2, "length": length}
    after = solve_steepening(weak, steps_per_frame=20, **settings)[:, 1]
    torch.testing.assert_close(after, weak * torch.exp((k**2 - k**4) * 2.0)[:, None], rtol=1e-6, atol=1e-13)

    rng = np.random.default_rng(0)
    modes = np.arange(1, 7)
    phase = rng.uniform(0, 2 * math.pi, 6)
    start = torch.from_numpy(np.cos(2 * math.pi / length * modes[:, None] * x.numpy() + phase[:, None]).sum(0))[None]

    def end(steps):
        return solve_steepening(start, steps_per_frame=steps, **settings)[0, 1]

    reference = end(6400)
    errors = [(end(steps) - reference).abs().max().item() for steps in (400, 800)]
    assert errors[1] < 2e-7
    assert 3.6 < math.log2(errors[0] / errors[1]) < 4.4
