"""Every solver whose equation exponax has, against exponax: other code, and exponential time differencing instead of
integrating factors and splitting. Source: Koehler, Niedermayr, Westermann and Thuerey, APEBench, NeurIPS 2024.

Each case gives its frames by both, (B, T, C, *grid) float64. Dimensions in names: b trajectory, t frame, c field, x
every axis of the grid.
"""

import math

import numpy as np
import pytest
import torch

from ups_scale.solvers.acoustics import solve_acoustics
from ups_scale.solvers.initial import periodic_band, sinusoids, with_rms
from ups_scale.solvers.linear import solve_linear
from ups_scale.solvers.navier_stokes import LENGTH, solve_navier_stokes, solve_navier_stokes_3d
from ups_scale.solvers.reaction_diffusion import gray_scott, logistic, solve_reaction_diffusion
from ups_scale.solvers.steepening import solve_steepening

NUM_FRAMES = 4


@pytest.fixture
def exponax():
    # Imported here: at the file's top, jax and its threads would be in every run that collects this file.
    exponax = pytest.importorskip("exponax", "0.2", reason="the oracle is not here: pip install 'exponax>=0.2'")
    import jax

    with jax.enable_x64(True):
        yield exponax


def rollout(exponax, steppers, start_bcx, steps=1):
    """Frames of every trajectory by its own stepper, `steps` of them per frame."""
    return np.stack(
        [
            exponax.rollout(exponax.repeat(stepper, steps), NUM_FRAMES - 1, include_init=True)(start.numpy())
            for stepper, start in zip(steppers, start_bcx, strict=True)
        ]
    )


def same_modes(size):
    """exponax drops one mode more than ours by default. Keeping the same (of sizes that 3 doesn't divide), both solve
    the same equations for these modes, and agree even where they don't resolve the flow."""
    return {"dealiasing_fraction": 2 / 3 + 2 / size}


def waves(num, size, dim, *, seed, high, rms):
    """(B, *grid), of modes up to `high`."""
    rng = np.random.default_rng(seed)

    def draw():
        if dim == 1:
            return sinusoids(rng, size, num_modes=4, max_wavenumber=high)
        return periodic_band(rng, size, low=1, high=high)

    return torch.from_numpy(np.stack([with_rms(draw(), rms) for _ in range(num)]))


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def advection(exponax):
    size, length, dt, betas = 64, 1.5, 0.1, (0.8, -0.3)
    start = waves(2, size, 1, seed=0, high=3, rms=0.7) + 0.3
    steppers = [exponax.stepper.Advection(1, length, size, dt, velocity=beta) for beta in betas]
    ours = solve_linear(start, column(*betas)[:, None], torch.zeros(2), dt=dt, num_frames=NUM_FRAMES, lengths=[length])
    return ours[:, :, None], rollout(exponax, steppers, start[:, None])


def advection_diffusion_2d(exponax):
    size, length, dt, velocities, nus = 32, 1.5, 0.1, ((0.8, -0.3), (0.2, 0.5)), (0.01, 0.003)
    start = waves(2, size, 2, seed=1, high=4, rms=1.0) + 0.3
    steppers = [
        exponax.stepper.AdvectionDiffusion(2, length, size, dt, velocity=np.array(velocity), diffusivity=nu)
        for velocity, nu in zip(velocities, nus, strict=True)
    ]
    ours = solve_linear(
        start, column(*velocities), column(*nus), dt=dt, num_frames=NUM_FRAMES, lengths=[length, length]
    )
    return ours[:, :, None], rollout(exponax, steppers, start[:, None])


def burgers(exponax):
    size, dt, nus = 512, 0.1, (0.01, 0.05)  # fronts form during the first frames
    start = waves(2, size, 1, seed=2, high=3, rms=0.7) + 0.3
    steppers = [
        exponax.stepper.Burgers(
            1, 1.0, size, dt / 400, diffusivity=nu / math.pi, conservative=True, order=4, **same_modes(size)
        )
        for nu in nus
    ]
    ours = solve_steepening(
        start, diffusion_b=column(*nus) / math.pi, dt=dt, num_frames=NUM_FRAMES, steps_per_frame=200
    )
    return ours[:, :, None], rollout(exponax, steppers, start[:, None], 400)


def korteweg_de_vries(exponax):
    size, length, dt = 128, 20.0, 0.5
    start = waves(2, size, 1, seed=3, high=3, rms=0.7) + 0.3

    def theirs(steps):
        stepper = exponax.stepper.KortewegDeVries(
            1, length, size, dt / steps, convection_scale=6.0, dispersivity=1.0, hyper_diffusivity=0.0,
            conservative=True, order=4, **same_modes(size),
        )  # fmt: skip
        return rollout(exponax, [stepper] * 2, start[:, None], steps)

    ours = solve_steepening(
        start, steepening=6, dispersion_b=-1, dt=dt, num_frames=NUM_FRAMES, steps_per_frame=1000, length=length
    )
    # exponax (0.2) keeps the real part of its time stepper's coefficients, which are complex where waves disperse: its
    # order is 1 there (against a soliton too, where ours is 4), and its error halves with the step.
    return ours[:, :, None], 2 * theirs(8000) - theirs(4000)


