"""Activation checkpointing: what the backward pass recomputes instead of keeping."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# Kept under "selective": the results of matrix products and attention, the dear part of a block; norms, activations,
# rotations and modulations are computed again.
KEPT = frozenset(
    {
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def _policy(context: object, operation: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def block_runner(mode: str) -> Callable[..., Tensor]:
    """How the operator calls a block under `engine.activation_checkpointing`: "none", "selective" or "full".

    The non-reentrant form: it runs under ZeRO's gradient hooks once per parameter, however long the unrolled horizon.
    """
    if mode == "none":
        return lambda block, *inputs: block(*inputs)
    if mode == "full":
        return partial(checkpoint, use_reentrant=False)
    assert mode == "selective", mode
    return partial(checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, _policy))
