"""Recipes: one JSON file per run, checked as a whole and turned into frozen dataclasses."""

from ups_scale.recipe.load import load
from ups_scale.recipe.types import Recipe

__all__ = ["Recipe", "load"]
