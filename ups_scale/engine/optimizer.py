"""Optimizers and their parameter groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices, which decay, and everything else (biases, gains, embeddings, nulls), which does not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_matrix = name == "weight" and parameter.ndim >= 2 and not isinstance(module, nn.Embedding)
            (decayed if is_matrix else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def adamw(
    model: nn.Module, lr: float, betas: Sequence[float], eps: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay on the matrices (arXiv 1711.05101), the fused kernel on a GPU.

    torch's own rather than DeepSpeed's: no C++ to compile at the first start, the same update.
    """
    groups = parameter_groups(model, weight_decay)
    fused = torch.cuda.is_available()
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=fused)


OPTIMIZERS = {"adamw": adamw}
