"""How far predictions leave the physics: the conservation gap, and power spectra.

Dimensions: b trajectory, h step, c field, x space, k wavenumber bin.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ups_scale.physics.families import FamilySpec
from ups_scale.physics.invariants import DENSITIES, domain_integral


def conservation_gap(pred_bhcx: Tensor, last_bcx: Tensor, invariant: str, spec: FamilySpec) -> Tensor:
    """|Q(t) - Q(0)| / max(|Q(0)|, ||q(0)||_L1), (B, H, C) float64, with Q the integral of the density q of `invariant`.

    Time 0 is the last given frame, `last_bcx` (B, C, *X). Ask `physics.invariants.conserved(spec)` which invariants
    hold: for any other the figure means nothing. A field that is zero and stays so has gap 0. Of grids only.
    """
    assert spec.geometry == "grid", "scattered points have no cells to integrate over"
    density = DENSITIES[invariant]
    q0 = density(last_bcx.double())
    initial = domain_integral(q0, spec.extents)
    scale = torch.maximum(initial.abs(), domain_integral(q0.abs(), spec.extents))
    drift = (domain_integral(density(pred_bhcx.double()), spec.extents) - initial[:, None]).abs()
    return torch.where(drift == 0, 0.0, drift / scale[:, None])


def power_spectrum(u_bcx: Tensor, spec: FamilySpec) -> Tensor:
    """Power per radial wavenumber bin, (B, C, K) float64; the sum over all wavenumbers is mean_x u^2.

    Bin k holds the wavenumbers that round to k cycles per longest side of the domain, up to the coarsest axis' Nyquist
    wavenumber. Axes that are not periodic are mirrored first, so that the jump at their ends doesn't leak into every
    bin. Fields need a value at every point: the border of a filled hole would stand in every bin. Of grids only.
    """
    assert spec.geometry == "grid", "scattered points have no Fourier transform"
    lengths = [high - low for low, high in spec.extents]
    u = u_bcx.double()
    cycles = []
    for axis, (points, length, periodic) in enumerate(zip(spec.grid, lengths, spec.periodic, strict=True)):
        if not periodic:
            u = torch.cat([u, u.flip(2 + axis)], dim=2 + axis)
        cycles.append(
            torch.fft.fftfreq(u.shape[2 + axis], d=length / points, dtype=torch.float64, device=u.device) * max(lengths)
        )
    axes = tuple(range(2, u.dim()))
    power = torch.fft.fftn(u, dim=axes, norm="forward").abs().square().flatten(2)
    radius = sum(k.square() for k in torch.meshgrid(*cycles, indexing="ij"))
    assert isinstance(radius, Tensor)
    bins = radius.sqrt().round().long().flatten()
    num_bins = int(min(points / 2 * max(lengths) / length for points, length in zip(spec.grid, lengths, strict=True)))
    kept = bins < num_bins
    spectrum = power.new_zeros(*power.shape[:2], num_bins)
    return spectrum.index_add_(2, bins[kept], power[..., kept])
