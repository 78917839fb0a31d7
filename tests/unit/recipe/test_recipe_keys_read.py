"""No dead keys: the package, or a command, reads every key of the schema."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import ups_scale
from ups_scale.recipe import types, validate

ROOT = Path(ups_scale.__file__).parents[1]
CLASSES = {section.__name__: name for name, section in types.SECTIONS.items()}

# What these keys mean is fulfilled by the recipe package itself.
READ_HERE = {
    "$schema": "for editors",
    "format": "checked by the schema",
    "extends": "load",
    "description": "for people",
    "model.size": "presets",
    "model.accept_stacked_separated": "rules",
    "engine.accumulation": "rules.accumulation",
    "engine.micro_batch": "rules.micro_tokens",
    "model.latent_tokens": "rules.micro_tokens",
    "data.batch_tokens": "rules.accumulation",
    "data.draws_per_step": "rules.accumulation",
}


def keys_read(source: str, neighbours: str = "") -> set[str]:
    """The "section.key" that Python code reads.

    A key is read from an attribute of a section: of `recipe.model`, or of a name that is assigned from it or annotated
    with its class. From a section handed over whole, as `asdict(recipe.model)`, those keys are read that are quoted in
    the code or its `neighbours`.
    """
    tree = ast.parse(source)
    stands_for = dict(_names_of_sections(tree))
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            section = _section(node.value, stands_for)
            if section:
                read.add(f"{section}.{node.attr}")
        elif isinstance(node, ast.Call) and _last_name(node.func) == "asdict" and node.args:
            section = _section(node.args[0], stands_for)
            if section:
                read.update(f"{section}.{text}" for text in _quoted(source + "\n" + neighbours))
    return read


def _names_of_sections(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _assigned(target, node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield from _annotated(node.target.id, node.annotation)
        elif isinstance(node, ast.arg):
            yield from _annotated(node.arg, node.annotation)


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, other in zip(target.elts, value.elts, strict=False):
            yield from _assigned(one, other)
    elif _section(value, {}):
        yield _last_name(target), _section(value, {})


def _annotated(name: str, annotation: ast.expr | None) -> Iterator[tuple[str, str]]:
    text = ast.unparse(annotation) if annotation else ""
    for class_name, section in CLASSES.items():
        if class_name in text:
            yield name, section


def _section(node: ast.expr, stands_for: Mapping[str, str]) -> str:
    """The section that an expression is, or "": `recipe.model`, `self.recipe.model`, or a name that stands for one."""
    if isinstance(node, ast.Attribute) and node.attr in types.SECTIONS and _last_name(node.value) == "recipe":
        return node.attr
    return stands_for.get(_last_name(node), "")


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _quoted(source: str) -> set[str]:
    constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


def test_reader_of_sources_sees_the_ways_to_read_a_key() -> None:
    source = """
def build(recipe, settings: OptimizerSettings, other, data):
    model, c = recipe.model, recipe.conditioning
    self.engine_settings = recipe.engine
    hand_over(asdict(recipe.schedule))
    print(self.recipe.run.seed, settings.lr, model.depth, c.dt, self.engine_settings.precision)
    print(other.noise, data.prefetch, other.logging.every_steps)
"""
    assert keys_read(source, "print(schedule['name'])") & set(validate.leaves()) == {
        "run.seed",
        "optimizer.lr",
        "model.depth",
        "conditioning.dt",
        "engine.precision",
        "schedule.name",
    }


def test_every_key_is_read_outside_the_recipe_package() -> None:
    read = set()
    for folder in ("ups_scale", "launch", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent != ROOT / "ups_scale" / "recipe":
                neighbours = "\n".join(other.read_text("utf-8") for other in sorted(path.parent.glob("*.py")))
                read |= keys_read(path.read_text("utf-8"), neighbours)
    unread = [key for key in validate.leaves() if key not in read and key not in READ_HERE]
    assert not unread, "keys of schema.json that nothing reads: " + ", ".join(unread)
