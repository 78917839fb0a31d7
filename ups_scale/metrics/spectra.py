"""Figures in Fourier space: power spectra, and errors per band of wavenumbers.

Real transforms hold half of all wavenumbers; sums over all quadrants count the other half too (`copies`).

Dimensions: x space (cells of a uniform grid), k wavenumber bin; functions take any dimensions before x. Everything is
float64: a prediction's error in the high band may be 1e-7 of its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ups_scale.physics.families import FamilySpec

BANDS = {"low": (0, 4), "mid": (4, 12), "high": (12, None)}
"""Wavenumbers in cycles per side, the last one excluded: PDEBench's bands."""
POWER_FLOOR = 1e-10
"""Of the truth's power: a bin that holds less counts as holding this. Float32 leaves about 1e-14 in every bin."""


@dataclass(frozen=True)
class Modes:
    """The wavenumbers of a real FFT over the last axes of a grid.

    Attributes:
        cycles: per axis, cycles per side, shaped to broadcast over the transform.
        copies: how many of all the wavenumbers each stands for, 1 or 2, over the last axis.
        shell: floor of the radius, in cycles per side, (modes,).
        bands: (modes, 3), `copies` of those in each of `BANDS`.
        quadrant: which modes PDEBench sums, and `quadrant_shell` theirs.
    """

    cycles: tuple[Tensor, ...]
    copies: Tensor
    shell: Tensor
    bands: Tensor
    quadrant: Tensor
    quadrant_shell: Tensor
    num_shells: int


def modes(grid: Sequence[int], device: torch.device) -> Modes:
    """The modes of a grid; made once."""
    return _modes(tuple(grid), device)


