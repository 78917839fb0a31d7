"""What a user did or met, with the remedy in the message. Each class names the exit code that the commands return for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Base of the errors whose message alone is enough to act on: printed without a traceback."""

    exit_code = 2


class RecipeError(UserError):
    """The recipe (or a command-line override of it) is wrong; the message lists every problem."""


class DataError(UserError):
    """A data file, shard or manifest is missing, malformed or damaged."""


class CheckpointError(UserError):
    """A checkpoint or run folder is missing, damaged, in use, or does not fit this run."""


class DivergenceError(UserError):
    """Training left the finite numbers."""

    exit_code = 3


def run_command(main: Callable[[], int | None]) -> None:
    """Exits with what `main()` returns (None: 0), turning a `UserError` into its message and exit code.

    Only rank 0 prints, so that N ranks that meet the same error say it once.
    """
    try:
        code = main() or 0
    except UserError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
