from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ups_scale.errors import RecipeError
from ups_scale.model.attention import Attention, rotary_angles, rotate
from ups_scale.model.encoder import from_patches, to_patches
from ups_scale.model.lattice import Fit, Tiling, point_lattice, positions, tile, window_edge


def tiled(grid, smallest, tokens, periodic=True, fit=None) -> Tiling:
    return tile("waves_1d", grid, (periodic,) * len(grid), smallest, tokens, fit)


@pytest.mark.parametrize(
    ("grid", "smallest", "tokens", "patch"),
    [
        ((128,), 4, 64, (4,)),
        ((1024,), 4, 64, (16,)),
        ((32, 32), 4, 64, (4, 4)),
        ((128, 128), 4, 512, (8, 4)),
        ((256, 64), 4, 512, (8, 4)),
        ((2,), 4, 64, (2,)),
    ],
)
def test_the_patch_grows_until_the_tokens_fit(grid, smallest, tokens, patch) -> None:
    assert tiled(grid, smallest, tokens).patch == patch


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=3),
    st.integers(1, 9),
    st.sampled_from([1, 7, 64, 512, 1000]),
    st.booleans(),
    st.sampled_from([None, Fit(2, 8), Fit(3, 16), Fit(1, 4)]),
)
def test_any_grid_is_covered_by_at_most_so_many_patches(grid, smallest, tokens, periodic, fit) -> None:
    try:
        tiling = tiled(grid, smallest, tokens, periodic, fit)
    except RecipeError:
        assume(fit is not None)
        return
    assert math.prod(tiling.lattice) <= tokens
    for axis, (size, count, width) in enumerate(zip(grid, tiling.lattice, tiling.patch, strict=True)):
        assert fit is None or fit(count)
        patches = tiling.points(axis)
        assert [len(patch) for patch in patches] == [width] * count
        assert {point for patch in patches for point in patch} == set(range(size)), "every point is in a patch"
        assert width < size / count + 1, "and patches overlap no more than they must"


@given(st.integers(1, 400), st.integers(0, 3), st.integers(2, 16))
def test_what_fits_can_be_halved_and_has_windows(size: int, halvings: int, window: int) -> None:
    if not Fit(halvings, window)(size):
        return
    for level in range(halvings + 1):
        assert size % window_edge(size, window) == 0
        assert size <= window or window_edge(size, window) >= window / 2
        if level < halvings:
            assert size == 1 or size % 2 == 0
            size = max(size // 2, 1)


def test_a_lattice_takes_the_nearest_number_of_tokens_that_the_operator_takes() -> None:
    assert tiled((52, 32), 4, 128).lattice == (13, 8)
    assert tiled((52, 32), 4, 128, fit=Fit(2, 8)).lattice == (12, 8)
    assert tiled((52, 32), 4, 128, fit=Fit(3, 8)).lattice == (16, 8)


def test_a_lattice_that_is_far_from_fitting_is_refused_with_the_nearest_ones_that_do() -> None:
    with pytest.raises(
        RecipeError,
        match=r"family waves_1d: a grid of 52x32 points makes 13 tokens along axis 0, which don't fit model.u_stages "
        r"and model.window_size; the nearest that do are 8 and 16: change model.patch_size \(now 4\) or model.latent_",
    ):
        tiled((52, 32), 4, 110, fit=Fit(3, 8))


@given(
    st.sampled_from([((8,), 4), ((8, 12), 2), ((4, 6, 2), 3), ((7,), 3), ((18, 5), 4)]),
    st.booleans(),
    st.integers(0, 99),
)
def test_patches_and_back(shapes: tuple, periodic: bool, seed: int) -> None:
    grid, smallest = shapes
    u = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(seed))
    tiling = tiled(grid, smallest, 64, periodic)
    torch.testing.assert_close(from_patches(to_patches(u, tiling), tiling), u, rtol=1e-6, atol=1e-6)


def test_overlapping_patches_go_round_a_periodic_axis_and_stay_within_a_bounded_one() -> None:
    assert tiled((7,), 3, 64, periodic=True).points(0) == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert tiled((7,), 3, 64, periodic=False).points(0) == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert tiled((10,), 4, 64, periodic=True).points(0) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert tiled((11,), 4, 64, periodic=True).points(0)[-1] == [7, 8, 9, 10]


def test_a_patch_holds_neighbouring_points_and_tokens_are_row_major() -> None:
    u = torch.arange(16.0).reshape(1, 1, 4, 4)
    patches = to_patches(u, tiled((4, 4), 2, 4))
    assert patches[0, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert positions((2, 2)).tolist() == [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]


def test_points_are_pooled_onto_cells_as_near_to_cubes_as_halving_gets() -> None:
    assert point_lattice(((0, 2), (0, 1)), 1024, 32) == (8, 4)
    assert point_lattice(((0, 1), (0, 1)), 1024, 64) == (8, 8)
    assert point_lattice(((0, 1), (0, 1)), 40, 64) == (4, 2), "a token for at least 4 points"


def _logits(lattice: tuple[int, ...], periodic: tuple[bool, ...]) -> torch.Tensor:
    """Products of one query, put at every token, with one key, put at every token."""
    angles = rotary_angles(lattice, periodic, 8)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator).expand(-1, -1, -1, len(angles), -1)
    q, k = (rotate(x, angles.cos(), angles.sin()) for x in (q, k))
    return (q @ k.transpose(-1, -2))[0, 0]


def test_rotary_attention_depends_on_the_distance_around_a_circle() -> None:
    logits = _logits((8,), (True,))
    torch.testing.assert_close(logits.roll((1, 1), dims=(0, 1)), logits, rtol=1e-4, atol=1e-4)


def test_on_a_bounded_axis_it_depends_on_the_signed_distance_and_the_ends_differ() -> None:
    logits = _logits((8,), (False,))
    torch.testing.assert_close(logits[1:, 1:], logits[:-1, :-1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits[0, 7], logits[0, 1], rtol=1e-2)


def test_the_same_distance_means_the_same_at_twice_the_resolution() -> None:
    torch.testing.assert_close(_logits((16,), (True,))[0, 4], _logits((8,), (True,))[0, 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_normalised_queries_and_keys_bound_the_logits(size: float) -> None:
    torch.manual_seed(0)
    attention = Attention(32, 2, qk_rmsnorm=True)
    with torch.no_grad():
        attention.qkv.weight[:64] *= size  # queries and keys
    x = torch.randn(1, 5, 32)
    q = attention.q_norm(attention.qkv(x)[..., :16])
    assert q.square().mean(-1).allclose(torch.ones(1, 5), atol=1e-3)
    angles = rotary_angles((5,), (True,), 8)
    assert attention(x, angles.cos(), angles.sin()).isfinite().all()