@lru_cache(maxsize=64)
def _modes(grid: tuple[int, ...], device: torch.device) -> Modes:
    with torch.inference_mode(False):
        axes = len(grid)
        of = [torch.fft.fftfreq if axis < axes - 1 else torch.fft.rfftfreq for axis in range(axes)]
        cycles = tuple(
            frequencies(points, 1 / points, dtype=torch.float64, device=device).view(-1, *(1,) * (axes - 1 - axis))
            for axis, (frequencies, points) in enumerate(zip(of, grid, strict=True))
        )
        alone = (cycles[-1] == 0) | (2 * cycles[-1] == grid[-1])
        copies = torch.where(alone, 1.0, 2.0).double()
        radius = torch.stack([k.expand(torch.broadcast_shapes(*(k.shape for k in cycles))) for k in cycles])
        shell = radius.square().sum(0).sqrt().floor().long()
        inside = {name: (shell >= low) & (shell < (high or shell.max() + 1)) for name, (low, high) in BANDS.items()}
        bands = torch.stack([(where * copies).flatten() for where in inside.values()], dim=-1)
        # In one dimension PDEBench takes all of a real FFT, Nyquist's wavenumber too; in more, what is below it.
        num_shells = min(grid) // 2 + (axes == 1)
        kept = shell < num_shells
        if axes > 1:
            for k, points in zip(cycles, grid, strict=True):
                kept = kept & (k >= 0) & (k < points // 2)
        quadrant = kept.flatten().nonzero()[:, 0]
        shell = shell.flatten()
        return Modes(cycles, copies, shell, bands, quadrant, shell[quadrant], num_shells)


def power_spectrum(u_x: Tensor, spec: FamilySpec) -> Tensor:
    """Power per radial wavenumber bin, (..., K) float64; the sum over all wavenumbers is mean_x u^2.

    Bin k holds the wavenumbers that round to k cycles per longest side of the domain, up to the coarsest axis' Nyquist
    wavenumber. Axes that are not periodic are mirrored first, so that the jump at their ends doesn't leak into every
    bin. Fields need a value at every point: the border of a filled hole would stand in every bin. Of grids only.
    """
    return binned(transformed(u_x, spec), spec)


def power_of(transform: Tensor) -> Tensor:
    """|F|^2, without the root that `abs` would take."""
    return torch.view_as_real(transform).square().sum(-1) if transform.is_complex() else transform.square()


def transformed(u_x: Tensor, spec: FamilySpec) -> Tensor:
    """The Fourier transform (norm "forward") of a field along its periodic axes, real along the last of them, and of
    its mirrored continuation along the others: cosines, wavenumbers in half cycles, without the phase."""
    assert spec.geometry == "grid", "scattered points have no Fourier transform"
    u, turning = u_x.double(), []
    for axis, periodic in enumerate(spec.periodic):
        dim = axis - spec.dimensions
        if periodic:
            turning.append(dim)
        else:  # a quarter of the work of a transform of the mirrored field, for each such pair of axes
            u = (u.movedim(dim, -1) @ _cosines(u.shape[dim], u.device)).movedim(-1, dim)
    return torch.fft.rfftn(u, dim=turning, norm="forward") if turning else u


@lru_cache(maxsize=64)
def _cosines(points: int, device: torch.device) -> Tensor:
    """(N, N): column k is cos(pi k (n + 1/2) / N) / N."""
    with torch.inference_mode(False):
        n = torch.arange(points, dtype=torch.float64, device=device)
        return torch.cos(torch.pi * (n[:, None] + 0.5) * n / points) / points


def binned(transform: Tensor, spec: FamilySpec) -> Tensor:
    """The power spectrum of a field from what `transformed` gives of it."""
    bins, copies, order, num_bins = _bins(spec.grid, spec.extents, spec.periodic, transform.device)
    power = power_of(transform).flatten(-spec.dimensions)[..., order] * copies
    return power.new_zeros(*power.shape[:-1], num_bins).index_add_(-1, bins, power)


@lru_cache(maxsize=64)
def _bins(
    grid: tuple[int, ...],
    extents: tuple[tuple[float, float], ...],
    periodic: tuple[bool, ...],
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """The bins of the modes that have one, their copies, which modes they are, and how many bins there are."""
    lengths = [high - low for low, high in extents]
    halved = max((axis for axis, turns in enumerate(periodic) if turns), default=None)
    with torch.inference_mode(False):
        cycles, copies = [], []
        for axis, (points, length, turns) in enumerate(zip(grid, lengths, periodic, strict=True)):
            if not turns:
                k = torch.arange(points, dtype=torch.float64, device=device) / 2
                alone = k == 0
            elif axis == halved:
                k = torch.fft.rfftfreq(points, 1 / points, dtype=torch.float64, device=device)
                alone = (k == 0) | (2 * k == points)
            else:
                k = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64, device=device)
                alone = torch.ones_like(k, dtype=torch.bool)
            cycles.append(k * (max(lengths) / length))
            copies.append(torch.where(alone, 1.0, 2.0).double())
        bins = torch.stack(torch.meshgrid(*cycles, indexing="ij")).square().sum(0).sqrt().round().long().flatten()
        of_mode = torch.stack(torch.meshgrid(*copies, indexing="ij")).prod(0).flatten()
        num_bins = int(min(points / 2 * max(lengths) / length for points, length in zip(grid, lengths, strict=True)))
        order = (bins < num_bins).nonzero()[:, 0]
        return bins[order], of_mode[order], order, num_bins


def spectral_error(of_pred: Tensor, of_truth: Tensor) -> Tensor:
    """mean over bins of |log E_p(k) - log E_y(k)|, (...) from power spectra (..., K).

    Bins below `POWER_FLOOR` times the truth's power, in either, count as holding that: what rounding leaves in empty
    bins is no spectrum.
    """
    floor = of_truth.sum(-1, keepdim=True) * POWER_FLOOR
    return (torch.maximum(of_pred, floor).log() - torch.maximum(of_truth, floor).log()).abs().mean(-1)


def band_power(transform: Tensor, grid: Sequence[int]) -> Tensor:
    """sum over all wavenumbers of each of `BANDS` of |F|^2, (..., 3), of a real FFT (norm "forward") over `grid`.

    The three add up to mean_x u^2.
    """
    return power_of(transform).flatten(-len(grid)) @ modes(grid, transform.device).bands


def quadrant_power(transform: Tensor, grid: Sequence[int]) -> Tensor:
    """|F|^2 summed over each shell of PDEBench's quadrant, (..., shells), of a real FFT (norm "forward") over `grid`.

    Only wavenumbers from 0 along every axis: a quarter of all in 2D. Source: PDEBench, arXiv 2210.07182, appendix B.
    """
    wave = modes(grid, transform.device)
    power = power_of(transform).flatten(-len(grid))[..., wave.quadrant]
    return power.new_zeros(*power.shape[:-1], wave.num_shells).index_add_(-1, wave.quadrant_shell, power)


def quadrant_bands(num_shells: int) -> dict[str, range]:
    """The shells of `quadrant_power` of each band; bands beyond the grid are left out."""
    found = {name: range(low, min(high or num_shells, num_shells)) for name, (low, high) in BANDS.items()}
    return {name: shells for name, shells in found.items() if len(shells)}
