"""Random smooth initial conditions, drawn in numpy from one generator per trajectory: the same on every device.

What is drawn does not depend on the grid it is evaluated on. All arrays are float64.
"""

from __future__ import annotations

import math

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


def periodic_band(rng: np.random.Generator, num_points: int, *, low: float, high: float) -> np.ndarray:
    """A Gaussian random field on a periodic square, zero mean: (num_points, num_points), axes (X, Y).

    White in the ring low <= |m| <= high of integer wave vectors m, nothing outside.
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
