#!/usr/bin/env python3
"""Checks a recipe and its data together before a GPU is booked: every problem at once, in seconds.

Looks at the recipe, the manifest, the shards' sizes and their indices. With --deep every byte of every shard is read:
SHA-256 of each file, checksum of each frame, NaN and infinity, the tar's own description of its members, and the
statistics anew.

Example:
    tools/validate.py --recipe recipes/demo.json
    tools/validate.py --recipe recipes/S.json --data data/mine/manifest.json --world-size 8 --deep

Exit code 0 if the recipe can be trained on the data, 2 if not: the problems are then listed on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ups_scale.errors import RecipeError, UserError, run_command
from ups_scale.recipe.load import add_recipe_arguments, load, stated

MAX_PRINTED = 50
GIB = 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe_arguments(parser)
    parser.add_argument(
        "--data", metavar="MANIFEST", help="the data, a path or a URL (default: the recipe's data.manifest)"
    )
    parser.add_argument("--deep", action="store_true", help="read every byte of the shards")
    parser.add_argument("--world-size", type=int, help="ranks to train on (default: the recipe's engine.min_gpus)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="shards read side by side (default: one per core)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments = parser.parse_args()
    for name in ("world_size", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise RecipeError(f"--{name.replace('_', '-')} {value}: expected 1 or more")

    start = time.perf_counter()
    report = examine(arguments)
    report["seconds"] = round(time.perf_counter() - start, 3)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)
    return 2 if report["problems"] else 0


def examine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is wrong, and what the data set holds, as plain JSON values."""
    report: dict[str, Any] = {"recipe": arguments.recipe, "manifest": None, "problems": [], "notes": []}
    report |= {"families": [], "damaged": [], "deep": None}
    recipe, path = None, arguments.data
    try:
        recipe = load(arguments.recipe, arguments.set)
        path = path or recipe.data.manifest
    except RecipeError as error:
        add(report, "recipe", error.problems)
        named = stated(arguments.recipe, arguments.set, "data.manifest")
        path = path or (named if isinstance(named, str) and named else None)
    if path is None:
        report["notes"].append("the data were not looked at, as the recipe does not say which; name them with --data")
        return report

    from ups_scale.data.manifest import load_manifest
    from ups_scale.data.remote import is_url
    from ups_scale.data.validate import inspect

    report["manifest"] = path if is_url(path) else str(Path(path))
    # Of a recipe that is wrong, only which data it means is known.
    cache = (recipe.data.cache_dir, recipe.data.cache_gib) if recipe else ()
    try:
        manifest = load_manifest(path, *cache)
    except UserError as error:
        add(report, "data", error.problems)
        return report
    if recipe is not None:
        from ups_scale.train.requirements import trained_specs, unmet

        world_size = arguments.world_size or max(1, recipe.engine.min_gpus)
        report["world_size"] = world_size
        add(report, "fit", unmet(recipe, manifest, world_size))
        report["notes"] += trained_specs(recipe, manifest)[1]
    try:
        inspection = inspect(manifest, arguments.threads)
        add(report, "data", inspection.problems)
        report["notes"] += [str(note) for note in inspection.notes]
        if arguments.deep:
            read_all(report, manifest, recipe, arguments)
    except UserError as error:  # a server that can't be asked
        add(report, "data", error.problems)
    report["families"] = [describe(data) for data in manifest.families.values()]
    return report


def read_all(report: dict[str, Any], manifest: Any, recipe: Any, arguments: argparse.Namespace) -> None:
    """Adds what reading every byte finds, and whether a training run would go on with it (None: no such run)."""
    from tqdm import tqdm

    from ups_scale.data.scan import scan

    total = sum(entry.bytes for data in manifest.families.values() for part in data.shards.values() for entry in part)
    start = time.perf_counter()
    # None: tqdm's own rule, silent when the output is no terminal.
    settings = {"unit": "B", "unit_scale": True, "disable": True if arguments.json else None}
    with tqdm(total=total, desc="reading", **settings) as bar:
        found = scan(manifest, arguments.threads, bar.update)
    seconds = time.perf_counter() - start
    add(report, "deep", found.problems)
    allowed = recipe.data.max_damaged_share if recipe else None
    report["deep"] = {"bytes": found.num_bytes, "mb_per_s": round(found.num_bytes / 1e6 / max(seconds, 1e-9), 1)}
    for (name, split), count in found.damaged.items():
        share = count / manifest.families[name].num_trajectories(split)
        stops = None if split != "train" or allowed is None else share > allowed
        place = {"family": name, "split": split}
        report["damaged"].append({**place, "trajectories": count, "share": share, "stops_training": stops})


def add(report: dict[str, Any], about: str, problems: Any) -> None:
    """Adds problems, texts or findings, about "recipe", "fit" (recipe and data), "data" or "deep"."""
    for problem in problems:
        place = {} if isinstance(problem, str) else {k: v for k, v in asdict(problem).items() if k != "text"}
        report["problems"].append({"about": about, "text": str(problem), **place})


def describe(data: Any) -> dict[str, Any]:
    """What one family holds."""
    spec, shards = data.spec, [shard for part in data.shards.values() for shard in part]
    marks = {
        "masked": spec.masked,
        "steady": spec.steady,
        "irregular": not data.regular,
        "points": spec.geometry == "points",
    }
    return {
        "family": spec.name,
        "grid": list(spec.grid),
        "trajectories": {split: data.num_trajectories(split) for split in data.splits},
        "frames": dict(data.num_frames),
        "gib": sum(shard.bytes for shard in shards) / GIB,
        "shards": len(shards),
        "boundaries": [list(sides) for sides in spec.boundaries],
        "marks": [name for name, holds in marks.items() if holds],
    }


def show(report: dict[str, Any]) -> None:
    """Prints the report for people: problems to standard error, or a line per family."""
    problems = report["problems"]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        print(f"error: {report['recipe']} on {report['manifest'] or 'no data'}: {count}", file=sys.stderr)
        for problem in problems[:MAX_PRINTED]:
            print(f"  {problem['text']}", file=sys.stderr)
        if len(problems) > MAX_PRINTED:
            print(f"  and {len(problems) - MAX_PRINTED} more: --json lists them all", file=sys.stderr)
    else:
        for family in report["families"]:
            print(family_line(family))
    for damaged in report["damaged"]:
        print(damaged_line(damaged), file=sys.stderr)
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    if report["deep"]:
        print(f"read {report['deep']['bytes'] / GIB:.2f} GiB at {report['deep']['mb_per_s']:.0f} MB/s", file=sys.stderr)


def damaged_line(damaged: dict[str, Any]) -> str:
    verdict = {
        None: "",
        True: "; more than data.max_damaged_share: training would stop",
        False: "; no more than data.max_damaged_share: training would put others in their place",
    }[damaged["stops_training"]]
    return (
        f"{damaged['family']}, {damaged['split']}: {damaged['trajectories']} trajectories can't be read whole, "
        f"{damaged['share']:.3%}{verdict}"
    )


def family_line(family: dict[str, Any]) -> str:
    trajectories = " + ".join(
        f"{count} {split} of {family['frames'][split]} frames" for split, count in family["trajectories"].items()
    )
    kinds = dict.fromkeys("/".join(dict.fromkeys(sides)) for sides in family["boundaries"])
    marks = "".join(f", {mark}" for mark in family["marks"])
    grid = "x".join(map(str, family["grid"]))
    return f"{family['family']}: {grid}, {trajectories}, {family['gib']:.3f} GiB, {', '.join(kinds)}{marks}"


if __name__ == "__main__":
    run_command(main)
