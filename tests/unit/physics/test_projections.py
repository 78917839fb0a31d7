"""The Helmholtz-Hodge projection reaches zero divergence, changes nothing that has none, and is an orthogonal one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_models import PLANE, POINTS
from torch import Tensor

from ups_scale.errors import DataError
from ups_scale.physics.families import FamilySpec
from ups_scale.physics.projections import divergence, divergence_free, relative_divergence

ROUND, WALL, OPEN = ("periodic", "periodic"), ("wall", "wall"), ("open", "open")
SIZES, EXTENTS = (32, 20, 15), ((0.0, 1.0), (-1.0, 2.0), (0.0, 0.5))  # unequal spacings; an odd number of points
PERIODIC = [(ROUND, ROUND), (ROUND, ROUND, ROUND)]
BOUNDED = [
    (WALL, WALL),
    (("dirichlet", "open"), ("neumann", "robin")),
    (WALL, ROUND),
    (ROUND, WALL),
    (OPEN, ROUND, ("wall", "neumann")),
    (ROUND, ROUND, ("dirichlet", "dirichlet")),
]


def spec_of(sides, sizes=SIZES, extents=EXTENTS) -> FamilySpec:
    axes = len(sides)
    return FamilySpec(
        name="flow", fields=tuple("uvw"[:axes]), units=("m/s",) * axes, parameters=(), grid=tuple(sizes[:axes]),
        extents=tuple(extents[:axes]), boundaries=tuple(sides), u_rms=(1.0,) * axes, delta_rms=(0.1,) * axes, dt=0.1,
    )  # fmt: skip


def random(spec: FamilySpec, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, len(spec.grid), *spec.grid, generator=generator, dtype=torch.float64).to(dtype)


def places(spec: FamilySpec) -> list[Tensor]:
    """Cell centres along each axis, as parts of the domain."""
    axes = [(torch.arange(size, dtype=torch.float64) + 0.5) / size for size in spec.grid]
    return list(torch.meshgrid(*axes, indexing="ij"))


def rms(u: Tensor) -> float:
    return float(u.square().mean().sqrt())


def names(cases) -> list[str]:
    return ["-".join(low if low == high else f"{low}.{high}" for low, high in sides) for sides in cases]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("sides", PERIODIC, ids=names(PERIODIC))
def test_on_periodic_grids_no_divergence_is_left_and_the_mean_flow_stays(sides, dtype, most) -> None:
    spec = spec_of(sides)
    u = random(spec, dtype) + 3.0
    found = divergence_free(u, spec)
    assert found.dtype == dtype
    assert relative_divergence(u, spec).min() > 1
    assert relative_divergence(found, spec).max() <= most
    torch.testing.assert_close(found.flatten(2).mean(2), u.flatten(2).mean(2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-3), (torch.float64, 1e-10)])
@pytest.mark.parametrize("sides", BOUNDED, ids=names(BOUNDED))
def test_on_bounded_grids_no_divergence_is_left(sides, dtype, most) -> None:
    spec = spec_of(sides)
    u = random(spec, dtype)
    assert relative_divergence(u, spec).min() > 1
    assert relative_divergence(divergence_free(u, spec), spec).max() <= most


@pytest.mark.parametrize("sides", [*PERIODIC, *BOUNDED], ids=names([*PERIODIC, *BOUNDED]))
def test_it_is_an_orthogonal_projection(sides) -> None:
    """Again, it changes nothing; what it takes out is at right angles to what it leaves."""
    spec = spec_of(sides)
    u = random(spec)
    once = divergence_free(u, spec)
    assert rms(divergence_free(once, spec) - once) <= 1e-12 * rms(once)
    assert abs(float(((u - once) * once).mean())) <= 1e-12 * rms(u) ** 2
    assert 0.1 < rms(u - once) < rms(u)


@pytest.mark.parametrize("sides", [(ROUND, ROUND), (WALL, WALL)], ids=str)
def test_taylor_green_vortices_stay(sides) -> None:
    """Streamlines along the walls; as many waves and points along both axes, so that differences cancel as well."""
    spec = spec_of(sides, (32, 32), ((0.0, 1.0), (0.0, 1.0)))
    x, y = (2 * math.pi * of for of in places(spec))
    u = torch.stack([x.sin() * y.cos(), -x.cos() * y.sin()])[None]
    assert relative_divergence(u, spec).max() <= 1e-12
    assert rms(divergence_free(u.float(), spec) - u) <= 1e-5 * rms(u)


@pytest.mark.parametrize(("sides", "stays"), [((ROUND, WALL), True), ((OPEN, ROUND), True), ((WALL, WALL), False)])
def test_a_shear_flow_stays_unless_it_runs_into_walls(sides, stays: bool) -> None:
    spec = spec_of(sides)
    x, y = (2 * math.pi * of for of in places(spec))
    u = torch.stack([y.sin(), 0 * x])[None]
    changed = rms(divergence_free(u.float(), spec) - u) / rms(u)
    assert changed <= 1e-5 if stays else changed > 0.05


@pytest.mark.parametrize("three", [False, True])
def test_an_analytic_curl_of_random_waves_stays_on_periodic_grids(three: bool) -> None:
    spec = spec_of((ROUND,) * (3 if three else 2))
    lengths = [high - low for low, high in spec.extents]
    x = places(spec)
    generator = torch.Generator().manual_seed(1)
    u = torch.zeros(1, len(x), *spec.grid, dtype=torch.float64)
    for _ in range(6):
        waves = torch.randint(-3, 4, (len(x),), generator=generator).double()
        k = 2 * math.pi * waves / torch.tensor(lengths, dtype=torch.float64)
        drawn = torch.randn(3, generator=generator, dtype=torch.float64)
        across = torch.linalg.cross(k, drawn) if three else torch.stack([k[1], -k[0]])
        phase = sum(2 * math.pi * number * of for number, of in zip(waves, x, strict=True)) + float(drawn[0])
        u += across.reshape(1, -1, *(1,) * len(x)) * phase.sin()
    assert rms(u) > 1
    for dtype in (torch.float32, torch.float64):
        assert rms(divergence_free(u.to(dtype), spec) - u) <= 1e-5 * rms(u)


@pytest.mark.parametrize("sides", [sides for sides in BOUNDED if len(sides) == 2], ids=str)
def test_a_discrete_curl_of_a_random_potential_stays_on_bounded_grids(sides) -> None:
    """Differences along different axes commute, so D_x D_y psi - D_y D_x psi is zero."""
    spec = spec_of(sides)
    psi = torch.randn(1, *spec.grid, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    none = torch.zeros_like(psi)
    u = torch.stack([divergence(torch.stack([none, psi], 1), spec), -divergence(torch.stack([psi, none], 1), spec)], 1)
    assert rms(u) > 1
    assert rms(divergence_free(u.float(), spec) - u) <= 1e-5 * rms(u)


def test_divergence_of_known_fields() -> None:
    """The spectral derivative is exact; central differences are of second order up to a wall that the flow stops at."""
    spec = spec_of((ROUND, ROUND))
    x, y = (2 * math.pi * of for of in places(spec))
    u = torch.stack([(3 * x).sin() * y.cos(), (2 * y).cos()])[None]
    expected = 6 * math.pi * (3 * x).cos() * y.cos() - 4 * math.pi / 3 * (2 * y).sin()
    torch.testing.assert_close(divergence(u, spec)[0], expected, rtol=0, atol=1e-10)
    errors = []
    for size in (16, 32, 64):
        walled = spec_of((WALL, OPEN), (size, 8), ((0.0, 1.0), (0.0, 1.0)))
        x, _ = places(walled)
        u = torch.stack([(math.pi * x).sin(), torch.ones_like(x)])[None]
        errors.append(rms(divergence(u, walled)[0] - math.pi * (math.pi * x).cos()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_relative_divergence_is_rms_times_the_longest_side_over_rms() -> None:
    spec = spec_of((ROUND, ROUND))
    x, _ = (2 * math.pi * of for of in places(spec))
    u = torch.stack([x.sin(), torch.zeros_like(x)])[None]
    # RMS(div) is 2 pi times that of u_x; RMS(u) over both components, so sqrt(2) smaller; the longest side is 3.
    torch.testing.assert_close(relative_divergence(u, spec), torch.tensor([2 * math.pi * 3 * math.sqrt(2)]).double())
    assert float(relative_divergence(0 * u, spec)) == 0


def test_a_diverged_sample_leaves_the_others_alone() -> None:
    spec = spec_of((WALL, ROUND))
    u = random(spec)
    expected = divergence_free(u, spec)
    u[0, 0, 3, 3] = math.nan
    found = divergence_free(u, spec)
    assert not found[0].isfinite().all()
    torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize("spec", [POINTS, replace(PLANE, masked=True), PLANE], ids=["points", "masked", "shape"])
def test_what_has_no_divergence_is_refused(spec) -> None:
    with pytest.raises(DataError, match="the divergence needs the velocity's components at every cell of a grid"):
        divergence(torch.zeros(1, len(spec.extents) + (spec is PLANE), *spec.grid), spec)
