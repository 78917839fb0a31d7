"""From a recipe's file to a `Recipe`: read, extend, override, check, fill in.

file + its `extends` chain -> merged -> overrides -> schema's problems -> presets, defaults -> rules' problems -> Recipe
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ups_scale.errors import RecipeError
from ups_scale.recipe import presets, rules, types, validate
from ups_scale.recipe.types import Recipe
from ups_scale.recipe.validate import Problem, show

OVERRIDE = "--set"


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--recipe FILE` (required) and `--set KEY=VALUE` (repeatable; `arguments.set`) to a command's parser."""
    parser.add_argument("--recipe", required=True, metavar="FILE", help="recipe of the run, such as recipes/demo.json")
    parser.add_argument(
        OVERRIDE,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the recipe, such as optimizer.lr=3e-4 (repeatable; what is not JSON is a string)",
    )


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the file `path`, with `overrides` ("optimizer.lr=3e-4"). Raises `RecipeError` with all problems."""
    return types.build(resolve(path, overrides))


def from_dict(resolved: dict[str, Any], source: str = "recipe") -> Recipe:
    """The recipe that `resolve` or `Recipe.as_dict` gave, checked again; `source` names it in errors.

    Raises `RecipeError` with all problems.
    """
    if not isinstance(resolved, Mapping):
        raise RecipeError(f"{source}: found {show(resolved)}; a recipe is a JSON object")
    if resolved.get("extends") is not None:
        text = f"found {show(resolved['extends'])}, but a resolved recipe stands on its own; read its file instead"
        validate.raise_problems(source, [Problem("extends", text)])
    return types.build(_complete(source, [(source, resolved)], []))


def resolve(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The whole recipe as plain JSON: extended, overridden, checked, presets and defaults filled in.

    `$schema` and `extends` are gone, for the result stands on its own. Raises `RecipeError` with all problems.
    """
    problems: list[Problem] = []
    changes: dict[str, Any] = {}
    for override in overrides:
        merge(changes, _parse_override(override, problems))
    return _complete(os.fspath(path), [*chain(Path(path)), (OVERRIDE, changes)], problems)


def stated(path: str | os.PathLike[str], overrides: Sequence[str], key: str) -> Any:
    """What a recipe says for `key` ("data.manifest") or the schema's default, None if its file can't be read.

    Nothing is checked: for those who look on after `load` has refused the recipe.
    """
    merged: dict[str, Any] = {}
    try:
        documents = chain(Path(path))
    except RecipeError:
        return None
    for _, document in documents:
        merge(merged, document)
    for override in overrides:
        merge(merged, _parse_override(override, []))
    return dict(_flatten(merged)).get(key, validate.leaves()[key].get("default"))


