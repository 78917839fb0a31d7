#!/usr/bin/env python3
"""Evaluates a checkpoint on the test split beside persistence and zero: report.json, table.csv and report.html.

Example:
    tools/evaluate.py --checkpoint runs/demo-1a2b3c4d
    tools/evaluate.py --checkpoint runs/demo-1a2b3c4d/checkpoints/step-1000 --data data/other/manifest.json --out out
    accelerate launch --multi_gpu --num_processes 8 tools/evaluate.py --checkpoint runs/demo-1a2b3c4d

Exit code 0 also when gates fail: they are printed as FAILED, and stand in report.json under "gates".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from ups_scale.errors import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="P", help="a run folder (its newest checkpoint), or step-<N>/"
    )
    parser.add_argument(
        "--data", metavar="MANIFEST", help="the data, a path or a URL (default: the recipe's data.manifest)"
    )
    parser.add_argument("--suite", default="small", help="what to measure (default small; docs/evaluation.md)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: <run>/evaluation/<suite>/ of the run)"
    )
    parser.add_argument(
        "--super-resolution",
        type=_factors,
        default=(),
        metavar="2,4,8",
        help="also predict on the full grid from frames coarser by these factors (default: none)",
    )
    parser.add_argument("--json", action="store_true", help="print report.json instead of the table")
    parser.add_argument("--force", action="store_true", help="evaluate again what is evaluated already")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    arguments = parser.parse_args()

    from ups_scale.evaluate.report import text_table
    from ups_scale.evaluate.run import evaluate_checkpoint, open_accelerator
    from ups_scale.evaluate.super_resolution import lines

    accelerator = open_accelerator(arguments.device)
    # Notices on the way are for people: with --json, standard output is the report alone.
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        done = evaluate_checkpoint(
            arguments.checkpoint,
            accelerator,
            arguments.suite,
            arguments.data,
            arguments.out,
            arguments.force,
            arguments.super_resolution,
        )
    accelerator.end_training()
    if not accelerator.is_main_process:
        return
    if arguments.json:
        print(json.dumps(done.report, indent=1, allow_nan=False))
        return
    print(text_table(done.report))
    for line in lines(done.report):
        print(line)
    for name, entry in done.report["data"].items():
        if "taken_as" in entry:
            print(f"note: {name} is taken as {entry['taken_as']}")
    for name, reason in done.report.get("left_out", {}).items():
        print(f"note: {name} is left out: {reason}")
    if done.replaced_data:
        print(f"replaced the evaluation on other data (digest {done.replaced_data[:12]}); --out keeps them apart")
    if done.already_there:
        print(f"already evaluated on {done.report['date']}; --force does it again")
    print(f"report: {done.out / 'report.html'}")


def _factors(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers with commas between, as 2,4,8") from None


if __name__ == "__main__":
    run_command(main)
