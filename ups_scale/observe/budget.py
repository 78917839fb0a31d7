"""What a recipe costs before anything runs: parameters, tokens and operations per step, bytes per ZeRO stage."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ups_scale.data.plan import check_windows, windows_per_draw
from ups_scale.model.build import build_model
from ups_scale.observe.activations import Activations, activations
from ups_scale.observe.flops import training_flops
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe import rules
from ups_scale.recipe.types import Recipe

GIB = 2**30
MIB = 2**20
# AdamW: fp32 master weight (where the model itself is bf16) and two fp32 moments.
MOMENT_BYTES = 8
MASTER_BYTES = 4
AVERAGE_BYTES = 4


def budget(recipe: Recipe, specs: Sequence[FamilySpec], world_size: int) -> dict[str, Any]:
    """The plan of a recipe as plain JSON values; the model is built on the meta device, nothing is allocated.

    Bytes are per rank: weights, gradients and optimizer (moments, fp32 master weights, moving average) under each ZeRO
    stage (arXiv 1910.02054, section 5). Activations are those of a microstep of one rank, where they are the most over
    the horizons: those of every predicted frame are kept. Buffers are not in it.
    """
    with torch.device("meta"):
        model = build_model(recipe, specs)
    if recipe.engine.precision == "bf16":
        model.to(torch.bfloat16)
    modules = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    total = sum(modules.values())
    horizons = recipe.curriculum.horizons
    families: dict[str, dict[str, Any]] = {}
    draws = []
    costs: dict[Hashable, tuple[int, Activations]] = {}
    flops_of_blocks: dict[Hashable, Any] = {}
    kept_by_blocks: dict[Hashable, Any] = {}
    # Parts that a draw's windows are divided into: each is a microstep of a rank.
    parts = world_size * rules.accumulation(recipe, world_size) // recipe.data.draws_per_step
    for name in sorted(spec.name for spec in specs):
        tokens = model.num_tokens(name)
        alike = _alike(model.specs[name])
        if alike not in costs:
            costs[alike] = (
                training_flops(model, name, flops_of_blocks),
                activations(model, name, recipe.engine.activation_checkpointing, kept_by_blocks),
            )
        flops, kept = costs[alike]
        windows = {
            h: windows_per_draw(recipe.data.batch_tokens, recipe.data.draws_per_step, tokens * h) for h in horizons
        }
        for horizon, count in windows.items():
            check_windows(name, count, horizon, world_size)
        families[name] = {
            "grid": list(model.specs[name].grid),
            "lattice": list(model.lattices[name]),
            "tokens_per_frame": tokens,
            "training_gflops_per_frame": flops / 1e9,
            "activation_mib_per_frame": kept.per_sample / MIB,
            "activation_mib_shared": kept.shared / MIB,
            "activation_gib_per_microstep": max(
                horizon * (kept.per_sample * math.ceil(count / parts) + kept.shared) / GIB
                for horizon, count in windows.items()
            ),
            "windows_per_draw": {str(h): count for h, count in windows.items()},
        }
        draws.append(flops * windows[horizons[0]] * horizons[0] / 1e12)
    # The plain mean over families: how often each is drawn depends on the data's trajectories.
    mean_draw = sum(draws) / len(draws)
    return {
        "recipe": recipe.run.name,
        "ranks": world_size,
        "parameters": {**modules, "total": total},
        "batch_tokens": recipe.data.batch_tokens,
        "micro_tokens": rules.micro_tokens(recipe),
        "accumulation": rules.accumulation(recipe, world_size),
        "training_tflops_per_step": mean_draw * recipe.data.draws_per_step,
        "steps": recipe.schedule.steps,
        "families": families,
        "gib_per_rank": {
            str(stage): _bytes(total, stage, recipe.engine.precision, recipe.stabilization.ema_decay > 0, world_size)
            for stage in range(4)
        },
        "zero_stage": recipe.engine.zero_stage,
        "activation_checkpointing": recipe.engine.activation_checkpointing,
    }


def _alike(spec: FamilySpec) -> Hashable:
    """What the cost of a family depends on; the same for families that cost the same."""
    sizes = (spec.grid, len(spec.fields), spec.dynamic, len(spec.coordinates), len(spec.parameters))
    return sizes, spec.extents if spec.geometry == "points" else None, spec.periodic, spec.masked, spec.steady


def _bytes(parameters: int, stage: int, precision: str, averaged: bool, world_size: int) -> dict[str, float] | None:
    """GiB per rank; None for bf16 at stage 0, which recipes refuse."""
    if precision == "bf16" and stage == 0:
        return None
    low = 2 if precision == "bf16" else 4
    # DeepSpeed keeps a separate fp32 copy of each rank's partition from stage 1 on, also when training in fp32.
    optimizer = MOMENT_BYTES + (AVERAGE_BYTES if averaged else 0) + (MASTER_BYTES if stage > 0 else 0)
    # What is kept per parameter, and the stage from which on it is divided among the ranks.
    kept = {"weights": (low, 3), "gradients": (low, 2), "optimizer": (optimizer, 1)}
    gib = {
        name: parameters * size / (world_size if stage >= divided_from else 1) / GIB
        for name, (size, divided_from) in kept.items()
    }
    return {**gib, "total": sum(gib.values())}


def render(figures: dict[str, Any]) -> str:
    """The plan as a page of text."""
    lines = [f"recipe {figures['recipe']} on {figures['ranks']} rank(s); families from {figures['families_from']}", ""]
    lines.append("parameters")
    lines += [f"  {name:<14}{count / 1e6:>10.3f} M" for name, count in figures["parameters"].items()]
    lines += [
        "",
        f"{figures['steps']} steps of {figures['batch_tokens']} tokens, in {figures['accumulation']} microsteps",
    ]
    lines[-1] += f" of at most {figures['micro_tokens']} tokens on each rank;"
    lines.append(
        f"about {figures['training_tflops_per_step']:.4g} TFLOP per step (forward and backward, no recomputation)"
    )
    lines += [
        "",
        f"{'family':<32}{'grid':>10}{'lattice':>9}{'tokens':>8}{'GFLOP/frame':>13}{'MiB/frame':>11}"
        f"{'GiB/microstep':>15}  windows per draw at horizon",
    ]
    for name, family in figures["families"].items():
        grid, lattice = ("x".join(map(str, family[key])) for key in ("grid", "lattice"))
        windows = ", ".join(f"h{h}: {count}" for h, count in family["windows_per_draw"].items())
        lines.append(
            f"{name:<32}{grid:>10}{lattice:>9}{family['tokens_per_frame']:>8}"
            f"{family['training_gflops_per_frame']:>13.3f}{family['activation_mib_per_frame']:>11.3f}"
            f"{family['activation_gib_per_microstep']:>15.3f}  {windows}"
        )
    lines.append(
        "MiB/frame: activations kept for the backward pass, of a sample and a predicted frame, with "
        f"activation_checkpointing {figures['activation_checkpointing']}"
    )
    lines.append("GiB/microstep: activations of a microstep on each rank, where they are the most over the horizons")
    lines += ["", f"{'GiB per rank':<16}{'weights':>10}{'gradients':>11}{'optimizer':>11}{'total':>9}"]
    for stage, row in figures["gib_per_rank"].items():
        mark = " <- recipe" if int(stage) == figures["zero_stage"] else ""
        if row is None:
            lines.append(f"  ZeRO-{stage:<9}  refused with bf16")
            continue
        sizes = f"{row['weights']:>10.3f}{row['gradients']:>11.3f}{row['optimizer']:>11.3f}{row['total']:>9.3f}"
        lines.append(f"  ZeRO-{stage:<9}{sizes}{mark}")
    lines.append("optimizer: two fp32 moments, fp32 master weights from ZeRO-1 on, the moving average;")
    lines.append("activations (see above), temporary tensors and communication buffers come on top")
    return "\n".join(lines)
