"""What a user did or met, with the remedy in the message, and the exit code that commands return for it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

INTERRUPTED = 130
"""Exit code of what Ctrl-C ended, as shells have it."""


class UserError(ValueError):
    """Base of the errors whose message alone is enough to act on: printed without a traceback.

    `on_all_ranks`: whether every rank is known to raise it, so that one of them saying it is enough.
    """

    exit_code = 2
    on_all_ranks = False

    @property
    def problems(self) -> list[str]:
        """The problems that the message lists, without the line that counts them; of other messages the lines."""
        first, *others = str(self).split("\n")
        return (
            [line.strip() for line in others]
            if others and first.endswith(("problem", "problems"))
            else [first, *others]
        )


class RecipeError(UserError):
    """The recipe (or a command-line override of it) is wrong; the message lists every problem."""


class DataError(UserError):
    """A data file, shard or manifest is missing, malformed or damaged."""


class CheckpointError(UserError):
    """A checkpoint or run folder is missing, damaged, in use, or does not fit this run."""


class DivergenceError(UserError):
    """Training left the finite numbers."""

    exit_code = 3
    on_all_ranks = True  # the loss is summed over ranks before it is looked at


def remedy(error: OSError, otherwise: str) -> str:
    """What to do about what the system says against a file; `otherwise` for what is neither permission nor space."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "ask its owner for the permission, or use another"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space, or use another disk"
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        return "something else has that name: move it, or use another"
    return otherwise


def run_command(main: Callable[[], int | None], interrupted: str = "") -> None:
    """Exits with what `main()` returns (None: 0), turning a `UserError` into its message and exit code, and Ctrl-C
    into 130 and a line, to which `interrupted` adds what is kept.

    An error that all ranks meet is printed by rank 0 alone: before they have joined they all do the same, later
    `distributed.together` marks what it raised on all.
    """
    try:
        code = main() or 0
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("interrupted" + (f": {interrupted}" if interrupted else ""), file=sys.stderr)
        code = INTERRUPTED
    except UserError as error:
        rank = int(os.environ.get("RANK", "0"))
        distributed = sys.modules.get("torch.distributed")
        joined = distributed is not None and distributed.is_initialized()
        if rank == 0 or (joined and not error.on_all_ranks):
            print(f"error: {error}" if rank == 0 else f"error on rank {rank}: {error}", file=sys.stderr)
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
