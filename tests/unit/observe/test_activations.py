from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import FORCED, LINE, PLANE, POINTS, TORUS, inputs, make
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ups_scale.engine.remat import block_runner
from ups_scale.model.simulator import Simulator
from ups_scale.observe.activations import FusedAttention, Kept, activations
from ups_scale.observe.flops import forward_flops, meta_inputs, training_flops
from ups_scale.physics.families import FamilySpec

U = {"operator": "u_shaped", "depth": 8, "model_dim": 64, "latent_dim": 64}
MODES = ("none", "selective", "full")


def on_meta(spec: FamilySpec, **settings: object) -> Simulator:
    with torch.device("meta"):
        return make(specs=[spec], **settings)


def by_the_allocator(model: Simulator, spec: FamilySpec, batch: int) -> int:
    """Bytes that a forward pass on the CPU leaves allocated, but for its result: what autograd holds."""
    u_btcx, family, parameters_bp, dt_bt = inputs(spec, batch)
    model.train()
    model(u_btcx, family, parameters_bp, dt_bt, 1)  # constants are made once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        out = model(u_btcx, family, parameters_bp, dt_bt, 1)
    left = sum(event.self_cpu_memory_usage for event in profiled.events())
    return left - out.untyped_storage().nbytes()


def test_an_mlp_by_hand() -> None:
    mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8), nn.ReLU())
    x = torch.randn(3, 4)
    kept = Kept(list(mlp.parameters()))
    with kept.listening():
        out = mlp(x)
    assert out.requires_grad
    # The first layer's input, the GELU's, the second layer's, and of the ReLU the result, which is not another's.
    assert kept.num_bytes == 4 * 3 * (4 + 8 + 8 + 8)
    assert x in kept
    assert out in kept
    assert mlp[0].weight not in kept


def test_a_storage_counts_once_however_often_it_is_saved() -> None:
    x = torch.randn(10, requires_grad=True)
    kept = Kept()
    with kept.listening():
        x[:5].sin().sum() + x[5:].cos().sum() + x.pow(2).sum()
    assert kept.num_bytes == 4 * 10
    kept.add(x.view(2, 5))
    assert kept.num_bytes == 4 * 10


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (TORUS, {"depth": 3}),
        (TORUS, {**U, "drop_path": 0.1}),
        (TORUS, {**U, "channel_separated": True}),
        (LINE, {**U, "context_frames": 2}),
        (PLANE, {"depth": 3}),
        (TORUS, {"decoder": "points", "prediction": "latent"}),
    ],
)
def test_what_the_allocator_gives_out_on_a_cpu(spec: FamilySpec, settings: dict, mode: str) -> None:
    counted = activations(on_meta(spec, **settings), spec.name, mode)
    model = make(specs=[spec], **settings)
    model.operator.run_block = block_runner(mode)
    two, four = (by_the_allocator(model, spec, batch) for batch in (2, 4))
    assert counted.per_sample == (four - two) / 2


@pytest.mark.parametrize("spec", [PLANE, FORCED])
def test_masked_attention_is_near_to_what_a_cpu_keeps(spec: FamilySpec) -> None:
    # A CPU's kernel keeps other things beside queries, keys, values and result than a GPU's.
    counted = activations(on_meta(spec, **U), spec.name, "none")
    two, four = (by_the_allocator(make(specs=[spec], **U), spec, batch) for batch in (2, 4))
    assert counted.per_sample == pytest.approx((four - two) / 2, rel=0.03)


@pytest.mark.parametrize("spec", [TORUS, PLANE, POINTS])
def test_running_one_block_of_a_kind_gives_what_running_all_does(spec: FamilySpec) -> None:
    settings = {**U, "drop_path": 0.1, "encoder": "auto", "decoder": "auto"}
    model = on_meta(spec, **settings)
    counts = []
    for batch in (2, 3, 7):
        kept = Kept(list(model.parameters()))
        with FusedAttention(), kept.listening():
            assert model(*meta_inputs(model, spec.name, batch)).requires_grad
        counts.append(kept.num_bytes)
    counted = activations(model, spec.name, "none")
    assert [counted.shared + batch * counted.per_sample for batch in (2, 3, 7)] == counts
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*meta_inputs(model, spec.name, 1))
    assert forward_flops(model, spec.name) == counter.get_total_flops()


def test_what_is_known_of_blocks_serves_the_next_family() -> None:
    with torch.device("meta"):
        model = make(specs=[TORUS, PLANE], **U)
    for mode in MODES:
        known: dict = {}
        both = [activations(model, spec.name, mode, known) for spec in (TORUS, PLANE)]
        assert both == [activations(model, spec.name, mode) for spec in (TORUS, PLANE)]
        assert activations(model, TORUS.name, mode, known) == both[0]
    flops: dict = {}
    assert [forward_flops(model, spec.name, flops) for spec in (TORUS, PLANE)] == [
        forward_flops(model, spec.name) for spec in (TORUS, PLANE)
    ]


@pytest.mark.parametrize("separated", [False, True])
def test_checkpointing_keeps_less(separated: bool) -> None:
    model = on_meta(PLANE, **U, channel_separated=separated)
    none, selective, full = (activations(model, PLANE.name, mode).per_sample for mode in MODES)
    assert 0 < full < selective < none


def test_full_checkpointing_keeps_a_block_s_input() -> None:
    # Of the stacked operator's residual stream: (16 x 8) / (4 x 4) tokens of 32 features in float32 for each block.
    few, many = (activations(on_meta(TORUS, depth=depth), TORUS.name, "full") for depth in (2, 7))
    assert many.per_sample - few.per_sample == 5 * 8 * 32 * 4
    assert many.shared == few.shared


def test_bf16_weights_of_float32_layers_are_kept_as_copies() -> None:
    none, full = (activations(on_meta(TORUS, depth=4).to(torch.bfloat16), TORUS.name, m) for m in ("none", "full"))
    modulations = 4 * (6 * 32 * 32) * 4
    assert none.shared - full.shared == pytest.approx(modulations, rel=0.1)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = on_meta(TORUS, **U).eval()
    before = model.operator.run_block
    activations(model, TORUS.name, "full")
    forward_flops(model, TORUS.name)
    assert model.operator.run_block is before
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(("spec", "settings"), [(TORUS, {"depth": 3}), (PLANE, U)])
def test_training_flops_against_a_count_of_both_passes(spec: FamilySpec, settings: dict) -> None:
    model = make(specs=[spec], trained=True, **settings)
    u_btcx, family, parameters_bp, dt_bt = inputs(spec, 1)
    with FlopCounterMode(display=False) as counter:
        F.mse_loss(model(u_btcx, family, parameters_bp, dt_bt, 1), u_btcx).backward()
    # The first layers' inputs need no gradient.
    counted = training_flops(on_meta(spec, **settings), family)
    assert 0.9 * counted < counter.get_total_flops() <= 1.1 * counted
