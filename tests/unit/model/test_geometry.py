"""What tells one domain from another: obstacles in a grid, or how points lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import FORCED, LINE, POINTS, TORUS, inputs, make

from ups_scale.model import geometry as geometries
from ups_scale.model.geometry import NUM_BUCKETS, NUM_FEATURES, Geometry

SHAPES = [((12,), (True,)), ((8, 6), (False, True)), ((8, 6), (True, True)), ((4, 6, 5), (False, True, False))]
DISC = replace(TORUS, name="disc_2d", masked=True)


def with_hole(size: tuple[int, ...], corner: tuple[int, ...], edge: int = 2) -> torch.Tensor:
    """(1, *size) bool, False in a cube at `corner`."""
    mask = torch.ones(1, *size, dtype=torch.bool)
    mask[(0, *(slice(start, start + edge) for start in corner))] = False
    return mask


@pytest.mark.parametrize(("grid", "periodic"), SHAPES)
def test_a_full_grid_has_no_geometry(grid: tuple[int, ...], periodic: tuple[bool, ...]) -> None:
    found = geometries.of_mask(torch.ones(2, *grid, dtype=torch.bool), periodic)
    assert found.features_bg.shape == (2, NUM_FEATURES)
    assert not found.features_bg.any()
    assert found.hash_b.tolist() == [0, 0]


@pytest.mark.parametrize(("grid", "periodic"), SHAPES)
def test_features_are_the_coefficients_of_the_empty_cells(grid: tuple[int, ...], periodic: tuple[bool, ...]) -> None:
    """Against sums over the cells, in float64."""
    mask = torch.rand(2, *grid, generator=torch.Generator().manual_seed(1)) > 0.3
    found = geometries.of_mask(mask, periodic).features_bg.reshape(2, *(4,) * 3)
    axes = torch.meshgrid(*((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in grid), indexing="ij")
    for number in range(4 ** len(grid)):
        wave = torch.ones(grid, dtype=torch.complex128)
        k = [number // 4**axis % 4 for axis in range(len(grid))]
        for n, x, wraps in zip(k, axes, periodic, strict=True):
            wave = wave * (torch.exp(2j * torch.pi * n * x) if wraps else torch.cos(torch.pi * n * x))
        mean = ((~mask).double() * wave).flatten(1).mean(dim=1)
        expected = (mean.abs() if any(periodic) else mean.real).float()
        torch.testing.assert_close(found[(slice(None), *k, *(0,) * (3 - len(k)))], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [(3, 0), (0, 2), (5, 4)])
def test_shifting_a_periodic_domain_changes_no_feature(shift: tuple[int, int]) -> None:
    mask = with_hole((16, 8), (3, 1)) & with_hole((16, 8), (9, 5))
    both = geometries.of_mask(mask, (True, True))
    moved = geometries.of_mask(mask.roll(shift, (1, 2)), (True, True))
    torch.testing.assert_close(moved.features_bg, both.features_bg, rtol=1e-5, atol=1e-6)
    place = torch.rand(1, 30, 2, generator=torch.Generator().manual_seed(2))
    points = geometries.of_points(place, (True, True))
    shifted = geometries.of_points((place + torch.tensor(shift) / 16) % 1, (True, True))
    torch.testing.assert_close(shifted.features_bg, points.features_bg, rtol=1e-4, atol=1e-5)
    assert both.features_bg[:, 1:].abs().max() > 1e-2
    assert points.features_bg[:, 1:].abs().max() > 1e-2


def test_where_the_domain_ends_the_place_of_an_obstacle_counts() -> None:
    """On the axis that ends alone, if the other is periodic."""
    mask = with_hole((16, 8), (3, 1))
    for periodic in ((False, False), (False, True)):
        here = geometries.of_mask(mask, periodic).features_bg
        assert (geometries.of_mask(mask.roll(4, 1), periodic).features_bg - here).abs().max() > 1e-2
        across = (geometries.of_mask(mask.roll(4, 2), periodic).features_bg - here).abs().max()
        assert (across < 1e-6) == periodic[1]


@pytest.mark.parametrize("periodic", [(True, True), (False, True), (False, False)])
def test_geometries_are_told_apart(periodic: tuple[bool, bool]) -> None:
    grid = (16, 8)
    one = with_hole(grid, (3, 1))
    others = {
        "moved": with_hole(grid, (4, 1)),
        "larger": with_hole(grid, (3, 1), edge=3),
        "two": one & with_hole(grid, (10, 4)),
        "elsewhere": with_hole(grid, (3, 1)).flip(1),
    }
    found = geometries.of_mask(one, periodic)
    again = geometries.of_mask(one.clone(), periodic)
    assert found.hash_b == again.hash_b > 0
    torch.testing.assert_close(found.features_bg, again.features_bg)
    hashes = {int(found.hash_b)} | {int(geometries.of_mask(mask, periodic).hash_b) for mask in others.values()}
    assert len(hashes) == 5
    for name in ("larger", "two"):
        different = geometries.of_mask(others[name], periodic).features_bg - found.features_bg
        assert different.abs().max() > 1e-2, name


def test_hashes_are_spread_over_the_buckets() -> None:
    """Of 1,000 obstacles in as many places nearly none have the same hash, and buckets are hit about evenly."""
    mask = torch.ones(961, 32, 32, dtype=torch.bool)
    for number in range(961):
        x, y = divmod(number, 31)
        mask[number, x : x + 2, y : y + 2] = False
    hash_b = geometries.of_mask(mask, (False, False)).hash_b
    assert len(hash_b.unique()) > 955
    # 961 balls in 1,024 urns leave about 1,024 (1 - exp(-961 / 1024)) = 623 with one or more.
    assert 560 < len((hash_b % NUM_BUCKETS).unique()) < 700


@pytest.mark.parametrize("periodic", [(True, True), (False, True), (False, False)])
def test_the_order_of_the_points_does_not_count_and_their_places_do(periodic: tuple[bool, bool]) -> None:
    generator = torch.Generator().manual_seed(3)
    place = torch.rand(2, 50, 2, generator=generator)
    found = geometries.of_points(place, periodic)
    order = torch.randperm(50, generator=generator)
    permuted = geometries.of_points(place[:, order], periodic)
    assert torch.equal(permuted.hash_b, found.hash_b)
    torch.testing.assert_close(permuted.features_bg, found.features_bg, rtol=1e-4, atol=1e-6)
    assert found.hash_b[0] != found.hash_b[1]
    for point in range(8):
        moved = place.clone()
        moved[0, point, point % 2] += 1e-4
        other = geometries.of_points(moved, periodic)
        assert other.hash_b[0] != found.hash_b[0]
        assert other.hash_b[1] == found.hash_b[1]
    squeezed = geometries.of_points(place * torch.tensor([0.5, 1.0]), periodic)
    assert (squeezed.features_bg - found.features_bg).abs().max() > 0.1


def test_points_without_a_value_are_no_points() -> None:
    place = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(4))
    mask = torch.arange(50)[None] < 30
    some, alone = geometries.of_points(place, (False, False), mask), geometries.of_points(place[:, :30], (False, False))
    assert torch.equal(some.hash_b, alone.hash_b)
    torch.testing.assert_close(some.features_bg[:, 1:], alone.features_bg[:, 1:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(some.features_bg[:, 0], torch.tensor([0.4]))  # the share without a value
    torch.testing.assert_close(alone.features_bg[:, 0], torch.zeros(1), rtol=0, atol=1e-6)


def test_meshes_of_different_sizes_of_one_domain_are_alike() -> None:
    """The features are means: a finer set of points in the same places is nearly the same geometry."""

    def mesh(size: int) -> torch.Tensor:
        axis = (torch.arange(size) + 0.5) / size
        return torch.cartesian_prod(axis, 0.3 * axis)[None]

    coarse, fine = (geometries.of_points(mesh(size), (False, False)).features_bg for size in (16, 32))
    assert (coarse - fine).abs().max() < 0.01 < coarse[:, 1:].abs().max()


# Through the model.


def masked_inputs(corner: tuple[int, int] = (3, 1)):
    u, name, parameters, dt = inputs(DISC)
    mask = with_hole(DISC.grid, corner).expand(3, 1, 1, *DISC.grid)
    return (u, name, parameters, dt, 2), mask


@pytest.mark.parametrize("condition", ["geometry", "geometry_hash"])
def test_the_condition_reaches_the_prediction(condition: str) -> None:
    use = {"geometry": True, "geometry_hash": condition == "geometry_hash"}
    model = make(specs=[DISC], trained=True, conditioning=use).eval()
    args, mask = masked_inputs()
    embedding = model.conditioner.geometry
    with torch.no_grad():
        if condition == "geometry_hash":  # of the two, only the hash is told
            embedding.weight.zero_()
        before = model(*args, mask_btcx=mask)
        (embedding.buckets if condition == "geometry_hash" else embedding.weight).zero_()
        assert (model(*args, mask_btcx=mask) - before).abs().max() > 1e-3


@pytest.mark.parametrize("spec", [POINTS, replace(FORCED, name="walls_2d")], ids=["points", "walls"])
def test_it_matters_how_the_domain_is_only_once_it_is_learned(spec) -> None:
    """The embedding starts at zero."""
    model = make(specs=[spec], trained=True, encoder="auto", decoder="auto").eval()
    u, *rest = inputs(spec)
    mask = torch.rand(3, 1, 1, *spec.grid, generator=torch.Generator().manual_seed(5)) > 0.2
    kind = {"mask_btcx": mask.expand(u.shape)}
    with torch.no_grad():
        learned = model(u, *rest, 1, **kind)
        model.conditioner.geometry.weight.zero_()
        new = model(u, *rest, 1, **kind)
        model.conditioner.use["geometry"] = False
        model.conditioner.geometry.null.zero_()
        hidden = model(u, *rest, 1, **kind)
    assert (learned - new).abs().max() > 1e-3
    torch.testing.assert_close(new, hidden)


def test_a_dropped_condition_is_the_learned_null() -> None:
    model = make(specs=[DISC], trained=True, conditioning={"dropout": 1.0})
    for condition in ("family", "parameters", "dt", "boundary", "extents", "scale"):
        model.conditioner.use[condition] = False
    embedding = model.conditioner.geometry
    args, mask = masked_inputs()

    def changes(weight: torch.nn.Parameter) -> bool:
        with torch.no_grad():
            before = model(*args, mask_btcx=mask)
            kept = weight.clone()
            weight.add_(1.0)
            after = model(*args, mask_btcx=mask)
            weight.copy_(kept)
        return bool((after - before).abs().max() > 1e-4)

    model.train()
    assert [changes(embedding.weight), changes(embedding.null)] == [False, True]
    model.eval()
    assert [changes(embedding.weight), changes(embedding.null)] == [True, False]


def test_a_family_without_geometry_is_told_nothing() -> None:
    """Nor is a grid whose mask hides nothing: as if there were no mask."""
    model = make(specs=[LINE, DISC], trained=True).eval()
    for spec, mask in ((LINE, None), (DISC, torch.ones(3, 1, 1, *DISC.grid, dtype=torch.bool))):
        u, *rest = inputs(spec)
        with torch.no_grad():
            before = model(u, *rest, 2, mask_btcx=mask)
            torch.testing.assert_close(model(u, *rest, 2), before)
            model.conditioner.geometry.weight.add_(1.0)
            torch.testing.assert_close(model(u, *rest, 2, mask_btcx=mask), before)


def test_a_model_without_the_condition_has_no_weights_for_it() -> None:
    model = make(specs=[DISC], conditioning={"geometry": False})
    assert not [name for name, _ in model.named_parameters() if name.startswith("conditioner.geometry")]
    args, mask = masked_inputs()
    with torch.no_grad():
        assert model(*args, mask_btcx=mask).shape == (3, 2, 1, *DISC.grid)


def test_it_runs_without_values() -> None:
    """FLOPs are counted on the meta device, where there are no masks; points have their places all the same."""
    with torch.device("meta"):
        place = torch.empty(2, 9, 2)
        mask = torch.empty(2, 4, 5, dtype=torch.bool)
        for found in (geometries.of_points(place, (False, True)), geometries.of_mask(mask, (True, False))):
            assert isinstance(found, Geometry)
            assert found.features_bg.shape == (2, NUM_FEATURES)
            assert found.hash_b.shape == (2,)
            assert found.features_bg.is_meta
