from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ups_scale.errors import RecipeError
from ups_scale.model.attention import Attention, rotary_angles, rotate
from ups_scale.model.encoder import from_patches, to_patches
from ups_scale.model.lattice import lattice_shape, patch_shape, positions


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
    assert patch_shape(grid, smallest, tokens) == patch


@given(st.lists(st.sampled_from([16, 32, 64, 128, 256, 512]), min_size=1, max_size=3), st.sampled_from([64, 512, 1024]))
def test_never_more_tokens_than_allowed(grid: list[int], tokens: int) -> None:
    lattice = lattice_shape(grid, 4, tokens)
    assert math.prod(lattice) <= tokens
    assert all(size % cells == 0 for size, cells in zip(grid, lattice, strict=True))


def test_a_grid_is_never_padded_or_cropped() -> None:
    with pytest.raises(RecipeError, match=r"30x32 points can't be cut in patches of 4 along axis 0"):
        patch_shape((30, 32), 4, 64)


@given(st.sampled_from([((8,), (4,)), ((8, 12), (4, 2)), ((4, 6, 2), (2, 3, 1))]), st.integers(0, 99))
def test_patches_and_back(shapes: tuple, seed: int) -> None:
    grid, patch = shapes
    u = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(from_patches(to_patches(u, patch), patch, grid), u)


def test_a_patch_holds_neighbouring_points_and_tokens_are_row_major() -> None:
    u = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert to_patches(u, (2, 2))[0, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert positions((2, 2)).tolist() == [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]


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
