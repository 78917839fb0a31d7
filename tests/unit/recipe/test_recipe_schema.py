"""The schema is closed and complete, and the code knows exactly its keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import ups_scale
from ups_scale.errors import RecipeError
from ups_scale.recipe import presets, table, types, validate

DOCUMENT = Path(ups_scale.__file__).parents[1] / "docs" / "recipes.md"
KEYWORDS = {
    "description", "type", "default", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "items", "minItems", "maxItems", "minLength", "maxLength", "pattern", "x-unit", "x-identity", "x-allowed",
}  # fmt: skip


def objects(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "properties" in node:
        yield path, node
        for name, child in node["properties"].items():
            yield from objects(child, f"{path}.{name}")


def bounded(leaf: Mapping[str, Any]) -> bool:
    if "enum" in leaf or "const" in leaf:
        return True
    kind = leaf["type"][0] if isinstance(leaf["type"], list) else leaf["type"]
    if kind in ("integer", "number"):
        low = {"minimum", "exclusiveMinimum"} & leaf.keys()
        return len(low) == 1 and len({"maximum", "exclusiveMaximum"} & leaf.keys()) == 1
    if kind == "array":
        return {"minItems", "maxItems"} <= leaf.keys() and bounded(leaf["items"])
    return kind == "boolean" or "maxLength" in leaf


def test_schema_is_a_valid_draft_2020_12_schema() -> None:
    assert validate.schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(validate.schema())


def test_schema_is_closed_at_every_level() -> None:
    for path, node in objects(validate.schema()):
        assert node["additionalProperties"] is False, path
        assert node["type"] == "object", path
        assert node["description"], path
    assert len(list(objects(validate.schema()))) == 1 + len(types.SECTIONS)


@pytest.mark.parametrize("key", validate.leaves())
def test_every_key_has_description_default_unit_and_range(key: str) -> None:
    leaf = validate.leaves()[key]
    assert leaf.keys() <= KEYWORDS
    assert leaf["description"].endswith(".")
    assert "default" in leaf
    assert bounded(leaf)
    kinds = leaf["type"] if isinstance(leaf["type"], list) else [leaf["type"]]
    assert "x-unit" in leaf or not {"integer", "number", "array"} & set(kinds) or key == "run.seed"
    jsonschema.Draft202012Validator(leaf).validate(leaf["default"])


def test_defaults_alone_are_a_valid_recipe() -> None:
    assert validate.check(validate.fill_defaults({})) == []


def test_dataclasses_have_the_keys_of_the_schema_in_its_order_and_no_defaults() -> None:
    sections = {name: node for name, node in validate.schema()["properties"].items() if "properties" in node}
    assert list(sections) == list(types.SECTIONS)
    for name, node in sections.items():
        fields = dataclasses.fields(types.SECTIONS[name])
        assert [field.name for field in fields] == list(node["properties"]), name
        assert all(field.default is dataclasses.MISSING for field in fields), name
    assert [field.name for field in dataclasses.fields(types.Recipe)] == ["format", "description", *sections]


def test_presets_are_the_sizes_of_the_schema_and_fill_the_same_legal_keys() -> None:
    model = validate.schema()["properties"]["model"]["properties"]
    assert [*presets.SIZES, None] == model["size"]["enum"]
    for size, values in presets.SIZES.items():
        assert validate.check({"model": dict(values)}) == [], size
        assert values.keys() == presets.SIZES["tiny"].keys()


def test_documented_table_is_up_to_date() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert text == table.update(text), "run `python -m ups_scale.recipe.table --update docs/recipes.md`"


def test_table_has_a_row_for_every_key() -> None:
    rows = [line for line in table.table().splitlines() if line.startswith("| `")]
    assert len(rows) == len(validate.leaves())
    assert any(row.startswith("| `lr` | 1 | `null` | a number above 0 up to 1 or null | Peak") for row in rows)
    assert any(row.startswith("| `steps` * | steps | `100000` | an integer from 1 to") for row in rows)


def test_update_needs_the_markers() -> None:
    with pytest.raises(RecipeError, match="expected the lines"):
        table.update("# no table here")


def test_examples_in_the_document_are_legal() -> None:
    blocks = [part.partition("```")[0] for part in DOCUMENT.read_text("utf-8").split("```json\n")[1:]]
    assert blocks
    for block in blocks:
        assert validate.check(json.loads(block)) == []
