"""Navier-Stokes against Taylor and Green's vortex, its invariants, and its order in time."""

import math

import numpy as np
import pytest
import torch

from ups_scale.solvers.initial import periodic_band, with_rms
from ups_scale.solvers.navier_stokes import LENGTH, solve_navier_stokes, solve_navier_stokes_3d
from ups_scale.solvers.spectral import wavenumbers


def random_vorticity(num, num_points):
    rng = np.random.default_rng(3)
    return torch.from_numpy(
        np.stack([with_rms(periodic_band(rng, num_points, low=1, high=4), 1.5) for _ in range(num)])
    )


def energy(w_btxy, length=LENGTH):
    """Mean kinetic energy per frame, from the Fourier coefficients of w."""
    size = w_btxy.shape[-1]
    k = wavenumbers(size, length, half=False, device="cpu")
    square = k[:, None] ** 2 + k**2
    spectrum = torch.fft.fft2(w_btxy) / size**2
    return 0.5 * (torch.where(square > 0, 1 / square, 0) * spectrum.abs() ** 2).sum((-2, -1))


@pytest.mark.parametrize("length", [LENGTH, 1.0])
@pytest.mark.parametrize("mode", [1, 3])
def test_taylor_green_vortex_decays_exactly(mode, length):
    k = 2 * math.pi * mode / length
    x = torch.arange(32, dtype=torch.float64) * (length / 32)
    start = (2 * k * torch.cos(k * x)[:, None] * torch.cos(k * x))[None].repeat(2, 1, 1)
    nu = torch.tensor([0.03, 0.003], dtype=torch.float64) / k**2
    frames = solve_navier_stokes(start, nu, dt=0.5, num_frames=4, steps_per_frame=20, num_output=32, length=length)
    decay = torch.exp(-2 * nu[:, None] * k**2 * 0.5 * torch.arange(4))
    torch.testing.assert_close(frames, start[:, None] * decay[:, :, None, None], rtol=0, atol=1e-10 * k)


def test_a_shear_layer_is_carried_by_the_flow_it_stands_for():
    """Fixes the signs: the first change of a wave in x on the shear u(y) = -cos(y), worked out by hand."""
    x = torch.arange(64, dtype=torch.float64) * (LENGTH / 64)
    shear = -torch.sin(x)[None, :].expand(64, 64)  # w = v_x - u_y with u = -cos(y), v = 0
    wave = 1e-4 * torch.cos(5 * x)[:, None].expand(64, 64)
    dt = 1e-3
    start, after = solve_navier_stokes(
        (shear + wave)[None], torch.zeros(1), dt=dt, num_frames=2, steps_per_frame=1, num_output=64
    )[0]
    # w_t = -u w_x - v w_y; of the wave itself psi = wave / 25, v = -psi_x, and of the shear w_y = -cos(y).
    u = -torch.cos(x)[None, :]
    wave_x = -5e-4 * torch.sin(5 * x)[:, None]
    v = -wave_x / 25
    expected = -u * wave_x - v * -torch.cos(x)[None, :]
    torch.testing.assert_close((after - start) / dt, expected, rtol=0, atol=2e-6)


def test_energy_and_enstrophy_decay_and_the_mean_stays_zero():
    frames = solve_navier_stokes(
        random_vorticity(3, 64) + 0.7, torch.tensor([0.003, 0.01, 0.03]), dt=0.25, num_frames=8, steps_per_frame=6,
        num_output=64,
    )  # fmt: skip
    assert frames.mean((-2, -1)).abs().max() < 1e-14
    assert (energy(frames).diff(dim=1) < 0).all()
    assert (frames.square().mean((-2, -1)).diff(dim=1) < 0).all()


def test_without_viscosity_energy_and_enstrophy_are_conserved():
    frames = solve_navier_stokes(
        random_vorticity(2, 64), torch.zeros(2), dt=0.25, num_frames=3, steps_per_frame=25, num_output=64
    )
    for quantity in (energy(frames), frames.square().mean((-2, -1))):
        torch.testing.assert_close(quantity, quantity[:, :1].expand(2, 3), rtol=1e-6, atol=0)


def test_time_stepping_is_of_fourth_order():
    start, nu = random_vorticity(1, 32), torch.tensor([0.01])

    def end(steps):
        return solve_navier_stokes(start, nu, dt=0.5, num_frames=2, steps_per_frame=steps, num_output=32)[0, 1]

    reference = end(256)
    errors = [(end(steps) - reference).abs().max().item() for steps in (16, 32)]
    assert 3.6 < math.log2(errors[0] / errors[1]) < 4.4


