"""What a recipe must obey across its keys, and the arithmetic of tokens that follows from it.

The token arithmetic: one microstep of one rank has room for `micro_batch` windows of `latent_tokens` tokens at the
longest horizon; an optimizer step is `accumulation` such microsteps on every rank, a multiple of `draws_per_step`, and
has room for at least `batch_tokens`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from ups_scale.errors import RecipeError
from ups_scale.recipe.presets import BASELINES, UNET_GROUPS, WIDTHS_OF_PDE_TRANSFORMER
from ups_scale.recipe.types import Recipe
from ups_scale.recipe.validate import Problem, show


@dataclasses.dataclass(frozen=True)
class Rule:
    """`broken(*values of keys)` says what is wrong, or None; the problem is reported at the first key."""

    keys: tuple[str, ...]
    broken: Callable[..., str | None]


def check(resolved: Mapping[str, Any], invalid: Collection[str] = ()) -> list[Problem]:
    """All broken rules of a filled-in recipe; rules that need one of the `invalid` keys (or sections) are left out."""
    problems = []
    for rule in RULES:
        if any(key in invalid or key.partition(".")[0] in invalid for key in rule.keys):
            continue
        text = rule.broken(*(resolved[section][name] for section, name in (key.split(".") for key in rule.keys)))
        if text:
            problems.append(Problem(rule.keys[0], text))
    return problems


def micro_tokens(recipe: Recipe) -> int:
    """Token budget of one microstep on one rank: windows x latent tokens x the longest horizon."""
    return recipe.engine.micro_batch * recipe.model.latent_tokens * max(recipe.curriculum.horizons)


def accumulation(recipe: Recipe, world_size: int) -> int:
    """Microsteps per optimizer step on each of `world_size` ranks.

    Raises `RecipeError`, with the arithmetic, if the recipe states an accumulation that does not reach
    `data.batch_tokens` or is no multiple of `data.draws_per_step`.
    """
    draws, tokens, budget = recipe.data.draws_per_step, recipe.data.batch_tokens, micro_tokens(recipe)
    derived = draws * math.ceil(tokens / (draws * world_size * budget))
    stated = recipe.engine.accumulation
    if stated is None:
        return derived
    problems = [_accumulation_in_draws(stated, draws)] if stated % draws else []
    if stated * world_size * budget < tokens:
        problems.append(
            f"found {stated}, which gives {stated} microsteps x {world_size} ranks x {budget} tokens per microstep "
            f"(engine.micro_batch {recipe.engine.micro_batch} x model.latent_tokens {recipe.model.latent_tokens} x "
            f"longest horizon {max(recipe.curriculum.horizons)}) = {stated * world_size * budget} tokens per step, "
            f"less than data.batch_tokens {tokens}; use {derived}, or null to derive it"
        )
    if problems:
        raise RecipeError("\n".join(f"engine.accumulation: {text}" for text in problems))
    return stated


def check_data(recipe: Recipe, num_frames: Mapping[str, Mapping[str, int]]) -> None:
    """Raises `RecipeError` listing every family whose trajectories are too short (`num_frames[family][split]` frames).

    A window is `model.context_frames` plus the longest of `curriculum.horizons` in the train split and, if the recipe
    validates during training, of `evaluate.horizons` in the valid split. It is for families with a time: steady ones
    are of one step, and always long enough. A family without a train split is not trained on.
    """
    longest = {"curriculum.horizons": ("train", max(recipe.curriculum.horizons))}
    if recipe.evaluate.every_steps:
        longest["evaluate.horizons"] = ("valid", max(recipe.evaluate.horizons))
    context = recipe.model.context_frames
    problems = []
    for key, (split, horizon) in longest.items():
        for family, of_splits in sorted(num_frames.items()):
            frames = of_splits.get(split)
            if frames is None or "train" not in of_splits or context + horizon <= frames:
                continue
            fits = (
                f"the longest horizon that fits is {frames - context}"
                if frames > context
                else "none fits: lower model.context_frames, or leave the family out of data.manifest"
            )
            problems.append(
                f"{key}: a window of {context} context + {horizon} predicted frames = {context + horizon} does not fit "
                f'family "{family}", which has {frames} {"frame" if frames == 1 else "frames"} per trajectory in its '
                f"{split} split; {fits}"
            )
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"recipe {recipe.run.name} on {recipe.data.manifest}: {count}", *(f"  {line}" for line in problems)]
        raise RecipeError("\n".join(lines))


def _not_for_baselines(wanted: Sequence[Any], found: Any, operator: str) -> str | None:
    if operator not in BASELINES or found in wanted:
        return None
    choices = " or ".join(show(value) for value in wanted)
    return f'found {show(found)}, which model.operator "{operator}" does not have: use {choices}'


def _width_of_baselines(model_dim: int, operator: str) -> str | None:
    if operator == "unet" and model_dim % UNET_GROUPS:
        near = max(1, round(model_dim / UNET_GROUPS)) * UNET_GROUPS
        return (
            f'found {model_dim}; model.operator "unet" normalises features in {UNET_GROUPS} groups: use a multiple of '
            f"{UNET_GROUPS}, such as {near}"
        )
    if operator == "pdetransformer" and model_dim not in WIDTHS_OF_PDE_TRANSFORMER:
        sizes = ", ".join(map(str, WIDTHS_OF_PDE_TRANSFORMER))
        return f'found {model_dim}; model.operator "pdetransformer" comes in the widths {sizes}'
    return None


def _modes_of_fno(modes: Sequence[int] | None, operator: str) -> str | None:
    if modes is None or operator == "fno":
        return None
    return f'found {list(modes)}, which is for model.operator "fno", with model.operator "{operator}"; use null'


def _fno_in_fp32(precision: str, operator: str) -> str | None:
    if operator != "fno" or precision == "fp32":
        return None
    return f'found {show(precision)} with model.operator "fno", whose Fourier transforms need float32: use "fp32"'


def _absolute_fields(target: str, prediction: str) -> str | None:
    if target == "change" or prediction == "field":
        return None
    return (
        f'found {show(target)} with model.prediction "latent", which adds its changes to the given frame: use "change"'
    )


def _heads_divide_width(num_heads: int, model_dim: int, operator: str) -> str | None:
    if operator in BASELINES or model_dim % num_heads == 0:
        return None
    divisors = [n for n in range(1, min(model_dim // 4, 128) + 1) if model_dim % n == 0 and model_dim // n % 4 == 0]
    near = f"; nearest that fits: {min(divisors, key=lambda n: abs(n - num_heads))}" if divisors else ""
    return f"found {num_heads}, which does not divide model.model_dim {model_dim}{near}"


def _heads_rotate(model_dim: int, num_heads: int, operator: str) -> str | None:
    if operator in BASELINES or model_dim % num_heads or model_dim // num_heads % 4 == 0:
        return None
    return (
        f"found {model_dim}, which with model.num_heads {num_heads} gives heads of width {model_dim // num_heads}; "
        "the width of a head must be a multiple of 4 (rotary pairs on two axes)"
    )


def _separated_by_choice(separated: bool, operator: str, accepted: bool) -> str | None:
    if not separated or operator != "stacked" or accepted:
        return None
    return (
        'found true with model.operator "stacked", a combination that did 47 % worse than joint tokens in the '
        'reference study: use model.operator "u_shaped", or say that you mean it: model.accept_stacked_separated true'
    )


def _stages_double(stages: Sequence[int]) -> str | None:
    fits = [2**level for level in range(len(stages))]
    return None if list(stages) == fits else f"found {list(stages)}; each is twice the one before, such as {fits}"


def _depth_of_levels(depth: int, depths: Sequence[int] | None, stages: Sequence[int], operator: str) -> str | None:
    levels = 2 * len(stages) - 1
    if operator != "u_shaped":
        return None if depths is None else f'u_depths {list(depths)} are for model.operator "u_shaped"; leave them out'
    if depths is None:
        if depth >= levels:
            return None
        return (
            f"found {depth}, too few for a block at each of the {levels} levels of model.u_stages {list(stages)}; use "
            f"at least {levels}, or fewer stages, such as {list(stages)[: (depth + 1) // 2]}"
        )
    if len(depths) == levels and sum(depths) == depth:
        return None
    return (
        f"found {depth}, and model.u_depths {list(depths)}: {len(depths)} levels of {sum(depths)} blocks together; "
        f"model.u_stages {list(stages)} has {levels} levels (down, the coarsest, up)"
    )


def _ends_have_heads(latent_dim: int, model_dim: int, num_heads: int, encoder: str, decoder: str) -> str | None:
    width = model_dim // num_heads
    if (encoder == "grid" and decoder == "patch") or model_dim % num_heads or latent_dim % width == 0:
        return None
    near = max(width, round(latent_dim / width) * width)
    return (
        f"found {latent_dim}, which heads of width {width} (model.model_dim {model_dim} / model.num_heads {num_heads}) "
        f"don't divide, as the point encoder and decoder need; nearest that fits: {near}"
    )


def _dropout_leaves_frames(dropout: float, context_frames: int) -> str | None:
    if dropout == 0 or context_frames > 1:
        return None
    return f"found {dropout} with model.context_frames 1: there is no earlier frame to leave out; use 0, or more frames"


def _jitter_of_patches(jitter: bool, encoder: str) -> str | None:
    return (
        'found true with model.encoder "points", which has no patches; use false'
        if jitter and encoder == "points"
        else None
    )


def _clamp_of_points(log_clamp: float | None, decoder: str) -> str | None:
    if log_clamp is None or decoder != "patch":
        return None
    return f'found {log_clamp}, which is for the any-point decoder, with model.decoder "patch"; use null'


def _hash_of_geometry(hashed: bool, shown: bool) -> str | None:
    return "found true without conditioning.geometry; set that to true too" if hashed and not shown else None


def _needs_latent(value: float, prediction: str) -> str | None:
    if not value or prediction == "latent":
        return None
    return (
        f'found {value} with model.prediction "field", whose decoder gives changes, not fields: use 0, or '
        'model.prediction "latent"'
    )


def _operator_is_trained(autoencoder_steps: int, steps: int, every_steps: int) -> str | None:
    if autoencoder_steps == 0:
        return None
    if autoencoder_steps >= steps:
        return f"found {autoencoder_steps}, which leaves no step of schedule.steps {steps} for the operator"
    if every_steps == 0:
        return f"found {autoencoder_steps} with evaluate.every_steps 0: its gate is measured on the validation split"
    return None


def _increasing(values: Sequence[int]) -> str | None:
    if all(a < b for a, b in itertools.pairwise(values)):
        return None
    return f"found {list(values)}; must be strictly increasing, such as {sorted(set(values))}"


def _bf16_needs_sharding(stage: int, precision: str) -> str | None:
    if stage or precision != "bf16":
        return None
    return (
        'found 0 with engine.precision "bf16": DeepSpeed\'s bf16 optimizer at stage 0 takes a step at initialisation; '
        'use engine.zero_stage 1, or engine.precision "fp32"'
    )


def _recomputation_under_zero_3(mode: str, stage: int) -> str | None:
    if stage < 3 or mode != "selective":
        return None
    return (
        'found "selective" with engine.zero_stage 3: selective recomputation does not find the weights that ZeRO-3 has '
        'let go of; use "full" or "none", or zero_stage 2'
    )


def _accumulation_in_draws(stated: int | None, draws: int) -> str | None:
    if stated is None or stated % draws == 0:
        return None
    return (
        f"found {stated}, which is no multiple of data.draws_per_step {draws}; "
        f"use {draws * math.ceil(stated / draws)}, or null to derive it"
    )


def _batch_holds_draws(batch_tokens: int, draws: int, latent_tokens: int, horizons: Sequence[int]) -> str | None:
    least = draws * latent_tokens * max(horizons)
    if batch_tokens >= least:
        return None
    return (
        f"found {batch_tokens}; at least {least} is needed for one window per draw: data.draws_per_step {draws} x "
        f"model.latent_tokens {latent_tokens} x longest horizon {max(horizons)}"
    )


def _kept_are_published(keep_every: int, every_steps: int) -> str | None:
    if keep_every == 0 or keep_every >= every_steps:
        return None
    return f"found {keep_every}, less than checkpoint.every_steps {every_steps}; use 0 or at least {every_steps}"


def _wsd_fits(warmup_ratio: float, decay_ratio: float, name: str) -> str | None:
    if name != "wsd" or warmup_ratio + decay_ratio <= 1:
        return None
    return (
        f"found {warmup_ratio}, which with schedule.decay_ratio {decay_ratio} exceeds the whole run; "
        "their sum must be at most 1"
    )


def _needs_validation(asked: Any, every_steps: int) -> str | None:
    if asked is None or every_steps:
        return None
    return f"found {asked} with evaluate.every_steps 0: it is decided at validations; use null, or validate"


# What a network of other people's leaves open: all else about it is its own.
BASELINES_HAVE: Mapping[str, tuple[Any, ...]] = {
    "model.encoder": ("grid",),
    "model.decoder": ("patch",),
    "model.prediction": ("field",),
    "model.channel_separated": (False,),
    "model.patch_jitter": (False,),
    "model.drop_path": (0,),
    "engine.zero_stage": (0, 1, 2),
    "engine.activation_checkpointing": ("none", "full"),
}

RULES = (
    Rule(
        ("data.batch_tokens", "data.draws_per_step", "model.latent_tokens", "curriculum.horizons"), _batch_holds_draws
    ),
    Rule(("model.num_heads", "model.model_dim", "model.operator"), _heads_divide_width),
    Rule(("model.model_dim", "model.num_heads", "model.operator"), _heads_rotate),
    *(Rule((key, "model.operator"), partial(_not_for_baselines, wanted)) for key, wanted in BASELINES_HAVE.items()),
    Rule(("model.model_dim", "model.operator"), _width_of_baselines),
    Rule(("model.modes", "model.operator"), _modes_of_fno),
    Rule(("model.target", "model.prediction"), _absolute_fields),
    Rule(("engine.precision", "model.operator"), _fno_in_fp32),
    Rule(("model.channel_separated", "model.operator", "model.accept_stacked_separated"), _separated_by_choice),
    Rule(("model.u_stages",), _stages_double),
    Rule(("model.depth", "model.u_depths", "model.u_stages", "model.operator"), _depth_of_levels),
    Rule(("model.patch_jitter", "model.encoder"), _jitter_of_patches),
    Rule(("model.log_clamp", "model.decoder"), _clamp_of_points),
    Rule(
        ("model.latent_dim", "model.model_dim", "model.num_heads", "model.encoder", "model.decoder"), _ends_have_heads
    ),
    Rule(("model.frame_dropout", "model.context_frames"), _dropout_leaves_frames),
    Rule(("conditioning.geometry_hash", "conditioning.geometry"), _hash_of_geometry),
    Rule(("objective.reconstruction", "model.prediction"), _needs_latent),
    Rule(("curriculum.autoencoder_steps", "model.prediction"), _needs_latent),
    Rule(("curriculum.autoencoder_steps", "schedule.steps", "evaluate.every_steps"), _operator_is_trained),
    Rule(("schedule.warmup_ratio", "schedule.decay_ratio", "schedule.name"), _wsd_fits),
    Rule(("curriculum.horizons",), _increasing),
    Rule(("engine.zero_stage", "engine.precision"), _bf16_needs_sharding),
    Rule(("engine.activation_checkpointing", "engine.zero_stage"), _recomputation_under_zero_3),
    Rule(("engine.accumulation", "data.draws_per_step"), _accumulation_in_draws),
    Rule(("checkpoint.keep_every", "checkpoint.every_steps"), _kept_are_published),
    Rule(("evaluate.horizons",), _increasing),
    Rule(("gates.patience", "evaluate.every_steps"), _needs_validation),
    Rule(("gates.proxy_against", "evaluate.every_steps"), _needs_validation),
)
