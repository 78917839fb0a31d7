#!/usr/bin/env python3
"""Plans a recipe without a GPU and without data: parameters, tokens, operations and bytes per ZeRO stage.

Families come from the recipe's manifest if it is there or at a URL, else from the built-in registry at its usual grids.

Example:
    tools/plan.py --recipe recipes/S.json
    tools/plan.py --recipe recipes/L.json --nodes 2 --gpus 8 --json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ups_scale.errors import DataError, RecipeError, run_command
from ups_scale.recipe.load import add_recipe_arguments, load
from ups_scale.recipe.rules import check_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe_arguments(parser)
    parser.add_argument("--nodes", type=int, default=1, help="number of machines (default 1)")
    parser.add_argument("--gpus", type=int, help="ranks per machine (default: the recipe's engine.min_gpus, or 1)")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    arguments = parser.parse_args()
    recipe = load(arguments.recipe, arguments.set)
    gpus = arguments.gpus if arguments.gpus is not None else max(1, recipe.engine.min_gpus)
    if arguments.nodes < 1 or gpus < 1:
        raise RecipeError(f"--nodes {arguments.nodes} --gpus {gpus}: both must be at least 1")

    from ups_scale.data.manifest import load_manifest
    from ups_scale.data.remote import is_url
    from ups_scale.observe.budget import budget, render
    from ups_scale.solvers import default_specs
    from ups_scale.train.requirements import chosen, trained_specs

    path = recipe.data.manifest
    is_there = is_url(path) or Path(path).exists()
    if is_there:
        manifest = chosen(recipe, load_manifest(path))
        transient = {name: data.num_frames for name, data in manifest.families.items() if not data.spec.steady}
        check_data(recipe, transient)
        specs, notes = trained_specs(recipe, manifest)
        if not specs:
            raise DataError(f"{path}: no family has a train split; give tools/shard.py training data too")
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    else:
        specs = list(default_specs().values())
    figures = budget(recipe, specs, arguments.nodes * gpus)
    figures["families_from"] = path if is_there else "the built-in registry"
    print(json.dumps(figures, indent=1) if arguments.json else render(figures))


if __name__ == "__main__":
    run_command(main)
