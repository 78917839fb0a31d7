"""Interpolation: exact on what it should reproduce, of its order on the rest, and the same by every way to ask."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ups_scale.model.interpolate import (
    decoder_resize,
    encoder_resize,
    nearest_mask,
    resample_grid,
    resample_mask,
    sample_grid,
    sample_points,
)
from ups_scale.model.lattice import positions

GRIDS = [((12,), (29,)), ((10, 7), (23, 16)), ((5, 6, 4), (9, 8, 11)), ((16, 12), (8, 5)), ((2, 3), (6, 7))]


def on_grid(function: Callable[[Tensor], Tensor], grid: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    place_pd = torch.cartesian_prod(*((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in grid)).reshape(
        -1, len(grid)
    )
    return function(place_pd).reshape(1, 1, *grid).to(dtype)


def line(place: Tensor) -> Tensor:
    return 0.3 + (place * torch.tensor([1.7, -0.9, 0.6], dtype=place.dtype)[: place.shape[-1]]).sum(dim=-1)


def wave(place: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * place + 0.4).prod(dim=-1)


def cubic(place: Tensor) -> Tensor:
    return (4 * (place - 0.3) ** 3 - (place - 0.7) ** 2).sum(dim=-1)


@pytest.mark.parametrize(("grid", "grid_out"), GRIDS)
def test_linear_functions_are_reproduced_up_to_the_ends(grid: tuple[int, ...], grid_out: tuple[int, ...]) -> None:
    bounded = (False,) * len(grid)
    torch.testing.assert_close(resample_grid(on_grid(line, grid), grid_out, bounded), on_grid(line, grid_out))
    ends = torch.cartesian_prod(*[torch.tensor([0.0, 0.37, 1.0])] * len(grid)).reshape(1, -1, len(grid))
    torch.testing.assert_close(sample_grid(on_grid(line, grid), ends, bounded)[0, 0], line(ends[0]))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("periodic", [True, False])
def test_equal_grids_give_the_field_itself(axes: int, periodic: bool) -> None:
    u_bcx = torch.randn(2, 3, *(7, 6, 5)[:axes])
    assert torch.equal(resample_grid(u_bcx, u_bcx.shape[2:], (periodic,) * axes), u_bcx)
    at_points = sample_grid(u_bcx, positions(u_bcx.shape[2:])[None], (periodic,) * axes)
    torch.testing.assert_close(at_points.reshape(u_bcx.shape), u_bcx, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("periodic", [(True, True, True), (False, False, False), (True, False, True)])
@pytest.mark.parametrize(("grid", "grid_out"), [*GRIDS, ((1, 3), (4, 2)), ((1,), (3,)), ((2,), (5,))])
def test_both_ways_of_asking_a_grid_agree(
    grid: tuple[int, ...], grid_out: tuple[int, ...], periodic: tuple[bool, ...]
) -> None:
    u_bcx, periodic = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(0)), periodic[: len(grid)]
    resampled = resample_grid(u_bcx, grid_out, periodic)
    for batch in (1, 2):
        place_bqd = positions(grid_out).expand(batch, -1, -1)
        sampled = sample_grid(u_bcx, place_bqd, periodic)
        torch.testing.assert_close(sampled.reshape(resampled.shape), resampled, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "periodic", "order"), [(wave, True, 3), (cubic, False, 2)], ids=["round the end", "with ends"]
)
@pytest.mark.parametrize("axes", [1, 2])
def test_smooth_functions_to_their_order(function, periodic: bool, order: int, axes: int) -> None:
    errors = []
    for size in (16, 32):
        asked = (5 * size,) * axes
        given = on_grid(function, (size,) * axes, torch.float64)
        difference = resample_grid(given, asked, (periodic,) * axes) - on_grid(function, asked, torch.float64)
        errors.append(difference.abs().max().item())
    assert errors[1] < errors[0] / 2 ** (order - 0.3)
    assert errors[1] < 0.01


def test_inside_cubics_are_of_third_order() -> None:
    place_bqd = torch.rand(1, 200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    errors = [
        (sample_grid(on_grid(cubic, (n,), torch.float64), place_bqd, (False,))[0, 0] - cubic(place_bqd[0])).abs().max()
        for n in (32, 64)
    ]
    assert errors[1] < errors[0] / 2**2.7
    quadratic = on_grid(lambda x: x[..., 0] ** 2, (16,), torch.float64)
    torch.testing.assert_close(sample_grid(quadratic, place_bqd, (False,))[0, 0], place_bqd[0, :, 0] ** 2)


def test_periodic_fields_go_round_the_end() -> None:
    u_bcx = torch.randn(1, 2, 8, 6)
    place_bqd = torch.rand(1, 40, 2)
    for periodic, roll in (((True, False), (3, 0)), ((True, True), (1, 2))):
        moved_bqd = place_bqd + torch.tensor([roll[0] / 8, roll[1] / 6])  # beyond 1: wrapped
        moved = sample_grid(u_bcx.roll(roll, (2, 3)), moved_bqd, periodic)
        torch.testing.assert_close(moved, sample_grid(u_bcx, place_bqd, periodic), atol=1e-5, rtol=1e-5)
        finer = resample_grid(u_bcx, (16, 12), periodic)
        rolled = resample_grid(u_bcx.roll(roll, (2, 3)), (16, 12), periodic)
        torch.testing.assert_close(rolled, finer.roll([2 * r for r in roll], (2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("periodic", [(True, False), (False, True)])
def test_gradients(periodic: tuple[bool, bool]) -> None:
    u_bcx = torch.randn(2, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    place_bqd = torch.rand(2, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: resample_grid(u, (7, 2), periodic), u_bcx)
    assert torch.autograd.gradcheck(lambda u, place: sample_grid(u, place, periodic), (u_bcx, place_bqd))
    u_bcp = torch.randn(2, 2, 12, dtype=torch.float64, requires_grad=True)
    from_bpd = torch.rand(2, 12, 2, dtype=torch.float64)
    points = lambda u, place: sample_points(u, from_bpd, place, periodic, (1.0, 2.0))  # noqa: E731
    assert torch.autograd.gradcheck(points, (u_bcp, place_bqd))


def test_results_can_be_trained_with_after_inference() -> None:
    with torch.inference_mode():
        resample_grid(torch.zeros(1, 1, 11), (17,), (True,))
    u_bcx = torch.ones(1, 1, 11, requires_grad=True)
    resample_grid(u_bcx, (17,), (True,)).sum().backward()
    assert u_bcx.grad is not None


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_points_give_their_own_values_and_linear_functions(axes: int) -> None:
    generator = torch.Generator().manual_seed(axes)
    from_bpd, u_bcp = torch.rand(2, 300, axes, generator=generator), torch.randn(2, 3, 300, generator=generator)
    lengths, bounded = (1.0, 3.0, 0.2)[:axes], (False,) * axes
    torch.testing.assert_close(
        sample_points(u_bcp, from_bpd, from_bpd[:, 50:90], bounded, lengths), u_bcp[..., 50:90], atol=1e-4, rtol=1e-4
    )
    place_bqd = torch.rand(2, 100, axes, generator=generator)
    linear = sample_points(line(from_bpd)[:, None], from_bpd, place_bqd, bounded, lengths)
    torch.testing.assert_close(linear[:, 0], line(place_bqd), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("num_points", "error"), [(400, 0.08), (1600, 0.02)])
def test_points_take_the_nearest_image(num_points: int, error: float) -> None:
    generator = torch.Generator().manual_seed(0)
    from_bpd, place_bqd = torch.rand(1, num_points, 2, generator=generator), torch.rand(1, 200, 2, generator=generator)
    periodic, lengths = (True, True), (1.0, 2.0)
    values = sample_points(wave(from_bpd)[:, None], from_bpd, place_bqd, periodic, lengths)[:, 0]
    assert (values - wave(place_bqd)).norm() < error * wave(place_bqd).norm()
    shift = torch.tensor([0.31, 0.77])
    moved = sample_points(wave(from_bpd)[:, None], (from_bpd + shift) % 1, (place_bqd + shift) % 1, periodic, lengths)
    torch.testing.assert_close(moved[:, 0], values, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("given", ["one", "a line", "coincident"])
def test_few_or_degenerate_points_give_finite_values(given: str) -> None:
    from_bpd = {
        "one": torch.tensor([[[0.3, 0.4]]]),
        "a line": torch.stack([torch.linspace(0, 1, 9), torch.full((9,), 0.5)], dim=-1)[None],
        "coincident": torch.full((1, 12, 2), 0.5),
    }[given]
    u_bcp = torch.linspace(-1, 1, from_bpd.shape[1])[None, None]
    place_bqd = torch.cat([torch.rand(1, 10, 2), from_bpd[:, :1]], dim=1)
    values = sample_points(u_bcp, from_bpd, place_bqd, (False, False), (1.0, 1.0))
    assert values.abs().max() < 1.5


def test_many_places_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from_bpd, place_bqd = torch.rand(2, 50, 2), torch.rand(1, 33, 2)
    arguments = (torch.randn(2, 3, 50), from_bpd, place_bqd, (True, False), (1.0, 1.0))
    whole = sample_points(*arguments)
    monkeypatch.setattr("ups_scale.model.interpolate.MAX_DISTANCES", 2 * 50 * 7)
    torch.testing.assert_close(sample_points(*arguments), whole)


@pytest.mark.parametrize("periodic", [(True, True), (False, False)])
def test_a_place_has_a_value_if_all_it_is_made_of_have_one(periodic: tuple[bool, bool]) -> None:
    mask_bcx = torch.rand(2, 2, 9, 8, generator=torch.Generator().manual_seed(0)) > 0.1
    torch.testing.assert_close(
        nearest_mask(mask_bcx, positions((9, 8))[None], periodic).reshape(mask_bcx.shape), mask_bcx
    )
    hidden_bcx = mask_bcx.float()  # 0 where there is no value
    place_bqd = torch.rand(2, 300, 2)
    known = nearest_mask(mask_bcx, place_bqd, periodic)
    assert 0.05 < known.float().mean() < 0.9
    torch.testing.assert_close(
        sample_grid(hidden_bcx, place_bqd, periodic)[known], torch.ones(int(known.sum())), atol=1e-3, rtol=0
    )
    finer = resample_mask(mask_bcx, (18, 24), periodic)
    torch.testing.assert_close(resample_grid(hidden_bcx, (18, 24), periodic)[finer], torch.ones(int(finer.sum())))
    if all(periodic):
        assert torch.equal(nearest_mask(mask_bcx, positions((18, 24))[None], periodic).reshape(finer.shape), finer)
    assert torch.equal(resample_mask(mask_bcx, (9, 8), periodic), mask_bcx)


@pytest.mark.parametrize(
    ("old", "new"), [((4,), (8,)), ((2,), (3,)), ((4, 4), (8, 6)), ((1, 2), (3, 4)), ((2, 4, 3), (4, 8, 3))]
)
def test_an_upsampled_patch_keeps_its_token_and_its_values(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    num_old, num_new, width = math.prod(old), math.prod(new), 5
    patches = torch.randn(6, 1, *old, generator=generator)
    finer = resample_grid(patches, new, (False,) * len(old)).flatten(1)

    to_token = torch.randn(num_old, width, generator=generator)
    resized = encoder_resize(old, new) @ to_token
    assert resized.shape == (num_new, width)
    back = resample_grid(finer.unflatten(1, (1, *new)), old, (False,) * len(old)).flatten(1)
    torch.testing.assert_close(finer @ resized, back @ to_token, atol=1e-4, rtol=1e-4)
    slope = line(positions(new)).reshape(1, -1), line(positions(old)).reshape(1, -1)  # a linear field's token is kept
    torch.testing.assert_close(slope[0] @ resized, slope[1] @ to_token, atol=1e-4, rtol=1e-4)

    tokens, to_values = torch.randn(6, width, generator=generator), torch.randn(width, num_old, generator=generator)
    decoded = (tokens @ to_values).reshape(6, 1, *old)
    torch.testing.assert_close(
        tokens @ (to_values @ decoder_resize(old, new)),
        resample_grid(decoded, new, (False,) * len(old)).flatten(1),
        atol=1e-4,
        rtol=1e-4,
    )


def test_equal_patches_keep_their_weights() -> None:
    torch.testing.assert_close(encoder_resize((4, 2), (4, 2)), torch.eye(8))
    torch.testing.assert_close(decoder_resize((4, 2), (4, 2)), torch.eye(8))


def test_no_values_are_needed_to_count_flops() -> None:
    with torch.device("meta"):
        u_bcx, place_bqd = torch.zeros(2, 1, 4, 6), torch.zeros(2, 5, 2)
        assert resample_grid(u_bcx, (8, 3), (True, False)).shape == (2, 1, 8, 3)
        assert sample_grid(u_bcx, place_bqd, (True, False)).shape == (2, 1, 5)
        points = sample_points(torch.zeros(2, 1, 9), torch.zeros(2, 9, 2), place_bqd, (True, False), (1.0, 1.0))
    assert points.shape == (2, 1, 5)
    assert resample_grid(torch.ones(1, 1, 4, 6), (8, 3), (True, False)).sum() == pytest.approx(24)
