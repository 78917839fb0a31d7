"""The loss of one micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_models import FORCED, PLANE, make

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
    objective=SimpleNamespace(unroll="full", task_nrmse=1.0, reconstruction=0.0),
    curriculum=SimpleNamespace(autoencoder_steps=0),
)


def test_a_microstep_shows_the_masks_of_the_given_frames_and_counts_what_can_be_predicted() -> None:
    u = torch.randn(2, 4, 2, *OCEAN.grid, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(u.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    batch = FieldBatch(OCEAN.name, u, torch.ones(2, len(OCEAN.parameters)), torch.full((2, 3), 0.1), ("a", "b"), mask)
    model = make(specs=[OCEAN], context_frames=2).eval()  # untrained: it repeats the last given frame
    told = []

    def forward(*given, mask_btcx, reconstruct):
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


@pytest.fixture(scope="module")
def step() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The loss of a microstep with noise, what the model is shown, and the masks it is shown."""
    models = {trained: make(trained=trained, specs=[FORCED], context_frames=2).eval() for trained in (True, False)}
    recipe = SimpleNamespace(
        run=SimpleNamespace(seed=3),
        model=SimpleNamespace(context_frames=2),
        stabilization=SimpleNamespace(noise=0.3),
        objective=SimpleNamespace(unroll="full", task_nrmse=2.0, reconstruction=0.0),
        curriculum=SimpleNamespace(autoencoder_steps=0),
    )

    def run(
        batch: FieldBatch, rank: int = 0, weight: float = 0.5, trained: bool = True, **place: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        told, model = [], models[trained]

        def forward(*given, mask_btcx, reconstruct):
            told.append((given[0], mask_btcx))
            return model(*given, mask_btcx=mask_btcx)

        micro = MicroBatch(
            batch, weight, 2, state=PlanState(0, {}), quarantined=(), **{"step": 0, "microstep": 0} | place
        )
        engine = SimpleNamespace(module=model, forward=forward)
        with torch.no_grad():
            loss = microstep_loss(engine, recipe, micro, Ranks(rank, 2, 0, torch.device("cpu"), None))
        return loss, *told[0]

    return run


def noisy_batch() -> FieldBatch:
    """Two windows of 2 + 2 frames; the second field is static, and a third of all points has no value."""
    random = torch.Generator().manual_seed(0)
    u = torch.randn(2, 4, 2, *FORCED.grid, generator=random)
    u[:, :, 1] = u[:, :1, 1]
    mask = torch.rand(u.shape, generator=random) > 0.3
    mask[:, :, 1] = mask[:, :1, 1]
    return FieldBatch(FORCED.name, u, torch.ones(2, 1), torch.full((2, 3), 0.1), ("a", "b"), mask)


def test_noise_is_put_on_what_the_model_predicts_and_on_nothing_else(step: Callable[..., tuple]) -> None:
    batch = noisy_batch()
    loss, shown, mask = step(batch)
    context = batch.u_btcx[:, :2]
    assert torch.equal(mask, batch.mask_btcx[:, :2])
    moves = mask.clone()
    moves[:, :, 1] = False
    assert torch.equal(shown[~moves], context[~moves])
    assert (shown[moves] != context[moves]).float().mean() > 0.99
    assert step(batch)[0] == loss
    assert torch.equal(step(batch)[1], shown)
    for other in ({"rank": 1}, {"step": 1}, {"microstep": 1}):
        assert not torch.equal(step(batch, **other)[1], shown), f"the same noise again, {other}"


def test_what_stands_at_points_without_a_value_changes_no_bit(step: Callable[..., tuple]) -> None:
    batch = noisy_batch()
    loss, shown, mask = step(batch)
    untrained, *_ = step(batch, trained=False)
    for filled in (0.0, -7.0, 1e4):
        u = torch.where(batch.mask_btcx, batch.u_btcx, filled)
        later = torch.cat([batch.u_btcx[:, :2], u[:, 2:]], dim=1)
        again, shown_again, _ = step(replace(batch, u_btcx=later))
        assert again == loss
        assert torch.equal(shown_again, shown)
        # Before that too; but a trained model sees around a point what is filled in there, as it always is.
        again, shown_again, _ = step(replace(batch, u_btcx=u), trained=False)
        assert again == untrained
        assert torch.equal(shown_again[mask], shown[mask])
        assert (shown_again[~mask] == filled).all()


def test_the_truth_counts_where_it_can_be_predicted_and_of_no_static_field(step: Callable[..., tuple]) -> None:
    batch = noisy_batch()
    loss, shown, _ = step(batch)
    counts = batch.mask_btcx[:, 2:] & batch.mask_btcx[:, 1:2]
    counts[:, :, 1] = False
    later = batch.mask_btcx[:, 2:] & ~counts  # has a value, but a static field's, or one where none was given

    def with_truth(where: torch.Tensor) -> tuple:
        u = batch.u_btcx.clone()
        u[:, 2:][where] += 3
        return step(replace(batch, u_btcx=u))

    assert later[:, :, 0].any()
    assert later[:, :, 1].any()
    again, shown_again, _ = with_truth(later)
    assert again == loss
    assert torch.equal(shown_again, shown)
    for place in (counts.nonzero()[0], counts.nonzero()[-1]):
        one = torch.zeros_like(counts)
        one[tuple(place)] = True
        again, shown_again, _ = with_truth(one)
        assert again != loss
        assert torch.equal(shown_again, shown)


@pytest.mark.parametrize("warming_up", [True, False])
def test_the_autoencoder_is_warmed_up_alone_without_noise_and_then_stays_in_the_loss(warming_up: bool) -> None:
    model = make(trained=True, specs=[FORCED], context_frames=2, prediction="latent").train()
    recipe = SimpleNamespace(
        run=SimpleNamespace(seed=3),
        model=SimpleNamespace(context_frames=2),
        stabilization=SimpleNamespace(noise=0.3),
        objective=SimpleNamespace(unroll="full", task_nrmse=2.0, reconstruction=0.5),
        curriculum=SimpleNamespace(autoencoder_steps=4 if warming_up else 3),
    )
    told = []

    def forward(*given, **options):
        told.append((given, options))
        return model(*given, **options)

    batch = noisy_batch()
    micro = MicroBatch(batch, 0.5, 2, 3, 0, PlanState(3, {}), ())
    engine = SimpleNamespace(module=model, forward=forward)
    loss = microstep_loss(engine, recipe, micro, Ranks(0, 1, 0, torch.device("cpu"), None))
    (given, options), context, mask = told[0], batch.u_btcx[:, :2], batch.mask_btcx
    assert torch.equal(given[0], context) == warming_up
    frames, reconstructed = model(*given, **options)
    assert frames.shape[1] == (0 if warming_up else 2)
    least = model.least_rms(FORCED.name, context.device)
    expected = nrmse_loss(reconstructed[:, None], context[:, 1:], least, mask[:, 1:2], [0])
    if not warming_up:
        ahead = nrmse_loss(frames, batch.u_btcx[:, 2:], least, mask[:, 2:] & mask[:, 1:2], [0])
        expected = 2.0 * ahead + 0.5 * expected
    assert loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert any(p.grad.any() for p in model.operator.parameters()) is not warming_up


def test_the_loss_is_weighted(step: Callable[..., tuple]) -> None:
    batch = noisy_batch()
    assert step(batch, weight=0.25)[0].item() == pytest.approx(step(batch)[0].item() / 2, rel=1e-6)
    assert step(batch, weight=0.0)[0].item() == 0
