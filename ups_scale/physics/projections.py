"""The divergence of a velocity, and the nearest velocity that has none: the Helmholtz-Hodge projection.

The projection is the orthogonal one, u - D^T (D D^T)^+ D u, of the discrete divergence D u = sum_a D_a u_a with a
matrix D_a per axis, so that D of what it returns vanishes (Chorin, Math. Comp. 22 (1968) 745, the discrete form).
D D^T is the sum of one matrix per axis, each acting along its own, and is inverted by their eigenvectors (Lynch, Rice &
Thomas, Numer. Math. 6 (1964) 185): a Fourier transform on periodic axes, a dense n x n matrix on bounded ones.

Fields lie in the centres of cells. D_a is the Fourier derivative on a periodic axis, where the highest wavenumber of an
even number of points has none; on a bounded axis it is the central difference, with the value beyond a side that of
the cell within: with the other sign at a wall or a Dirichlet side, the same at a Neumann, Robin or open one.

Dimensions in names: b sample, d component (one per axis), x space axes, k modes: wavenumbers on periodic axes, cells on
bounded ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ups_scale.errors import DataError
from ups_scale.physics.families import FamilySpec

ODD_SIDES = ("dirichlet", "wall")
NULL_SHARE = 1e-12
"""Eigenvalues of D D^T below this share of the largest one are those of its null space, zero up to rounding."""


def divergence(u_bdx: Tensor, spec: FamilySpec) -> Tensor:
    """(B, *X) float64, the divergence of velocities in their unit per unit of length.

    Args:
        u_bdx: (B, D, *X) the components in the order of the axes, of the grid and sides of `spec`.

    Raises:
        DataError: they aren't on such a grid.
    """
    operators = _operators_for(u_bdx, spec)
    return operators.from_modes(operators.divergence(operators.to_modes(u_bdx.double())))


def relative_divergence(u_bdx: Tensor, spec: FamilySpec) -> Tensor:
    """(B,) float64, RMS(div u) L / RMS(u), with L the longest side of the domain and RMS(u) over all components; 0 of a
    flow at rest. Raises as `divergence`."""
    rms_b = u_bdx.double().flatten(1).square().mean(dim=1).sqrt()
    found_b = divergence(u_bdx, spec).flatten(1).square().mean(dim=1).sqrt()
    length = max(high - low for low, high in spec.extents)
    return torch.where(rms_b == 0, 0.0, found_b * length / rms_b)


def divergence_free(u_bdx: Tensor, spec: FamilySpec) -> Tensor:
    """(B, D, *X) of the input's dtype: the velocities without divergence that are nearest to those given.

    Computed in float64. Without change are what has no divergence, and so the mean flow along a periodic axis; a sample
    that isn't finite has no finite projection. Arguments and errors as of `divergence`.
    """
    operators = _operators_for(u_bdx, spec)
    u_bdk = operators.to_modes(u_bdx.double())
    potential_bk = operators.solve(operators.divergence(u_bdk))
    return operators.from_modes(u_bdk - operators.transposed(potential_bk)).to(u_bdx.dtype)


@dataclass(frozen=True)
class Operators:
    """D, its transpose and (D D^T)^+ of one grid, on modes.

    Attributes:
        sizes: points per axis.
        wavenumbers: per axis, those of a periodic one, of the shape that multiplies modes (*K); None: it is bounded.
        differences: per axis, (n, n) of a bounded one; None: it is periodic.
        vectors: per axis, the eigenvectors (n, n) of D_a D_a^T of a bounded one; None: it is periodic.
        inverse_k: the pseudo-inverse of D D^T in the basis of its eigenvectors.
    """

    sizes: tuple[int, ...]
    wavenumbers: tuple[Tensor | None, ...]
    differences: tuple[Tensor | None, ...]
    vectors: tuple[Tensor | None, ...]
    inverse_k: Tensor

    @property
    def _periodic(self) -> list[int]:
        """The periodic axes, counted from the last, as those of modes of any number of leading axes."""
        return [axis - len(self.sizes) for axis, k in enumerate(self.wavenumbers) if k is not None]

    def to_modes(self, u_x: Tensor) -> Tensor:
        """Fourier modes along the periodic axes, halved along the last of them."""
        return torch.fft.rfftn(u_x, dim=self._periodic) if self._periodic else u_x

    def from_modes(self, u_k: Tensor) -> Tensor:
        """The inverse of `to_modes`."""
        sizes = [self.sizes[axis] for axis in self._periodic]
        return torch.fft.irfftn(u_k, s=sizes, dim=self._periodic) if sizes else u_k

    def divergence(self, u_bdk: Tensor) -> Tensor:
        """D u, (B, *K)."""
        return torch.stack([self._along(u_bdk[:, axis], axis) for axis in range(len(self.sizes))]).sum(dim=0)

    def transposed(self, p_bk: Tensor) -> Tensor:
        """D^T p, (B, D, *K)."""
        return torch.stack([self._along(p_bk, axis, transpose=True) for axis in range(len(self.sizes))], dim=1)

    def solve(self, p_bk: Tensor) -> Tensor:
        """(D D^T)^+ p, (B, *K)."""
        for axis, vectors in enumerate(self.vectors):
            p_bk = p_bk if vectors is None else self._times(vectors.T, p_bk, axis)
        p_bk = p_bk * self.inverse_k
        for axis, vectors in enumerate(self.vectors):
            p_bk = p_bk if vectors is None else self._times(vectors, p_bk, axis)
        return p_bk

    def _along(self, f_bk: Tensor, axis: int, transpose: bool = False) -> Tensor:
        """D_a of one component, or its transpose: the adjoint of a Fourier derivative is its negative."""
        wavenumbers, difference = self.wavenumbers[axis], self.differences[axis]
        if wavenumbers is not None:
            return f_bk * (-1j * wavenumbers if transpose else 1j * wavenumbers)
        assert difference is not None
        return self._times(difference.T if transpose else difference, f_bk, axis)

    def _times(self, matrix: Tensor, f_bk: Tensor, axis: int) -> Tensor:
        place = axis - len(self.sizes)
        return (f_bk.movedim(place, -1) @ matrix.T.to(f_bk.dtype)).movedim(-1, place)


def _operators_for(u_bdx: Tensor, spec: FamilySpec) -> Operators:
    shape = (len(spec.extents), *spec.grid)
    if spec.geometry != "grid" or spec.masked or tuple(u_bdx.shape[1:]) != shape or not u_bdx.is_floating_point():
        kind = "scattered points" if spec.geometry != "grid" else "a grid with points without a value"
        found = kind if spec.geometry != "grid" or spec.masked else f"{u_bdx.dtype} of shape {tuple(u_bdx.shape)}"
        raise DataError(
            f"family {spec.name}: the divergence needs the velocity's components at every cell of a grid, floats of "
            f"shape (B, {', '.join(map(str, shape))}); found {found}"
        )
    return _operators(spec.grid, spec.extents, spec.boundaries, u_bdx.device)


@lru_cache(maxsize=16)
def _operators(
    grid: tuple[int, ...],
    extents: tuple[tuple[float, float], ...],
    boundaries: tuple[tuple[str, str], ...],
    device: torch.device,
) -> Operators:
    # Kept for later calls, so not inference tensors even if first made in inference mode.
    with torch.inference_mode(False):
        periodic = [sides == ("periodic", "periodic") for sides in boundaries]
        halved = max((axis for axis, wraps in enumerate(periodic) if wraps), default=None)
        wavenumbers: list[Tensor | None] = [None] * len(grid)
        differences: list[Tensor | None] = [None] * len(grid)
        vectors: list[Tensor | None] = [None] * len(grid)
        eigenvalues = []
        for axis, (size, (low, high), sides) in enumerate(zip(grid, extents, boundaries, strict=True)):
            shape = [-1 if other == axis else 1 for other in range(len(grid))]
            if periodic[axis]:
                k = _wavenumbers(size, high - low, halved=axis == halved)
                wavenumbers[axis] = k.reshape(shape).to(device)
                eigenvalues.append(k.square().reshape(shape))
                continue
            matrix = _central_difference(size, (high - low) / size, sides)
            left, singular, _ = torch.linalg.svd(matrix)
            differences[axis], vectors[axis] = matrix.to(device), left.to(device)
            eigenvalues.append(singular.square().reshape(shape))
        total_k = torch.as_tensor(sum(eigenvalues))
        inverse_k = torch.where(total_k > NULL_SHARE * total_k.max(), 1 / total_k, 0.0)
    return Operators(grid, tuple(wavenumbers), tuple(differences), tuple(vectors), inverse_k.to(device))


def _wavenumbers(size: int, length: float, halved: bool) -> Tensor:
    """(K,) float64 angular wavenumbers whose products with i are the Fourier derivative of real fields: that of an even
    number of points' highest one is zero, since its sine isn't seen on the grid."""
    frequencies = torch.fft.rfftfreq if halved else torch.fft.fftfreq
    k = 2 * math.pi * frequencies(size, d=length / size, dtype=torch.float64)
    if size % 2 == 0:
        k[size // 2] = 0.0
    return k


def _central_difference(size: int, spacing: float, sides: Sequence[str]) -> Tensor:
    """(n, n) float64; the value beyond a side is that of the cell within, negative at walls."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    inner = torch.arange(size - 1)
    matrix[inner, inner + 1] = 1.0
    matrix[inner + 1, inner] = -1.0
    low, high = (-1.0 if side in ODD_SIDES else 1.0 for side in sides)
    matrix[0, 0] -= low
    matrix[-1, -1] += high
    return matrix / (2 * spacing)
