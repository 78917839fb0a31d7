"""Which encoder and decoder a family goes through, and the lattice that its tokens lie on, by a recipe's settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ups_scale.model.lattice import Fit, Tiling, point_lattice, tile
from ups_scale.physics.families import FamilySpec


def inputs(spec: FamilySpec) -> tuple[int, ...]:
    """Numbers of the fields that are embedded: all but a point set's coordinates."""
    return tuple(number for number, name in enumerate(spec.fields) if name not in spec.coordinates)


def encoder_kind(spec: FamilySpec, encoder: str) -> str:
    """Which encoder takes the family under `model.encoder`: "grid" or "points"."""
    return ("points" if spec.geometry == "points" else "grid") if encoder == "auto" else encoder


def decoder_kind(spec: FamilySpec, decoder: str) -> str:
    """Which decoder gives the family's fields under `model.decoder`: "patch" or "points"."""
    return ("points" if spec.geometry == "points" else "patch") if decoder == "auto" else decoder


def tiling(spec: FamilySpec, model: Mapping[str, Any]) -> Tiling:
    """The patches of a grid family under the recipe's `model` section; raises a `RecipeError` if there are none."""
    fit = Fit()
    if model["operator"] == "u_shaped":
        fit = Fit(len(model["u_stages"]) - 1, model["window_size"])
    return tile(spec.name, spec.grid, spec.periodic, model["patch_size"], model["latent_tokens"], fit)


def lattice_of(spec: FamilySpec, model: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens per axis of a family under the recipe's `model` section; raises a `RecipeError` if there is no lattice."""
    if spec.geometry == "grid":
        return tiling(spec, model).lattice
    return point_lattice(spec.extents, math.prod(spec.grid), model["latent_tokens"])
