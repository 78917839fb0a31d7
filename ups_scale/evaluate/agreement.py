"""Processes that agree before they go on: what one of them finds wrong is raised on all, so that none waits on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ups_scale.errors import UserError

T = TypeVar("T")


def together(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """`work()` of this process; what it raises as a `UserError` on any process is raised on all. All must call it, and
    `work` must not wait for others."""
    result, error = None, None
    try:
        result = work()
    except UserError as caught:
        error = caught
    for found in [error] if accelerator.num_processes == 1 else gather_object([error]):
        if found is not None:
            found.on_all_ranks = True
            raise found
    return result  # type: ignore[return-value]


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What `work()` gives on the main process, on all; a `UserError` of it is raised on all. All must call it."""
    values: list[T | None] = [together(accelerator, lambda: work() if accelerator.is_main_process else None)]
    if accelerator.num_processes > 1:
        broadcast_object_list(values)
    return values[0]  # type: ignore[return-value]


def raised_by_all(error: UserError, accelerator: Accelerator) -> bool:
    """Whether every process is known to have met the error: if not, going on would leave them out of step."""
    return accelerator.num_processes == 1 or error.on_all_ranks
