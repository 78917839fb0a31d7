#!/usr/bin/env python3
"""Rolls a checkpoint out from given frames of a data set, for any number of steps, and writes every frame to HDF5.

Example:
    tools/rollout.py --checkpoint runs/demo-1a2b3c4d --family navier_stokes_2d --horizon 200
    tools/rollout.py --checkpoint runs/demo-1a2b3c4d --family burgers_1d --trajectories 0,3 --guards conservation

The file has PDEBench's layout (docs/rollouts.md), and is written frame by frame: memory doesn't grow with the horizon.
Frames beyond those of the data need no truth; their times go on as the last ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from ups_scale.errors import run_command

GUARDS = "helmholtz, positivity, interface_flux, conservation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="P", help="a run folder (its newest checkpoint), or step-<N>/"
    )
    parser.add_argument(
        "--data", metavar="MANIFEST", help="the data, a path or a URL (default: the recipe's data.manifest)"
    )
    parser.add_argument("--family", metavar="F", help="an entry of the data (default: the only one that there is)")
    parser.add_argument("--split", default="test", help="of the data (default test)")
    parser.add_argument(
        "--trajectories", type=_numbers, default=(0,), metavar="0,3", help="their numbers, or all (default 0)"
    )
    parser.add_argument("--horizon", type=int, metavar="N", help="steps (default: the recipe's longest)")
    parser.add_argument("--guards", type=_names, default=(), metavar="G,G", help=f"some of {GUARDS} (default none)")
    parser.add_argument(
        "--until-horizon",
        action="store_true",
        help="end a trajectory at the first step whose correlation with the truth is under 0.8, and say which it is; "
        "--horizon is then by default all that the data hold, and no more than that",
    )
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.hdf5",
        help="default: <run>/rollouts/<family>-<split>-<steps>[-<guards>].hdf5",
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON, and nothing else")
    arguments = parser.parse_args()

    from ups_scale.evaluate.rolled_out import Request, roll_out

    request = Request(
        checkpoint=arguments.checkpoint,
        data=arguments.data,
        family=arguments.family,
        split=arguments.split,
        trajectories=arguments.trajectories,
        horizon=arguments.horizon,
        guards=arguments.guards,
        until_horizon=arguments.until_horizon,
        dtype=arguments.dtype,
        device=arguments.device,
        out=arguments.out,
    )
    # Notices on the way are for people: with --json, standard output is the summary alone.
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        done = roll_out(request)
    if arguments.json:
        print(json.dumps(done, indent=1, allow_nan=False))
        return
    count = len(done["keys"])
    print(
        f"{done['family']}: {count} {'trajectory' if count == 1 else 'trajectories'}, {done['given_frames']} given "
        f"and {done['horizon']} predicted frames, {done['seconds_per_step']:.3g} s per step on {done['device']}"
    )
    if done["taken_as"]:
        print(f"note: taken as {done['taken_as']}")
    for name in done["guards"]:
        print(f"guard {name}: applied")
    for name, reason in done["guards_left_out"].items():
        print(f"guard {name}: left out, {reason}")
    for name, of in done["budgets"].items():
        kept = "must stay constant" if of["closed"] else "may pass the sides"
        print(
            f"budget {name} ({kept}): changes by at most {of['total']:.3g} in total, {of['per_step']:.3g} in a step; "
            f"{of['relative']:.3g} of max(|Q(0)|, L1)"
        )
    if done["nrmse"]:
        told = ", ".join(
            f"{'not finite' if value is None else f'{value:.3g}'} at step {step}"
            for step, value in done["nrmse"].items()
        )
        print(f"nRMSE against the truth: {told}")
    for key, step in done.get("first_below", {}).items():
        told = f"under 0.8 at step {step}, where it ends" if step else f"0.8 or more at all {done['horizon']} steps"
        print(f"{key}: correlation {told}")
    for key, step in done["not_finite"].items():
        print(f"{key}: not finite from step {step} on")
    print(f"file: {done['out']}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    if text == "all":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers with commas between, or all") from None


if __name__ == "__main__":
    run_command(main)