def test_truncation_keeps_the_modes_below_the_output_grid():
    start = random_vorticity(1, 64)
    frames = solve_navier_stokes(start, torch.zeros(1), dt=0.1, num_frames=2, steps_per_frame=1, num_output=32)
    torch.testing.assert_close(frames[:, 0], start[:, ::2, ::2], rtol=0, atol=1e-12)


def test_a_driven_flow_settles_where_drag_and_viscosity_balance_it():
    nu, drag, size = 0.1, 0.05, 32
    x = torch.arange(size, dtype=torch.float64) * (LENGTH / size)
    force = torch.cos(2 * x).expand(1, size, size)
    frames = solve_navier_stokes(
        torch.zeros(1, size, size), torch.tensor([nu]), dt=1.0, num_frames=4, steps_per_frame=20, num_output=size,
        drag_b=torch.tensor([drag]), forcing_bxy=force,
    )  # fmt: skip
    rate = 4 * nu + drag
    for frame in range(4):
        expected = force[0] * (1 - math.exp(-rate * frame)) / rate
        torch.testing.assert_close(frames[0, frame], expected, rtol=0, atol=1e-6)


def taylor_green(size):
    """Taylor and Green's start, on [0, 2 pi)^3."""
    x = torch.arange(size, dtype=torch.float64) * (LENGTH / size)
    xx, yy, zz = torch.meshgrid(x, x, x, indexing="ij")
    u = torch.sin(xx) * torch.cos(yy) * torch.cos(zz)
    return torch.stack((u, -torch.cos(xx) * torch.sin(yy) * torch.cos(zz), torch.zeros_like(u)))[None]


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_in_three_dimensions_a_flat_vortex_decays_exactly_whichever_way_it_lies(turn):
    size = 12
    x = torch.arange(size, dtype=torch.float64) * (LENGTH / size)
    xx, yy, zz = torch.meshgrid(x, x, x, indexing="ij")
    flat = torch.stack((torch.cos(xx) * torch.sin(yy), -torch.sin(xx) * torch.cos(yy), torch.zeros_like(zz)))
    start = flat.roll(turn, 0).permute(0, *(1 + (axis - turn) % 3 for axis in range(3)))[None]
    frames = solve_navier_stokes_3d(
        start, torch.tensor([0.05], dtype=torch.float64), dt=0.5, num_frames=3, steps_per_frame=10, num_output=size
    )
    for frame in range(3):
        torch.testing.assert_close(frames[0, frame], start[0] * math.exp(-0.05 * frame), rtol=0, atol=1e-9)


def test_three_dimensional_budgets_and_order():
    start, axes = taylor_green(24), (-3, -2, -1)

    def run(nu, steps, num_frames=2, dt=0.8, num_output=24):
        return solve_navier_stokes_3d(
            start, torch.tensor([nu]), dt=dt, num_frames=num_frames, steps_per_frame=steps, num_output=num_output
        )[0]

    energy = run(0.0, 40).square().sum(1).mean(axes) / 2
    assert abs(energy[1] / energy[0] - 1) < 1e-8
    # d/dt energy = - 2 nu enstrophy, from the curl of the frames
    nu = 0.05
    frames = run(nu, 4, num_frames=9, dt=0.1)
    k = wavenumbers(24, LENGTH, half=False, device="cpu")
    wave = torch.stack(torch.meshgrid(k, k, k, indexing="ij"))
    spectrum = torch.fft.fftn(frames, dim=axes)
    curl = torch.fft.ifftn(torch.linalg.cross(1j * wave.expand_as(spectrum), spectrum, dim=1), dim=axes).real
    energy, enstrophy = (field.square().sum(1).mean(axes) / 2 for field in (frames, curl))
    spent = torch.cumulative_trapezoid(2 * nu * enstrophy, dx=0.1)
    torch.testing.assert_close(energy[0] - energy[1:], spent, rtol=2e-3, atol=0)
    divergence = torch.fft.ifftn((1j * wave * spectrum).sum(1), dim=axes).real
    assert divergence.abs().max() < 1e-12
    assert enstrophy[-1] / energy[-1] > enstrophy[0] / energy[0], "vortices are stretched"

    reference = run(0.02, 64)[1]
    errors = [(run(0.02, steps)[1] - reference).abs().max().item() for steps in (4, 8)]
    assert 3.6 < math.log2(errors[0] / errors[1]) < 4.4
    torch.testing.assert_close(run(0.02, 4, num_output=12)[0], start[0][:, ::2, ::2, ::2], rtol=0, atol=1e-12)
