#!/usr/bin/env python3
"""Pretrains a recipe.

Example:
    deepspeed --num_accelerators 2 launch/pretrain.py --recipe recipes/demo.json
    torchrun --nproc-per-node 2 launch/pretrain.py --recipe recipes/demo.json --set optimizer.lr=5e-4
    python launch/pretrain.py --recipe recipes/demo.json

Exit codes: 0 done; 2 recipe, data or checkpoint is wrong (the message says what to do); 3 diverged, or the
autoencoder missed its gate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ups_scale.errors import run_command
from ups_scale.recipe.load import add_recipe_arguments, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe_arguments(parser)
    parser.add_argument("--run-root", type=Path, default=Path("runs"), help="where run folders lie (default: runs)")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|none|PATH",
        help="newest whole checkpoint (default), none, or this one",
    )
    parser.add_argument("--where", action="store_true", help="print the run folder of this recipe and data, and stop")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    arguments = parser.parse_args()
    recipe = load(arguments.recipe, arguments.set)
    if arguments.where:
        from ups_scale.data.manifest import load_manifest
        from ups_scale.train.run import run_folder

        print(run_folder(arguments.run_root, recipe, load_manifest(recipe.data.manifest).digest))
        return
    # torch and DeepSpeed take seconds to import: a wrong recipe is told before.
    from ups_scale.train.loop import pretrain

    pretrain(recipe, run_root=arguments.run_root, resume=arguments.resume)


if __name__ == "__main__":
    run_command(main, "the newest checkpoint is kept; the same command goes on from it")