def identity(recipe: Recipe, manifest_digest: str) -> str:
    """8 hex digits that name the experiment: of the keys that change the mathematics, and the data's digest.

    Keys that the schema marks `"x-identity": false` (names, paths, logging, machine size, `schedule.steps`) are left
    out, so that the same experiment on other machines, or extended, has the same name.
    """
    values = {key: value for key, value in _flatten(recipe.as_dict()) if validate.leaves()[key].get("x-identity", True)}
    text = json.dumps({"recipe": values, "data": manifest_digest}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What changed from resolved recipe `a` to `b`, one line per key: "optimizer.lr: 0.0003 -> 0.0006"."""
    before, after = dict(_flatten(a)), dict(_flatten(b))
    lines = []
    for key in dict.fromkeys([*before, *after]):
        old, new = (show(side[key]) if key in side else "(not there)" for side in (before, after))
        if old != new:
            lines.append(f"{key}: {old} -> {new}")
    return lines


def _complete(
    source: str, documents: Sequence[tuple[str, Mapping[str, Any]]], problems: list[Problem]
) -> dict[str, Any]:
    """The (name, document) pairs merged in order, checked and filled in; `problems` are those already found."""
    merged: dict[str, Any] = {}
    invalid: set[str] = set()
    for name, document in documents:
        for problem in validate.check(document):
            invalid.add(problem.key)
            origin = "" if name == source else f" (from {name})"
            problems.append(Problem(problem.path, problem.text + origin))
        merge(merged, {key: value for key, value in document.items() if key not in ("$schema", "extends")})
    _apply_size(merged, invalid)
    filled = {key: value for key, value in validate.fill_defaults(merged).items() if key not in ("$schema", "extends")}
    if not invalid & {"data", "data.batch_tokens", "optimizer", "optimizer.lr"} and filled["optimizer"]["lr"] is None:
        filled["optimizer"]["lr"] = presets.default_lr(filled["data"]["batch_tokens"])
    validate.raise_problems(source, problems + rules.check(filled, invalid))
    return filled


def _apply_size(merged: dict[str, Any], invalid: set[str]) -> None:
    """Fills the fields of `model.size` into `merged` where it states none itself."""
    if invalid & {"model", "model.size"}:
        return
    stated = merged.get("model", {})
    if stated.get("size") is not None:
        merged["model"] = {**presets.SIZES[stated["size"]], **stated}


def chain(path: Path, kind: str = "recipe") -> list[tuple[str, dict[str, Any]]]:
    """(name, document) of the recipe at `path` and of those it extends, the furthest first."""
    documents: list[tuple[str, dict[str, Any]]] = []
    seen: list[str] = []
    base: Any = os.fspath(path)
    while isinstance(base, str) and base:
        path = Path(os.path.normpath(path.parent / base)) if seen else path
        names = [name for name, _ in documents]
        if os.path.realpath(path) in seen:
            chain = " -> ".join([*names, str(path)])
            text = f"goes in a circle: {chain}; remove one of these"
            validate.raise_problems(names[0], [Problem("extends", text)])
        seen.append(os.path.realpath(path))
        document = read_object(path, kind, names)
        documents.append((str(path), document))
        base = document.get("extends")
    return documents[::-1]


def read_object(path: Path, kind: str, extending: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON object in the file `path`, read strictly.

    Args:
        kind: what it is called in messages.
        extending: the files that led to it.

    Raises:
        RecipeError: no such file, not JSON, keys twice, NaN or Infinity, or no object.
    """

    def fail(text: str) -> RecipeError:
        if not extending:
            return RecipeError(f"{path}: 1 problem\n  {text}")
        return RecipeError(f"{extending[0]}: 1 problem\n  extends: {' -> '.join([*extending, str(path)])}: {text}")

    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        remedy = 'the path in "extends" starts at the folder of its own file' if extending else "check the path"
        raise fail(f"no such file; {remedy}") from None
    except UnicodeDecodeError as error:
        raise fail(f"not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        raise fail(f"cannot be read: {error}") from None
    repeated: list[str] = []
    try:
        document = _parse(text, repeated)
    except json.JSONDecodeError as error:
        raise fail(f"line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise fail(f"malformed JSON: {error}") from None
    if repeated:
        names = ", ".join(f'"{name}"' for name in dict.fromkeys(repeated))
        raise fail(f"keys stated more than once in one object: {names}; keep one of each")
    if not isinstance(document, dict):
        raise fail(f"found {show(document)}; a {kind} is a JSON object")
    return document


def _parse(text: str, repeated: list[str]) -> Any:
    """JSON `text`, strictly: no NaN or Infinity (`ValueError`); keys repeated in an object are added to `repeated`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        repeated.extend(name for position, name in enumerate(names) if name in names[:position])
        return dict(pairs)

    def refuse(literal: str) -> Any:
        raise ValueError(f"{literal} is not JSON; write a finite number, or null where it is allowed")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


def _parse_override(override: str, problems: list[Problem]) -> dict[str, Any]:
    """The nested object that a "key.key=value" stands for; what is wrong with it is added to `problems`."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        problems.append(Problem(f"{OVERRIDE} {override}", "expected KEY=VALUE, such as optimizer.lr=3e-4"))
        return {}
    if names[0] in ("$schema", "extends"):
        problems.append(Problem(f"{OVERRIDE} {override}", f"{names[0]} can only be stated in a file"))
        return {}
    repeated: list[str] = []
    try:
        value = _parse(text, repeated)
    except (ValueError, RecursionError):
        value = text
    problems.extend(Problem(f"{OVERRIDE} {override}", f'"{name}" is stated more than once') for name in repeated)
    for name in reversed(names):
        value = {name: value}
    return value


def merge(into: dict[str, Any], document: Mapping[str, Any]) -> None:
    """Merges `document` over `into`, object by object; everything else, lists too, is replaced."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            merge(into[key], value)
        else:
            into[key] = value


def _flatten(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
