"""DeepSpeed's configuration. The only file that knows its keys: DeepSpeed ignores unknown ones silently."""

from __future__ import annotations

from typing import Any


def ds_config(
    *, zero_stage: int, precision: str, grad_clip: float, accumulation: int, world_size: int
) -> dict[str, Any]:
    """The dict that `deepspeed.initialize` takes.

    The batch sizes count micro-batches as one sample each: the plan decides how many windows a micro-batch has, and
    DeepSpeed needs only the number of accumulation steps.
    """
    return {
        "train_batch_size": accumulation * world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": grad_clip,
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
