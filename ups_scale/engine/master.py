"""The fp32 master weights at every ZeRO stage. The only file that knows how DeepSpeed lays them out."""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor


def local_master(engine: Any) -> list[Tensor]:
    """The fp32 weights that this rank updates: all of them at stage 0, flat partitions at stages 1 to 3."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return [parameter.data for parameter in engine.module.parameters()]
    if stage == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    return list(engine.optimizer.single_partition_of_fp32_groups)


def publish_master(engine: Any) -> None:
    """Brings the weights that the model computes with up to date with `local_master`; every rank calls it."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        for group in range(len(engine.optimizer.fp32_partitioned_groups_flat)):
            engine.optimizer._reassign_or_swap_out_partitioned_parameters(group)
        # Small parameters stay gathered between steps: let go of the old values, then gather the new.
        small = engine.optimizer.persistent_parameters
        if small:
            small[0].partition(small)
            small[0].all_gather(small)
    elif stage > 0:
        engine.optimizer.update_lp_params()


def full_weights(engine: Any, keep: bool) -> dict[str, Tensor]:
    """Every weight whole and in fp32 on the CPU, by name; empty where `keep` is False. Every rank calls it."""
    weights = {}
    for name, parameter in engine.module.named_parameters():
        sharded = engine.zero_optimization_stage() > 0
        value = safe_get_full_fp32_param(parameter) if sharded else parameter.detach()
        if keep:
            weights[name] = value.float().cpu().clone()
    return weights


def global_gradient_norm(engine: Any) -> float:
    """L2 norm of the whole gradient of a step, before clipping: call it after the step at stages 1 to 3, and before it
    at stage 0, where DeepSpeed does not keep it."""
    if engine.zero_optimization_stage() > 0:
        norm = engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))
