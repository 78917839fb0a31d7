"""The keys of a recipe as Markdown tables, for the documentation.

python -m ups_scale.recipe.table                            prints them
python -m ups_scale.recipe.table --update docs/recipes.md   rewrites them between their markers in a document
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ups_scale.errors import RecipeError, run_command
from ups_scale.recipe.validate import allowed, schema, show

BEGIN = "<!-- keys: written by `python -m ups_scale.recipe.table --update docs/recipes.md` -->"
END = "<!-- end of keys -->"


def table() -> str:
    """The keys with unit, default, range and meaning, one Markdown table per section."""
    sections = {name: node for name, node in schema()["properties"].items() if "properties" in node}
    top = {name: node for name, node in schema()["properties"].items() if name not in sections}
    lines = ["### Top level", "", *_rows(top)]
    for name, node in sections.items():
        lines += ["", f"### `{name}`", "", node["description"], "", *_rows(node["properties"])]
    return "\n".join(lines) + "\n"


def update(document: str) -> str:
    """`document` with a fresh `table()` between its two markers. Raises `RecipeError` if they are not there."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise RecipeError(f"the document has no place for the table of keys: expected the lines\n  {BEGIN}\n  {END}")
    return f"{head}{begin}\n\n{table()}\n{end}{tail}"


def _rows(properties: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | unit | default | allowed | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for name, leaf in properties.items():
        unhashed = "" if leaf.get("x-identity", True) else " *"
        default, legal = show(leaf["default"]), allowed(leaf).replace("|", "\\|")
        yield f"| `{name}`{unhashed} | {leaf.get('x-unit', '')} | `{default}` | {legal} | {leaf['description']} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ups_scale.recipe.table", description="The keys of a recipe.")
    parser.add_argument("--update", type=Path, metavar="FILE", help="rewrite the tables in FILE instead of printing")
    arguments = parser.parse_args()
    if arguments.update is None:
        print(table(), end="")
    else:
        arguments.update.write_text(update(arguments.update.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    run_command(main)
