"""Values that a recipe need not state because they follow from others that it does."""

from __future__ import annotations

from collections.abc import Mapping

SIZES: Mapping[str, Mapping[str, int]] = {
    "tiny": {"depth": 4, "model_dim": 128, "num_heads": 4, "latent_tokens": 64, "latent_dim": 128},
    "S": {"depth": 24, "model_dim": 384, "num_heads": 8, "latent_tokens": 512, "latent_dim": 384},
    "B": {"depth": 32, "model_dim": 512, "num_heads": 8, "latent_tokens": 768, "latent_dim": 512},
    "L": {"depth": 40, "model_dim": 768, "num_heads": 12, "latent_tokens": 1024, "latent_dim": 512},
}

REFERENCE_LR = 3e-4
REFERENCE_BATCH_TOKENS = 262144
LR_RANGE = (1.5e-4, 6e-4)


def default_lr(batch_tokens: int) -> float:
    """Peak learning rate for `batch_tokens` tokens per optimizer step: proportional to it, within `LR_RANGE`."""
    low, high = LR_RANGE
    return min(max(REFERENCE_LR * batch_tokens / REFERENCE_BATCH_TOKENS, low), high)
