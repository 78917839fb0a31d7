"""What a recipe asks of a data set before it can be trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import torch

from ups_scale.data.manifest import Manifest
from ups_scale.data.plan import check_windows, windows_per_draw
from ups_scale.data.prefetch import unmet_room
from ups_scale.errors import RecipeError, UserError
from ups_scale.model.build import build_model
from ups_scale.model.layout import decoder_kind, encoder_kind, tiling
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe import rules
from ups_scale.recipe.types import Recipe


def unmet(recipe: Recipe, manifest: Manifest, world_size: int) -> list[str]:
    """Everything that keeps `recipe` from training on the data set with this many ranks, a line per problem; empty if
    nothing does. No weights are allocated, no shard is read.

    The number of shards is no part of it: readers go by index, so any number of ranks and threads share a shard.
    """
    problems = _said(partial(rules.accumulation, recipe, world_size))
    try:
        manifest = chosen(recipe, manifest)
    except RecipeError as error:
        return [*problems, *error.problems]
    trained = {name: data for name, data in sorted(manifest.families.items()) if data.num_trajectories("train")}
    if not trained:
        problems.append(f"{manifest.path}: no family has a train split; give tools/shard.py training data too")
    for name, data in trained.items():
        needed = ["train", "valid"] if recipe.evaluate.every_steps else ["train"]
        if not data.num_trajectories(needed[-1]):
            problems.append(
                f"family {name} has no valid split, though evaluate.every_steps {recipe.evaluate.every_steps} asks for "
                f"validation during training; it has {', '.join(data.splits)}. Convert one too, or set it to 0"
            )
        if not data.spec.steady:
            problems += _said(partial(rules.check_data, recipe, {name: data.num_frames}))
        problems += _windows(recipe, data.spec, world_size)
    problems += _said(partial(check_cache, recipe, manifest))
    return list(dict.fromkeys(problems))


def chosen(recipe: Recipe, manifest: Manifest) -> Manifest:
    """The data set with those of its entries alone that `data.families` names, and those without a train split that are
    of the same families.

    Raises:
        RecipeError: a name that the manifest lacks, or that has no train split; lists those that can be named.
    """
    if recipe.data.families is None:
        return manifest
    trained = {name: data.spec for name, data in manifest.families.items() if data.num_trajectories("train")}
    unknown = [name for name in recipe.data.families if name not in trained]
    if unknown:
        raise RecipeError(
            f"data.families: found {', '.join(unknown)}; {manifest.path} has no such entries to train on. It has "
            f"{', '.join(sorted(trained)) or 'none'}"
        )
    families = {trained[name].family for name in recipe.data.families}
    kept = {
        name: data
        for name, data in manifest.families.items()
        if name in recipe.data.families or (name not in trained and data.spec.family in families)
    }
    return replace(manifest, families=kept)


def check_cache(recipe: Recipe, manifest: Manifest) -> None:
    """Raises a `RecipeError` if the data lie elsewhere and the shards that are open at a time don't fit the cache."""
    problem = unmet_room(manifest, recipe.data.shuffle_shards)
    if problem:
        raise RecipeError(problem)


def trained_specs(recipe: Recipe, manifest: Manifest) -> tuple[list[FamilySpec], list[str]]:
    """The entries that the model is built for, those with a train split, and a note on each whose patches overlap.

    Others are for evaluation, which fits the trained model to them (`model/extend.py`).
    """
    specs = [data.spec for data in manifest.families.values() if data.num_trajectories("train")]
    notes = []
    for spec in specs:
        if encoder_kind(spec, recipe.model.encoder) == decoder_kind(spec, recipe.model.decoder) == "points":
            continue
        if _said(partial(tiling, spec, asdict(recipe.model))):
            continue  # `unmet`, and building the model, say why
        patches = tiling(spec, asdict(recipe.model))
        if not patches.exact:
            grid, lattice, patch = (
                "x".join(map(str, sizes)) for sizes in (patches.grid, patches.lattice, patches.patch)
            )
            notes.append(f"{spec.name}: {grid} points in {lattice} patches of {patch}, which overlap")
    return specs, notes


def _tokens(recipe: Recipe, spec: FamilySpec) -> int:
    with torch.device("meta"):
        return build_model(recipe, [spec]).num_tokens(spec.name)


def _windows(recipe: Recipe, spec: FamilySpec, world_size: int) -> list[str]:
    """Why the model can't be built for the family, or at which horizons a draw has too few windows for the ranks."""
    try:
        tokens = _tokens(recipe, spec)
    except UserError as error:
        return [f"family {spec.name}: {text}" if spec.name not in text else text for text in error.problems]
    problems = []
    for horizon in (1,) if spec.steady else recipe.curriculum.horizons:
        windows = windows_per_draw(recipe.data.batch_tokens, recipe.data.draws_per_step, tokens * horizon)
        problems += _said(partial(check_windows, spec.name, windows, horizon, world_size))
    return problems


def _said(check: Callable[[], object]) -> list[str]:
    """The problems that the error which `check` raises lists; none if it raises none."""
    try:
        check()
    except UserError as error:
        return error.problems
    return []
