"""The space of a sweep: read, checked against the recipe, and laid out as the trials of the grid."""

from __future__ import annotations

import copy
import difflib
import functools
import importlib.resources
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups_scale.recipe import rules, validate
from ups_scale.recipe.load import read_object
from ups_scale.recipe.validate import Problem, show

Values = dict[str, Any]
"""Recipe key -> value: what a trial overrides."""


@dataclass(frozen=True)
class Choice:
    """The values of one key: `kind` is values, factors (of a centre) or within (a relative distance of it)."""

    key: str
    kind: str
    content: Any

    def options(self, centre: Any) -> tuple[Any, ...]:
        """The values around `centre`; of a distance, its two ends."""
        if self.kind == "values":
            return tuple(_typed(self.key, value) for value in self.content)
        factors = self.content if self.kind == "factors" else (1 - self.content, 1 + self.content)
        return tuple(dict.fromkeys(scaled(self.key, centre, factor) for factor in factors))


@dataclass(frozen=True)
class Space:
    """A space as its file has it, defaults filled in."""

    document: Mapping[str, Any]
    coarse: tuple[Choice, ...]
    local: tuple[Choice, ...]

    @property
    def seed(self) -> int:
        return self.document["seed"]

    @property
    def num_local(self) -> int:
        return self.document["local"]["trials"] if self.local else 0


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a space, as shipped with the package."""
    return json.loads(importlib.resources.files("ups_scale.sweep").joinpath("schema.json").read_text("utf-8"))


def read_space(path: Path) -> Space:
    """The space in the file `path`. Raises `RecipeError` with all that is wrong with it."""
    document = read_object(path, "space")
    validate.raise_problems(str(path), validate.check(document, schema()))
    return space_of(document)


def space_of(document: Mapping[str, Any]) -> Space:
    """The space that a valid document states."""
    filled = validate.fill_defaults(document, schema())
    coarse, local = (
        tuple(Choice(key, *next(iter(stated.items()))) for key, stated in filled[part]["keys"].items())
        for part in ("coarse", "local")
    )
    return Space({name: value for name, value in filled.items() if name != "$schema"}, coarse, local)


def value_of(resolved: Mapping[str, Any], key: str) -> Any:
    """The value of a key in a resolved recipe."""
    section, name = key.split(".")
    return resolved[section][name]


def scaled(key: str, centre: float, factor: float) -> float:
    """`centre` times `factor`, to ten digits, in the type that the recipe's key has."""
    return _typed(key, float(f"{centre * factor:.10g}"))


def grid(space: Space, resolved: Mapping[str, Any], everything: bool) -> list[Values]:
    """The trials of the coarse phase: the recipe's own point, then a seeded sample of the grid, or all of it."""
    own = {choice.key: value_of(resolved, choice.key) for choice in space.coarse}
    options = [choice.options(own[choice.key]) for choice in space.coarse]
    others = [dict(zip(own, values, strict=True)) for values in itertools.product(*options)]
    others = [values for values in others if values != own]
    count = space.document["coarse"]["sample"] - 1
    if not everything and count < len(others):
        chosen = sorted(random.Random(space.seed).sample(range(len(others)), count))
        others = [others[number] for number in chosen]
    return [own, *others]


def check(space: Space, resolved: Mapping[str, Any], source: str, everything: bool = False) -> None:
    """Raises a `RecipeError` with all that does not fit the recipe: keys, values, and combinations that would run."""
    problems: list[Problem] = []
    for part, choices in (("coarse", space.coarse), ("local", space.local)):
        for choice in choices:
            problems += _problems(f"{part}.keys.{choice.key}", choice, space, resolved)
    if not problems:
        seen: set[str] = set()
        for values in [*grid(space, resolved, everything), *_ends(space, resolved)]:
            changed = changed_recipe(resolved, values)
            for problem in rules.check(changed):
                if str(problem) not in seen:
                    seen.add(str(problem))
                    problems.append(Problem(f"with {told(values)}", str(problem)))
    validate.raise_problems(source, problems)


def changed_recipe(resolved: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """The resolved recipe with other values of some keys."""
    changed = copy.deepcopy(dict(resolved))
    for key, value in values.items():
        section, name = key.split(".")
        changed[section][name] = value
    return changed


def told(values: Values, base: Mapping[str, Any] | None = None) -> str:
    """Values in a line: "lr 0.001  grad_clip 0.5"; with a recipe, only those that differ from its own."""
    shown = {key: value for key, value in values.items() if base is None or value_of(base, key) != value}
    return "  ".join(f"{key.partition('.')[2]} {short(value)}" for key, value in shown.items()) or "the recipe's own"


def short(value: Any) -> str:
    """A value as text, numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else show(value)


def _ends(space: Space, resolved: Mapping[str, Any]) -> Iterator[Values]:
    """The ends of the local search around each value of the grid, key by key."""
    for choice in space.local:
        for centre in _centres(choice.key, space, resolved):
            for value in choice.options(centre):
                yield {choice.key: value}


def _centres(key: str, space: Space, resolved: Mapping[str, Any]) -> tuple[Any, ...]:
    own = value_of(resolved, key)
    of_grid = [choice.options(own) for choice in space.coarse if choice.key == key]
    return (own, *of_grid[0]) if of_grid else (own,)


def _problems(path: str, choice: Choice, space: Space, resolved: Mapping[str, Any]) -> list[Problem]:
    leaves = validate.leaves()
    if choice.key not in leaves or "." not in choice.key:
        near = difflib.get_close_matches(choice.key, leaves, n=1)
        return [Problem(path, "no key of a recipe" + (f'; did you mean "{near[0]}"?' if near else ""))]
    if not leaves[choice.key].get("x-identity", True):
        return [Problem(path, "does not change what is trained, so that its trials would be one run; leave it out")]
    own = value_of(resolved, choice.key)
    if choice.kind != "values" and (isinstance(own, bool) or not isinstance(own, int | float) or own == 0):
        return [Problem(path, f"the recipe has {show(own)}, which has no multiples; state values")]
    twice = [value for number, value in enumerate(_listed(choice)) if value in _listed(choice)[:number]]
    if twice:
        return [Problem(path, f"{show(twice[0])} is stated twice; keep one")]
    found: dict[str, Problem] = {}
    section, name = choice.key.split(".")
    centres = [own] if path.startswith("coarse") or choice.kind == "values" else _valid_centres(choice, space, resolved)
    for value in itertools.chain.from_iterable(choice.options(centre) for centre in centres):
        for problem in validate.check({section: {name: value}}):
            found.setdefault(problem.text, Problem(path, problem.text))
    return list(found.values())


def _valid_centres(choice: Choice, space: Space, resolved: Mapping[str, Any]) -> Sequence[Any]:
    # What the grid itself must not have is told there.
    centres = _centres(choice.key, space, resolved)
    return [centre for centre in centres if isinstance(centre, int | float) and not isinstance(centre, bool)]


def _listed(choice: Choice) -> Sequence[Any]:
    return () if choice.kind == "within" else choice.content


def _typed(key: str, value: Any) -> Any:
    kinds = validate.leaves()[key].get("type", [])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if "number" in kinds:
        return float(value)
    return round(value) if "integer" in kinds and isinstance(value, float) else value
