"""Transforms: bands and spectra against numpy's, and the spectral error worked out by hand."""

import math

import numpy as np
import pytest
import torch
from measured_specs import spec_of

from ups_scale.metrics.spectra import band_power, power_spectrum, quadrant_bands, spectral_error


def by_numpy(u, spec):
    """The power spectrum of all wavenumbers, of the field mirrored along the axes that are not periodic."""
    u = u.numpy()
    for axis, periodic in enumerate(spec.periodic):
        if not periodic:
            u = np.concatenate([u, np.flip(u, axis)], axis)
    power = np.abs(np.fft.fftn(u, norm="forward")) ** 2
    lengths = [high - low for low, high in spec.extents]
    cycles = [
        np.fft.fftfreq(points, length / grid) * max(lengths)
        for points, grid, length in zip(u.shape, spec.grid, lengths, strict=True)
    ]
    bins = np.round(np.sqrt(sum(k**2 for k in np.meshgrid(*cycles, indexing="ij")))).astype(int)
    return np.bincount(bins.ravel(), power.ravel())


@pytest.mark.parametrize("kinds", [("periodic", "periodic"), ("periodic", "wall"), ("wall", "periodic"), ("wall",) * 2])
@pytest.mark.parametrize("grid", [(12, 16), (9, 10)])
def test_spectra_are_those_of_the_mirrored_field(kinds, grid):
    spec = spec_of("acoustics_2d", grid, extents=((0.0, 1.0), (0.0, 2.0)), boundaries=tuple((k, k) for k in kinds))
    u = torch.randn(*grid, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = power_spectrum(u[None, None], spec)[0, 0].numpy()
    np.testing.assert_allclose(found, by_numpy(u, spec)[: len(found)], rtol=1e-10)


@pytest.mark.parametrize("grid", [(16,), (15,), (8, 9), (6, 4, 8)])
def test_bands_hold_all_power(grid):
    u = torch.randn(2, 3, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes = tuple(range(2, u.ndim))
    found = band_power(torch.fft.rfftn(u, dim=axes, norm="forward"), grid)
    torch.testing.assert_close(found.sum(-1), u.square().mean(axes), rtol=1e-12, atol=0)


def test_spectral_error_worked_out_by_hand():
    truth = torch.tensor([1.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    pred = torch.tensor([1.0, math.e, 1e-30, 2 * math.e**3], dtype=torch.float64)
    assert spectral_error(pred, truth).item() == pytest.approx((1 + 3) / 4)
    # No power counts as 1e-10 of the truth's.
    assert spectral_error(torch.zeros(4, dtype=torch.float64), truth).item() == pytest.approx(
        (2 * math.log(1 / 4e-10) + math.log(2 / 4e-10)) / 4
    )


def test_bands_that_a_grid_does_not_have_are_left_out():
    assert list(quadrant_bands(16)) == ["low", "mid", "high"]
    assert quadrant_bands(8) == {"low": range(4), "mid": range(4, 8)}
