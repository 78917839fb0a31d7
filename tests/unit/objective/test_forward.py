from __future__ import annotations

import pytest
import torch

from ups_scale.data.plan import Draw, chunk
from ups_scale.objective.curriculum import horizon_at
from ups_scale.objective.forward import add_noise, nrmse_loss

NEVER = torch.zeros(1)  # no frame is small enough to be measured by something else


def test_nrmse_by_hand() -> None:
    truth = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
    pred = torch.tensor([3.0, 5.0]).reshape(1, 1, 1, 2)
    assert nrmse_loss(pred, truth, NEVER).item() == pytest.approx(1 / 5, rel=1e-5)
    assert nrmse_loss(torch.zeros_like(truth), truth, NEVER).item() == pytest.approx(1, rel=1e-5)


def test_nrmse_is_a_mean_of_ratios_not_a_ratio_of_means() -> None:
    truth = torch.ones(2, 1, 3, 4, 4) * torch.tensor([1.0, 100.0, 0.01]).reshape(1, 1, 3, 1, 1)
    pred = truth * torch.tensor([1.1, 1.2, 1.3]).reshape(1, 1, 3, 1, 1)
    assert nrmse_loss(pred, truth, torch.zeros(3)).item() == pytest.approx(0.2, rel=1e-4)
    assert nrmse_loss(7 * pred, 7 * truth, torch.zeros(3)).item() == pytest.approx(0.2, rel=1e-4)


def test_a_perfect_prediction_has_a_finite_gradient() -> None:
    pred = torch.ones(1, 1, 1, 4, requires_grad=True)
    loss = nrmse_loss(pred, torch.ones(1, 1, 1, 4), NEVER)
    loss.backward()
    assert loss.item() == pytest.approx(1e-4)
    assert pred.grad.isfinite().all()


def test_a_frame_that_is_zero_does_not_drown_the_others() -> None:
    truth = torch.stack([torch.ones(4), torch.zeros(4)]).reshape(2, 1, 1, 4)
    loss = nrmse_loss(truth + 0.01, truth, torch.tensor([0.1]))
    assert loss.item() == pytest.approx((0.01 + 0.01 / 0.1) / 2, rel=1e-3)


def test_noise_scales_with_each_field_and_stays_under_its_bound() -> None:
    torch.manual_seed(0)
    u = torch.randn(400, 1, 2, 64) * torch.tensor([1.0, 50.0]).reshape(1, 1, 2, 1)
    noise = add_noise(u, 0.03) - u
    share = noise.square().mean(dim=(1, 3)).sqrt() / u.square().mean(dim=(1, 3)).sqrt()
    assert share.max() < 0.03 * 1.4
    # sigma is uniform in [0, 0.03]: mean 0.015, the same for both fields of a sample.
    torch.testing.assert_close(share.mean(dim=0), torch.full((2,), 0.015), rtol=0.1, atol=0)
    assert torch.corrcoef(share.T)[0, 1] > 0.9
    assert add_noise(u, 0.0) is u


def test_masked_loss_by_hand() -> None:
    truth = torch.tensor([[3.0, 4.0, 0.0], [0.0, 2.0, 0.0]]).reshape(1, 1, 2, 3)
    pred = torch.tensor([[3.0, 5.0, 9.0], [9.0, 1.0, 9.0]]).reshape(1, 1, 2, 3)
    mask = torch.tensor([[True, True, False], [False, True, False]]).reshape(1, 1, 2, 3)
    assert nrmse_loss(pred, truth, torch.zeros(2), mask).item() == pytest.approx((1 / 5 + 1 / 2) / 2, rel=1e-5)


def test_frames_without_a_value_count_nothing_and_are_no_less_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    pred, truth = torch.randn(2, 3, 2, 2, 4, 4, generator=generator)
    mask = torch.ones_like(truth, dtype=torch.bool)
    mask[0, 1] = False
    mask[2] = False
    kept = [nrmse_loss(pred[0, :1][None], truth[0, :1][None], torch.zeros(2)), nrmse_loss(pred[1:2], truth[1:2], NEVER)]
    expected = (kept[0] + 2 * kept[1]) / 6
    assert nrmse_loss(pred, truth, torch.zeros(2), mask).item() == pytest.approx(expected.item(), rel=1e-6)
    assert nrmse_loss(pred, truth, torch.zeros(2), torch.zeros_like(mask)).item() == 0


