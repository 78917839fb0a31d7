"""What schema.json says of a recipe: every problem of a document at once, the defaults, and ranges in words.

`check` and `fill_defaults` take other schemas of the same style too (closed objects, a default or `required` for every
key): mapping files of data have one."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.resources
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from ups_scale.errors import RecipeError


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe: the dotted path of the key (`optimizer.betas[1]`) and what is wrong there."""

    path: str
    text: str

    @property
    def key(self) -> str:
        """The path without list positions."""
        return self.path.partition("[")[0]

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


def raise_problems(source: str, problems: list[Problem]) -> None:
    """Raises a `RecipeError` that lists all `problems` of `source`, one per line; returns if there are none."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RecipeError("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, as shipped with the package."""
    return json.loads(importlib.resources.files("ups_scale.recipe").joinpath("schema.json").read_text("utf-8"))


@functools.cache
def leaves() -> Mapping[str, Mapping[str, Any]]:
    """Dotted key -> its part of the schema, for every key that holds a value, in the schema's order."""

    def walk(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for name, child in node["properties"].items():
            if "properties" in child:
                yield from walk(child, f"{prefix}{name}.")
            else:
                yield prefix + name, child

    return dict(walk(schema(), ""))


def check(document: Any, rules: Mapping[str, Any] | None = None) -> list[Problem]:
    """All problems that a schema finds in a document, in the schema's order; at most one per path.

    Args:
        document: by default a recipe, whole or partial.
        rules: the schema; default: the recipe's.
    """
    rules = schema() if rules is None else rules
    found: dict[str, Problem] = {}
    validator = jsonschema.Draft202012Validator(rules)
    for error in sorted(validator.iter_errors(document), key=lambda error: _order(error.absolute_path, rules)):
        path = _dotted(error.absolute_path)
        if error.validator == "additionalProperties":
            for name in error.instance:
                if name not in error.schema["properties"]:
                    full = f"{path}.{name}" if path else name
                    found.setdefault(full, Problem(full, _unknown(name, path, error.schema["properties"], rules)))
        elif error.validator == "required":
            for name in error.validator_value:
                if name not in error.instance:
                    full = f"{path}.{name}" if path else name
                    text = f"missing; write {allowed(error.schema['properties'][name])}"
                    found.setdefault(full, Problem(full, text))
        elif "propertyNames" in error.relative_schema_path:
            full = f"{path}.{error.instance}" if path else error.instance
            found.setdefault(full, Problem(full, f"not a name for this; allowed: {allowed(error.schema)}"))
        elif path == "format":
            found.setdefault(path, Problem(path, _wrong_format(error.instance, error.schema["const"])))
        else:
            text = f"found {show(error.instance)}; allowed: {allowed(error.schema)}"
            found.setdefault(path, Problem(path, text + _nearest_value(error.instance, error.schema)))
    return list(found.values())


def fill_defaults(document: Mapping[str, Any], rules: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`document` with the schema's default wherever a key that has one is missing, its keys in the schema's order.

    Numbers take the type of their key (1 becomes 1.0 where a number is asked for, 1000.0 becomes 1000 where an integer
    is), so that the same recipe, written differently, is the same document. Sections that are not objects, and unknown
    keys, are kept as they are.
    """
    return _filled(document, schema() if rules is None else rules)


def allowed(leaf: Mapping[str, Any]) -> str:
    """What the schema allows at a key, in words: "an integer from 0 to 3"."""
    if "x-allowed" in leaf:
        return leaf["x-allowed"]
    if "enum" in leaf:
        return ("one of " if len(leaf["enum"]) > 1 else "") + ", ".join(show(value) for value in leaf["enum"])
    if "const" in leaf:
        return show(leaf["const"])
    types = leaf["type"] if isinstance(leaf["type"], list) else [leaf["type"]]
    return " or ".join(_allowed_type(kind, leaf) for kind in types)


def show(value: Any) -> str:
    """`value` as JSON, cut when it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _filled(value: Any, node: Mapping[str, Any]) -> Any:
    if "properties" in node and isinstance(value, Mapping):
        known = {
            name: _filled(value[name] if name in value else child["default"], child)
            for name, child in node["properties"].items()
            if name in value or "default" in child
        }
        return known | {name: item for name, item in value.items() if name not in known}
    if isinstance(value, list):
        return [_filled(item, node.get("items", {})) for item in value]
    kinds = node.get("type", [])
    if isinstance(value, int | float) and not isinstance(value, bool) and "number" in kinds:
        return float(value) + 0.0  # -0.0 becomes 0.0
    if isinstance(value, float) and value.is_integer() and "integer" in kinds:
        return int(value)
    return value


def _order(path: Any, node: Mapping[str, Any]) -> list[int]:
    order = []
    for part in path:
        if isinstance(part, int):
            order.append(part)
            node = node["items"]
        else:
            names = list(node.get("properties", ()))
            order.append(names.index(part) if part in names else len(names))
            node = node["properties"][part] if part in names else node["additionalProperties"]
    return order


def _dotted(path: Any) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _unknown(name: str, section: str, siblings: Mapping[str, Any], rules: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name.lower(), siblings, n=1)
    if near:
        return f'unknown key; did you mean "{near[0]}"?'
    elsewhere = [key for key in leaves() if key.rpartition(".")[2] == name] if rules is schema() else []
    if elsewhere:
        return "unknown key here; did you mean " + " or ".join(f'"{key}"' for key in elsewhere) + "?"
    where = f'"{section}"' if section else f"a {rules['title'].split()[-1]}"
    return f"unknown key; the keys of {where} are " + ", ".join(siblings)


def _wrong_format(found: Any, expected: int) -> str:
    if isinstance(found, int) and found > expected:
        return f"found {found}, but this version of ups_scale reads format {expected}; update ups_scale"
    return f'found {show(found)}; this version of ups_scale reads format {expected}: write "format": {expected}'


def _nearest_value(found: Any, leaf: Mapping[str, Any]) -> str:
    choices = {str(value).lower(): value for value in leaf.get("enum", []) if isinstance(value, str)}
    near = difflib.get_close_matches(found.lower(), choices, n=1) if isinstance(found, str) else []
    return f"; did you mean {show(choices[near[0]])}?" if near else ""


def _allowed_type(kind: str, leaf: Mapping[str, Any]) -> str:
    if kind in ("integer", "number"):
        return " ".join([f"a{'n' if kind == 'integer' else ''} {kind}", *_bounds(leaf)])
    if kind == "array":
        low, high = leaf["minItems"], leaf["maxItems"]
        count = str(low) if low == high else f"{low} to {high}"
        item = leaf["items"]
        return " ".join([f"a list of {count} {item['type']}s", *_bounds(item)])
    if kind == "string":
        return f"a string of {leaf.get('minLength', 0)} to {leaf['maxLength']} characters"
    return {"boolean": "true or false", "null": "null", "object": "an object"}[kind]


def _bounds(leaf: Mapping[str, Any]) -> Iterator[str]:
    if "minimum" in leaf:
        yield f"from {show(leaf['minimum'])}"
    if "exclusiveMinimum" in leaf:
        yield f"above {show(leaf['exclusiveMinimum'])}"
    if "maximum" in leaf:
        yield f"to {show(leaf['maximum'])}" if "minimum" in leaf else f"up to {show(leaf['maximum'])}"
    if "exclusiveMaximum" in leaf:
        yield (
            f"to below {show(leaf['exclusiveMaximum'])}"
            if "minimum" in leaf
            else f"below {show(leaf['exclusiveMaximum'])}"
        )
