"""Parameter groups, moving average, recomputation and DeepSpeed's configuration, without DeepSpeed running."""

from __future__ import annotations

import pytest
import torch
from small_models import LINE, inputs, make

from ups_scale.engine.ds_config import ds_config
from ups_scale.engine.ema import EMA
from ups_scale.engine.optimizer import adamw, parameter_groups
from ups_scale.engine.remat import block_runner
from ups_scale.errors import CheckpointError


def test_every_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    model = make()
    decayed, kept = parameter_groups(model, 0.02)
    grouped = [id(p) for p in decayed["params"] + kept["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    decaying = {names[id(p)] for p in decayed["params"]}
    assert "operator.blocks.0.attention.qkv.weight" in decaying
    assert "encoders.grid.projections.4.weight" in decaying
    assert not any("bias" in name or "norm" in name or "null" in name or "frequency" in name for name in decaying)
    assert "conditioner.family.weight" not in decaying
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.02, 0.0)


def test_adamw_takes_the_recipes_constants() -> None:
    optimizer = adamw(make(), 3e-4, (0.9, 0.95), 1e-8, 0.02)
    assert {(g["lr"], g["betas"], g["eps"]) for g in optimizer.param_groups} == {(3e-4, (0.9, 0.95), 1e-8)}


def test_average_by_hand_and_swap() -> None:
    weight = torch.tensor([1.0])
    ema = EMA([weight], decay=0.9)
    weight.fill_(3.0)
    ema.update([weight], step=0)  # decay (1 + 0) / (10 + 0) at the first step
    ema.update([weight], step=10**6)
    expected = 0.9 * (0.1 * 1 + 0.9 * 3) + 0.1 * 3
    ema.swap([weight])
    assert weight.item() == pytest.approx(expected)
    ema.swap([weight])
    assert weight.item() == 3.0


def test_average_survives_saving_and_refuses_another_partition(tmp_path) -> None:
    path = tmp_path / "rank-00000.safetensors"
    weights = [torch.randn(3), torch.randn(2, 2)]
    ema = EMA(weights, 0.99)
    ema.update([w + 1 for w in weights], 5)
    ema.save(path)
    other = EMA([torch.zeros(3), torch.zeros(2, 2)], 0.99)
    other.load(path)
    for a, b in zip(ema._average, other._average, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CheckpointError, match="another partitioning"):
        EMA([torch.zeros(4), torch.zeros(2, 2)], 0.99).load(path)
    with pytest.raises(CheckpointError, match="can't be read"):
        other.load(tmp_path / "missing.safetensors")


def _run(mode: str, horizon: int) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    model = make(trained=True, drop_path=0.3, depth=3).train()
    model.operator.run_block = block_runner(mode)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model(*inputs(LINE), horizon).square().mean()
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()], kept


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputation_gives_the_same_gradients_over_an_unrolled_horizon(mode: str) -> None:
    loss, gradients, _ = _run(mode, 3)
    expected_loss, expected, _ = _run("none", 3)
    assert torch.equal(loss, expected_loss)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)


def test_full_recomputation_keeps_less() -> None:
    assert _run("full", 2)[2] < 0.5 * _run("none", 2)[2]


def test_the_configuration_says_what_the_recipe_says() -> None:
    config = ds_config(zero_stage=2, precision="bf16", grad_clip=0.5, accumulation=8, world_size=4)
    assert config["zero_optimization"] == {"stage": 2}
    assert config["bf16"] == {"enabled": True}
    assert (config["gradient_accumulation_steps"], config["train_batch_size"]) == (8, 32)
    assert config["gradient_clipping"] == 0.5


def test_deepspeed_knows_every_key_of_the_configuration() -> None:
    """DeepSpeed ignores unknown top-level keys: a misspelt one would do nothing."""
    import inspect

    from deepspeed.runtime import config as module
    from deepspeed.runtime import constants
    from deepspeed.runtime.zero import config as zero

    known = {
        value for name, value in vars(constants).items() if isinstance(value, str) and not name.endswith("_FORMAT")
    }
    source = inspect.getsource(module) + inspect.getsource(zero)
    for key in ds_config(zero_stage=1, precision="fp32", grad_clip=1.0, accumulation=1, world_size=1):
        assert key in known or f'"{key}"' in source, key
