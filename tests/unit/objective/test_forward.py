from __future__ import annotations

import pytest
import torch

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


@pytest.mark.parametrize(("step", "horizon"), [(0, 4), (1999, 4), (2000, 8), (5999, 16), (6000, 32), (10**6, 32)])
def test_the_horizon_grows_on_the_exact_step(step: int, horizon: int) -> None:
    assert horizon_at(step, [4, 8, 16, 32], 2000) == horizon


def test_one_horizon_stays() -> None:
    assert {horizon_at(step, [3], 10) for step in range(0, 100, 7)} == {3}
