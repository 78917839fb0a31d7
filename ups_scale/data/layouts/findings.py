"""Collecting what is wrong with a file, so that all of it is reported at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from ups_scale.errors import DataError

P = ParamSpec("P")
T = TypeVar("T")


class Findings:
    """The problems of one file.

    Attributes:
        problems: messages; those that stand first in their error start with the path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def attempt(self, what: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `what(...)` returns. Its `DataError` is kept for `raise_all`; the result is then None, and not to be
        used."""
        try:
            return what(*args, **kwargs)
        except DataError as error:
            self.problems += [problem for problem in error.problems if problem not in self.problems]
            return None  # type: ignore[return-value]

    def raise_all(self) -> None:
        """Raises one `DataError` with all problems, if there are any."""
        if len(self.problems) == 1:
            raise DataError(self.problems[0])
        if self.problems:
            lines = "".join(f"\n  {problem.removeprefix(f'{self.path}: ')}" for problem in self.problems)
            raise DataError(f"{self.path}: {len(self.problems)} problems{lines}")
