"""Values that a recipe need not state because they follow from others that it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "operator": "stacked",
        "depth": 4,
        "model_dim": 128,
        "num_heads": 4,
        "window_size": 4,
        "u_stages": [1, 2, 4],
        "latent_tokens": 64,
        "latent_dim": 128,
        "supernodes": 256,
        "neighbours": 16,
    },
    "S": {
        "operator": "u_shaped",
        "depth": 24,
        "model_dim": 384,
        "num_heads": 8,
        "window_size": 8,
        "u_stages": [1, 2, 4],
        "latent_tokens": 512,
        "latent_dim": 384,
        "supernodes": 4096,
        "neighbours": 32,
    },
    "B": {
        "operator": "u_shaped",
        "depth": 32,
        "model_dim": 512,
        "num_heads": 8,
        "window_size": 12,
        "u_stages": [1, 2, 4],
        "latent_tokens": 768,
        "latent_dim": 512,
        "supernodes": 4096,
        "neighbours": 32,
    },
    "L": {
        "operator": "u_shaped",
        "depth": 40,
        "model_dim": 768,
        "num_heads": 12,
        "window_size": 16,
        "u_stages": [1, 2, 4, 8],
        "latent_tokens": 1024,
        "latent_dim": 512,
        "supernodes": 8192,
        "neighbours": 32,
    },
}

BASELINES = ("fno", "unet", "pdetransformer")
"""Values of `model.operator` that stand for other people's networks (`model/baselines.py`)."""
UNET_GROUPS = 8
WIDTHS_OF_PDE_TRANSFORMER = (96, 192, 384)

REFERENCE_LR = 3e-4
REFERENCE_BATCH_TOKENS = 262144
LR_RANGE = (1.5e-4, 6e-4)


def default_lr(batch_tokens: int) -> float:
    """Peak learning rate for `batch_tokens` tokens per optimizer step: proportional to it, within `LR_RANGE`."""
    low, high = LR_RANGE
    return min(max(REFERENCE_LR * batch_tokens / REFERENCE_BATCH_TOKENS, low), high)
