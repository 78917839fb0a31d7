"""No dead keys: the package, or a command, reads every key of the schema."""

from __future__ import annotations

import ast
from collections.abc import Iterator
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
    "engine.accumulation": "rules.accumulation",
    "engine.micro_batch": "rules.micro_tokens",
    "model.latent_tokens": "rules.micro_tokens",
    "data.batch_tokens": "rules.accumulation",
    "data.draws_per_step": "rules.accumulation",
}


def keys_read(source: str) -> set[str]:
    """The "section.key" that Python code reads: from an attribute or a name that is, or stands for, a section.

    A name stands for a section if it is assigned from one (`model = recipe.model`) or annotated with its class.
    """
    tree = ast.parse(source)
    stands_for = {name: name for name in types.SECTIONS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                stands_for.update(_assigned(target, node.value))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            stands_for.update(_annotated(node.target.id, node.annotation))
        elif isinstance(node, ast.arg):
            stands_for.update(_annotated(node.arg, node.annotation))
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = _last_name(node.value)
            if owner in stands_for:
                read.add(f"{stands_for[owner]}.{node.attr}")
    return read


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, other in zip(target.elts, value.elts, strict=False):
            yield from _assigned(one, other)
    elif isinstance(value, ast.Attribute) and value.attr in types.SECTIONS and _last_name(target):
        yield _last_name(target), value.attr


def _annotated(name: str, annotation: ast.expr | None) -> Iterator[tuple[str, str]]:
    text = ast.unparse(annotation) if annotation else ""
    for class_name, section in CLASSES.items():
        if class_name in text:
            yield name, section


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def test_reader_of_sources_sees_the_ways_to_read_a_key() -> None:
    source = """
def build(recipe, settings: OptimizerSettings, other):
    model, c = recipe.model, recipe.conditioning
    self.engine_settings = recipe.engine
    return recipe.run.seed, settings.lr, model.depth, c.dt, self.engine_settings.precision, other.warmup_ratio
"""
    assert {"run.seed", "optimizer.lr", "model.depth", "conditioning.dt", "engine.precision"} <= keys_read(source)
    assert not {"schedule.warmup_ratio", "engine.zero_stage"} & keys_read(source)


def test_every_key_is_read_outside_the_recipe_package() -> None:
    sources = [
        path
        for folder in ("ups_scale", "launch", "tools")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.parent != ROOT / "ups_scale" / "recipe"
    ]
    read = set().union(*(keys_read(path.read_text("utf-8")) for path in sources))
    unread = [key for key in validate.leaves() if key not in read and key not in READ_HERE]
    assert not unread, "keys of schema.json that nothing reads: " + ", ".join(unread)
