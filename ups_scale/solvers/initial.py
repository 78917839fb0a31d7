"""Random smooth initial conditions, drawn in numpy from one generator per trajectory: the same on every device.

What is drawn does not depend on the grid it is evaluated on. All arrays are float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def with_rms(field: np.ndarray, rms: float) -> np.ndarray:
    """`field` scaled to the given root mean square."""
    return field * (rms / math.sqrt(float(np.mean(field**2))))


def sinusoids(rng: np.random.Generator, num_points: int, *, num_modes: int, max_wavenumber: int) -> np.ndarray:
    """A sum of sines on [0, 1) with period 1, zero mean: (num_points,).

    Wavenumbers are integers from 1 to `max_wavenumber`, amplitudes uniform in [0, 1), phases uniform: PDEBench's
    initial condition (arXiv 2210.07182, appendix D.1) without its windows and absolute values.
    """
    wavenumber = rng.integers(1, max_wavenumber + 1, num_modes)
    amplitude = rng.uniform(0, 1, num_modes)
    phase = rng.uniform(0, 2 * math.pi, num_modes)
    x = np.arange(num_points) / num_points
    return (amplitude[:, None] * np.sin(2 * math.pi * wavenumber[:, None] * x + phase[:, None])).sum(0)


def periodic_band(
    rng: np.random.Generator, num_points: int, *, low: float, high: float, centred: bool = False
) -> np.ndarray:
    """A Gaussian random field on a periodic square, zero mean: (num_points, num_points), axes (X, Y).

    White in the ring low <= |m| <= high of integer wave vectors m, nothing outside. At i / num_points of the square, or
    where `centred` half a cell further.
    """
    top = math.floor(high)
    drawn = rng.standard_normal((2, 2 * top + 1, top + 1))
    m_x, m_y = np.arange(-top, top + 1)[:, None], np.arange(top + 1)[None, :]
    radius = np.hypot(m_x, m_y)
    ring = (radius >= low) & (radius <= high) & ((m_y > 0) | (m_x > 0))
    spectrum = np.zeros((num_points, num_points // 2 + 1), np.complex128)
    spectrum[m_x % num_points, m_y] = ring * (drawn[0] + 1j * drawn[1])
    # On the plane m_y = 0 a real field's coefficients come in conjugate pairs.
    spectrum[-np.arange(1, top + 1) % num_points, 0] = np.conj(spectrum[np.arange(1, top + 1), 0])
    if centred:
        spectrum[m_x % num_points, m_y] *= np.exp(1j * math.pi * (m_x + m_y) / num_points)
    return np.fft.irfft2(spectrum, s=(num_points, num_points)) * num_points**2


def cosine_band(rng: np.random.Generator, num_points: int, *, high: int) -> np.ndarray:
    """A Gaussian random field of cosine modes with no slope at the square's edges: (num_points, num_points).

    Modes (m, n) with m^2 + n^2 <= high^2, m half-waves along the edge, the mean included, at cell centres.
    """
    coefficient = rng.standard_normal((high + 1, high + 1))
    mode = np.arange(high + 1)
    coefficient *= mode[:, None] ** 2 + mode**2 <= high**2
    basis = np.cos(math.pi * mode[:, None] * (np.arange(num_points) + 0.5) / num_points)
    return basis.T @ coefficient @ basis


def solenoidal_waves(rng: np.random.Generator, num_points: int, *, num_waves: int, max_wavenumber: int) -> np.ndarray:
    """A sum of plane shear waves on a periodic cube, without divergence: (3, num_points, num_points, num_points)."""
    turn = 2 * math.pi * np.arange(num_points) / num_points
    field = np.zeros((3, num_points, num_points, num_points))
    for _ in range(num_waves):
        wave = rng.integers(-max_wavenumber, max_wavenumber + 1, 3)
        amplitude, phase = rng.standard_normal(3), rng.uniform(0, 2 * math.pi)
        if wave.any():
            amplitude = amplitude - wave * (amplitude @ wave) / (wave @ wave)
            angle = wave[0] * turn[:, None, None] + wave[1] * turn[:, None] + wave[2] * turn + phase
            field += amplitude[:, None, None, None] * np.sin(angle)
    return field


def distances(num_points: int, centre: np.ndarray, *, periodic: bool = False) -> np.ndarray:
    """(2, num_points, num_points): from `centre` to the cells' centres of the unit square, per axis."""
    x = (np.arange(num_points) + 0.5) / num_points
    apart = np.stack(np.meshgrid(x - centre[0], x - centre[1], indexing="ij"))
    return apart - np.round(apart) if periodic else apart


def disc(num_points: int, centre: np.ndarray, radius: float, *, edge: float, periodic: bool = False) -> np.ndarray:
    """1 inside, 0 outside, with a smooth edge about `edge` wide: (num_points, num_points) on the unit square."""
    inside = radius - np.hypot(*distances(num_points, centre, periodic=periodic))
    return (inside > 0).astype(np.float64) if edge == 0 else 0.5 * (1 + np.tanh(inside / edge))


def bump(num_points: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """A Gaussian of standard deviation `radius`, 1 at its centre: (num_points, num_points) on the unit square."""
    return np.exp(-0.5 * (distances(num_points, centre) ** 2).sum(0) / radius**2)


def obstacles(
    rng: np.random.Generator, num_points: int, shapes: str, *, keep_clear: Sequence[np.ndarray], margin: float
) -> np.ndarray:
    """One to three "discs" or "bars" at random in the unit square: (num_points, num_points) bool, cells whose centre is
    inside. What lies within `margin` of the points `keep_clear` is left free."""
    solid = np.zeros((num_points, num_points), bool)
    for _ in range(rng.integers(1, 4)):
        centre, size, angle = rng.uniform(0.2, 0.8, 2), rng.uniform(0.07, 0.13), rng.uniform(0, math.pi)
        apart = distances(num_points, centre)
        if shapes == "discs":
            solid |= np.hypot(*apart) < size
        elif shapes == "bars":
            along = apart[0] * math.cos(angle) + apart[1] * math.sin(angle)
            across = apart[1] * math.cos(angle) - apart[0] * math.sin(angle)
            solid |= (np.abs(along) < 2 * size) & (np.abs(across) < 0.5 * size)
        else:
            raise ValueError(f"shapes {shapes!r}: discs or bars")
    for point in keep_clear:
        solid &= np.hypot(*distances(num_points, point)) > margin
    return solid