def kuramoto_sivashinsky(exponax):
    size, length, dt = 128, 64.0, 2.0
    start = waves(2, size, 1, seed=4, high=6, rms=0.7)
    # The one with u u_x; its namesake without "Conservative" is for the integral of u.
    stepper = exponax.stepper.KuramotoSivashinskyConservative(1, length, size, dt / 400, order=4, **same_modes(size))
    ours = solve_steepening(
        start, diffusion_b=-1, hyperdiffusion_b=-1, dt=dt, num_frames=NUM_FRAMES, steps_per_frame=400, length=length
    )
    return ours[:, :, None], rollout(exponax, [stepper] * 2, start[:, None], 400)


def sound(exponax, size, dim):
    """In a homogeneous medium pressure and velocities obey the wave equation: from rest, p starts with no slope in time
    and v with -grad(p) / rho."""
    density, speed, length, dt = 1.3, 0.7, 2.0, 0.5
    start = waves(1, size, dim, seed=5, high=3 if dim == 1 else 2, rms=1.0)
    stepper = exponax.stepper.Wave(dim, length, size, dt, speed_of_sound=speed)
    force = -np.asarray(exponax.derivative(start.numpy(), length)).reshape(dim, *start.shape[1:]) / density
    states = np.zeros((1 + dim, 2, *start.shape[1:]))  # value and slope in time, per field
    states[0, 0], states[1:, 1] = start[0], force
    theirs = rollout(exponax, [stepper] * (1 + dim), torch.from_numpy(states))[:, :, 0].swapaxes(0, 1)
    ours = solve_acoustics(
        start, torch.full_like(start, density), torch.full_like(start, speed), dx=[length / size] * dim,
        sides=[("periodic", "periodic")] * dim, dt=dt, num_frames=NUM_FRAMES, steps_per_frame=size // 4,
    )  # fmt: skip
    return ours, theirs[None]


def sound_1d(exponax, size=512):
    return sound(exponax, size, 1)


def sound_2d(exponax, size=256):
    return sound(exponax, size, 2)


def fisher_kpp(exponax, size, dim):
    length, dt, rhos, nus = 1.0, 0.3, (1.0, 3.0), (2e-3, 5e-4)
    start = 0.5 + 0.45 * torch.tanh(waves(2, size, dim, seed=6, high=3, rms=1.0))[:, None]
    steppers = [
        exponax.stepper.reaction.FisherKPP(dim, length, size, dt / 20, reactivity=rho, diffusivity=nu, order=4)
        for rho, nu in zip(rhos, nus, strict=True)
    ]
    ours = solve_reaction_diffusion(
        start, column(*nus)[:, None], logistic(column(*rhos)), edges="periodic", length=length, dt=dt,
        num_frames=NUM_FRAMES, steps_per_frame=size // 4, num_output=size,
    )  # fmt: skip
    return ours, rollout(exponax, steppers, start, 20)


def fisher_kpp_1d(exponax, size=256):
    return fisher_kpp(exponax, size, 1)


def fisher_kpp_2d(exponax, size=128):
    return fisher_kpp(exponax, size, 2)


def gray_scott_2d(exponax, size=128):
    length, dt = 1.0, 8.0
    feeds, kills, diffusivities = (0.04, 0.03), (0.06, 0.055), ((4e-4, 2e-4), (3.2e-4, 1.6e-4))
    eaten = torch.sigmoid(2 * waves(2, size, 2, seed=7, high=2, rms=1.0) - 1.4)
    start = torch.stack((1 - 0.5 * eaten, 0.4 * eaten), dim=1)
    steppers = [
        exponax.stepper.reaction.GrayScott(
            2, length, size, dt / 20, feed_rate=feed, kill_rate=kill, diffusivity_1=du, diffusivity_2=dv, order=4
        )
        for feed, kill, (du, dv) in zip(feeds, kills, diffusivities, strict=True)
    ]
    ours = solve_reaction_diffusion(
        start, column(*diffusivities), gray_scott(column(*feeds), column(*kills)), edges="periodic", length=length,
        dt=dt, num_frames=NUM_FRAMES, steps_per_frame=size // 2, num_output=size,
    )  # fmt: skip
    return ours, rollout(exponax, steppers, start, 20)


def navier_stokes_2d(exponax):
    size, length, dt, nus = 64, 3.0, 0.5, (0.02, 0.01)
    start = waves(2, size, 2, seed=8, high=4, rms=1.5)
    steppers = [
        exponax.stepper.NavierStokesVorticity(2, length, size, dt / 100, diffusivity=nu, order=4, **same_modes(size))
        for nu in nus
    ]
    ours = solve_navier_stokes(
        start, column(*nus), dt=dt, num_frames=NUM_FRAMES, steps_per_frame=50, num_output=size, length=length
    )
    return ours[:, :, None], -rollout(exponax, steppers, -start[:, None], 100)  # its vorticity is u_y - v_x


