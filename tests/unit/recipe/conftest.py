"""Recipes written to a folder, and the messages they are refused with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ups_scale.errors import RecipeError
from ups_scale.recipe.load import load


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(document, name)` puts a recipe (an object, or raw text) into a folder and returns its path."""

    def write_recipe(document: Any, name: str = "case.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
        return path

    return write_recipe


@pytest.fixture
def refusal(write: Callable[..., Path]) -> Callable[..., list[str]]:
    """`refusal(document, *overrides)` gives the lines of the error that the recipe is refused with, unindented."""

    def refuse(document: Any, *overrides: str) -> list[str]:
        path = write(document)
        with pytest.raises(RecipeError) as caught:
            load(path, overrides)
        first, *lines = str(caught.value).splitlines()
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        assert first == f"{path}: {count}"
        assert caught.value.exit_code == 2
        return [line.strip() for line in lines]

    return refuse
