"""The loss of one micro-batch."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_models import PLANE, make

from ups_scale.data.batch import FieldBatch
from ups_scale.data.loader import MicroBatch
from ups_scale.data.plan import PlanState
from ups_scale.distributed import Ranks
from ups_scale.objective.forward import nrmse_loss
from ups_scale.train.loop import microstep_loss

OCEAN = replace(PLANE, masked=True)
RECIPE = SimpleNamespace(
    run=SimpleNamespace(seed=0),
    model=SimpleNamespace(context_frames=2),
    stabilization=SimpleNamespace(noise=0.0),
    objective=SimpleNamespace(unroll="full", task_nrmse=1.0),
)


def test_a_microstep_shows_the_masks_of_the_given_frames_and_counts_what_can_be_predicted() -> None:
    u = torch.randn(2, 4, 2, *OCEAN.grid, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(u.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    batch = FieldBatch(OCEAN.name, u, torch.ones(2, len(OCEAN.parameters)), torch.full((2, 3), 0.1), ("a", "b"), mask)
    model = make(specs=[OCEAN], context_frames=2).eval()  # untrained: it repeats the last given frame
    told = []

    def forward(*given, mask_btcx):
        told.append(mask_btcx)
        return model(*given, mask_btcx=mask_btcx)

    micro = MicroBatch(batch, 0.5, 2, 0, 0, PlanState(0, {}), ())
    engine = SimpleNamespace(module=model, forward=forward)
    loss = microstep_loss(engine, RECIPE, micro, Ranks(0, 1, 0, torch.device("cpu"), None))
    assert torch.equal(told[0], mask[:, :2])

    least = model.least_rms(OCEAN.name, u.device)
    predicted = u[:, 1:2].expand(-1, 2, -1, -1, -1)
    expected = nrmse_loss(predicted, u[:, 2:], least, mask[:, 2:] & mask[:, 1:2])
    assert loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-6)
    filled = torch.where(mask, u, 1e4)  # what is filled in counts nowhere
    micro = replace(micro, batch=replace(batch, u_btcx=filled))
    again = microstep_loss(engine, RECIPE, micro, Ranks(0, 1, 0, torch.device("cpu"), None))
    assert again.item() == pytest.approx(loss.item(), rel=1e-6)