def kolmogorov_flow(exponax):
    size, dt, mode, nus, drags, scales = 64, 0.5, 4, (0.05, 0.03), (0.1, 0.2), (1.0, 2.0)
    start = waves(2, size, 2, seed=9, high=4, rms=1.5)
    steppers = [
        exponax.stepper.KolmogorovFlowVorticity(
            2, LENGTH, size, dt / 100, diffusivity=nu, drag=-drag, injection_mode=mode, injection_scale=scale, order=4,
            **same_modes(size),
        )
        for nu, drag, scale in zip(nus, drags, scales, strict=True)
    ]  # fmt: skip
    # exponax adds -mode cos(mode y) to its vorticity, which is minus ours. (On other domains than [0, 2 pi) it has no
    # factor 2 pi / length, contrary to what it says.)
    y = torch.arange(size, dtype=torch.float64) * (LENGTH / size)
    forcing = column(*scales)[:, None, None] * mode * torch.cos(mode * y).expand(2, size, size)
    ours = solve_navier_stokes(
        start, column(*nus), dt=dt, num_frames=NUM_FRAMES, steps_per_frame=50, num_output=size,
        drag_b=column(*drags), forcing_bxy=forcing,
    )  # fmt: skip
    return ours[:, :, None], -rollout(exponax, steppers, -start[:, None], 100)


def navier_stokes_3d(exponax):
    size, length, dt, nus = 32, 3.0, 0.5, (0.05, 0.03)
    x = torch.arange(size, dtype=torch.float64) * (2 * math.pi / size)
    x, y, z = torch.meshgrid(x, x, x, indexing="ij")
    taylor_green = torch.stack((x.sin() * y.cos() * z.cos(), -x.cos() * y.sin() * z.cos(), torch.zeros_like(x)))
    beltrami = torch.stack((z.sin() + 0.7 * y.cos(), x.sin() + z.cos(), 0.7 * y.sin() + x.cos()))
    start = torch.stack((taylor_green + 0.3 * beltrami, 0.5 * taylor_green + 0.4 * beltrami.roll(5, 2)))
    steppers = [
        exponax.stepper.NavierStokesVelocity(3, length, size, dt / 20, diffusivity=nu, order=4, **same_modes(size))
        for nu in nus
    ]
    ours = solve_navier_stokes_3d(
        start, column(*nus), dt=dt, num_frames=NUM_FRAMES, steps_per_frame=20, num_output=size, length=length
    )
    return ours, rollout(exponax, steppers, start, 20)


def relative_rms(difference_btcx, reference_btcx):
    """RMS(difference) / RMS(reference) over the grid, of every frame after the start: (B, T - 1, C)."""
    grid = tuple(range(3, reference_btcx.ndim))
    above, below = ((field[:, 1:] ** 2).mean(grid) for field in (difference_btcx, reference_btcx))
    return np.sqrt(above / below)


@pytest.mark.parametrize(
    ("case", "first", "last"),
    [
        (advection, 5e-15, 5e-15),
        (advection_diffusion_2d, 5e-15, 5e-15),
        (burgers, 5e-7, 5e-7),
        (korteweg_de_vries, 5e-5, 5e-4),
        (kuramoto_sivashinsky, 1e-7, 1e-7),
        (sound_1d, 1e-3, 1e-3),
        (sound_2d, 5e-4, 1e-3),
        (fisher_kpp_1d, 1e-4, 1e-4),
        (fisher_kpp_2d, 5e-4, 5e-4),
        (gray_scott_2d, 1e-3, 1e-3),
        (navier_stokes_2d, 1e-8, 1e-8),
        (kolmogorov_flow, 5e-8, 5e-8),
        (navier_stokes_3d, 2e-7, 2e-7),
    ],
)
def test_agrees_with_exponax(case, first, last, exponax):
    ours, theirs = case(exponax)
    ours = ours.numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=0, atol=1e-13)
    assert relative_rms(theirs - theirs[:, :1], theirs).min() > 0.05, "nothing happened"
    difference = relative_rms(ours - theirs, theirs)
    assert difference[:, 0].max() < first
    assert difference.max() < last


@pytest.mark.parametrize(("case", "size"), [(sound_1d, 128), (sound_2d, 64), (fisher_kpp_2d, 64), (gray_scott_2d, 64)])
def test_what_differs_is_the_error_of_second_order(case, size, exponax):
    """Halving cells and steps quarters it: both converge to the same solution."""
    largest = []
    for num_points in (size, 2 * size):
        ours, theirs = case(exponax, num_points)
        largest.append(relative_rms(ours.numpy() - theirs, theirs).max((0, 2)))
    np.testing.assert_allclose(largest[0] / largest[1], 4, rtol=0, atol=0.2)
