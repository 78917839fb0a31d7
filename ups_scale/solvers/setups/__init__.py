"""How each family's embedded data are made: grid, frame spacing, what is drawn per trajectory, and which solver.

Change a number there, and raise GENERATOR_VERSION: files made before are then made again.
"""

from __future__ import annotations

import difflib

from ups_scale.errors import DataError
from ups_scale.physics.families import FamilySpec
from ups_scale.solvers.setups import diffusive, lines, periodic, published, waves
from ups_scale.solvers.setups.case import Case, Drawn, Problem, Range, Setup, stack_parameters

__all__ = [
    "GENERATOR_VERSION",
    "SETUPS",
    "USUAL",
    "Case",
    "Drawn",
    "Problem",
    "Range",
    "Setup",
    "default_specs",
    "setup",
    "stack_parameters",
]

GENERATOR_VERSION = 3

SETUPS: dict[str, Setup] = {
    setup.name: setup for module in (lines, periodic, diffusive, waves, published) for setup in module.SETUPS
}
USUAL = tuple(name for name in SETUPS if name not in {setup.name for setup in published.SETUPS})
"""Those that "all" stands for: not the ones that repeat a published data set."""


def setup(name: str) -> Setup:
    """How `name` is generated.

    Raises:
        DataError: no such family; the message lists those that can be generated.
    """
    if name not in SETUPS:
        near = difflib.get_close_matches(name, SETUPS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(f"unknown family {name!r}; {hint}can be generated: {', '.join(SETUPS)}, or all")
    return SETUPS[name]


def default_specs() -> dict[str, FamilySpec]:
    """Every generated family as a default data set describes it, without making the data."""
    return {name: setup.spec() for name, setup in SETUPS.items() if name in USUAL}