@pytest.mark.parametrize("windows", [2, 3])
@pytest.mark.parametrize(("world_size", "parts"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_the_loss_of_a_draw_is_the_same_however_it_is_dealt(windows: int, world_size: int, parts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pred, truth = torch.randn(2, windows, 2, 2, 4, 4, generator=generator)
    mask = torch.rand(truth.shape, generator=generator) > 0.4
    mask[0, 1, 0] = False
    mask[1] = False
    draw = Draw("ocean", 0, windows, 2)
    loss = 0.0
    for rank in range(world_size):
        for part in range(parts):
            item = chunk(draw, rank, world_size, part, parts)
            own = list(item.numbers)
            loss += item.weight * nrmse_loss(pred[own], truth[own], torch.zeros(2), mask[own]).item()
    whole = nrmse_loss(pred, truth, torch.zeros(2), mask).item()
    assert loss / (world_size * parts) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("garbage", [1e30, float("nan")])
def test_a_masked_point_changes_neither_loss_nor_gradient(garbage: float) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, pred = torch.randn(2, 2, 2, 1, 8, generator=generator)
    mask = torch.rand(truth.shape, generator=generator) > 0.3
    found = []
    for fill in (0.0, garbage):
        given = torch.where(mask, pred, fill).requires_grad_()
        loss = nrmse_loss(given, torch.where(mask, truth, fill), NEVER, mask)
        loss.backward()
        found.append((loss.detach(), given.grad))
        assert not given.grad[~mask].any()
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_mask_that_hides_nothing_is_no_mask() -> None:
    truth, pred = torch.randn(2, 2, 2, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    full = torch.ones_like(truth, dtype=torch.bool)
    least = torch.zeros(3)
    torch.testing.assert_close(nrmse_loss(pred, truth, least, full), nrmse_loss(pred, truth, least), rtol=1e-6, atol=0)
    torch.manual_seed(0)
    noisy = add_noise(truth, 0.1)
    torch.manual_seed(0)
    torch.testing.assert_close(add_noise(truth, 0.1, full, dynamic=(0, 1, 2)), noisy, rtol=1e-6, atol=1e-7)


def test_static_fields_are_no_part_of_the_loss() -> None:
    truth, pred = torch.randn(2, 2, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    least = torch.tensor([0.0, 0.1, 9.0])
    for seen in (None, mask):
        part = None if seen is None else seen[:, :, [0, 2]]
        alone = nrmse_loss(pred[:, :, [0, 2]], truth[:, :, [0, 2]], least[[0, 2]], part)
        assert torch.equal(nrmse_loss(pred, truth, least, seen, dynamic=(0, 2)), alone)


def test_no_noise_where_nothing_is_predicted() -> None:
    u = torch.randn(4, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(u.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    torch.manual_seed(0)
    noise = add_noise(u, 0.1, mask, dynamic=(0, 2)) - u
    assert not noise[~mask].any()
    assert not noise[:, :, 1].any()
    assert noise[:, :, [0, 2]][mask[:, :, [0, 2]]].all()


def test_noise_is_measured_by_the_points_that_have_a_value() -> None:
    u = torch.ones(200, 1, 1, 64)
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[..., 32:] = False
    torch.manual_seed(0)
    small = add_noise(torch.where(mask, u, 0.0), 0.1, mask) - torch.where(mask, u, 0.0)
    torch.manual_seed(0)
    garbage = add_noise(torch.where(mask, u, 1e6), 0.1, mask) - torch.where(mask, u, 1e6)
    assert torch.equal(small, garbage)
    # sigma is uniform in [0, 0.1]: its mean square is 0.01 / 3.
    assert small[mask].square().mean().item() == pytest.approx(0.01 / 3, rel=0.2)


@pytest.mark.parametrize(("step", "horizon"), [(0, 4), (1999, 4), (2000, 8), (5999, 16), (6000, 32), (10**6, 32)])
def test_the_horizon_grows_on_the_exact_step(step: int, horizon: int) -> None:
    assert horizon_at(step, [4, 8, 16, 32], 2000) == horizon


def test_one_horizon_stays() -> None:
    assert {horizon_at(step, [3], 10) for step in range(0, 100, 7)} == {3}
