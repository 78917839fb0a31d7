#!/usr/bin/env python3
"""Evaluates a checkpoint beside the trivial predictors and the zoo: report.json, trajectories.json, table.csv and
report.html; then compares it with the champion and adds it to the leaderboard.

Example:
    tools/evaluate.py --checkpoint runs/demo-1a2b3c4d
    tools/evaluate.py --checkpoint runs/demo-1a2b3c4d --suite full
    tools/evaluate.py --checkpoint runs/demo-1a2b3c4d/checkpoints/step-1000 --data data/other/manifest.json --out out
    tools/evaluate.py --queued
    accelerate launch --multi_gpu --num_processes 8 tools/evaluate.py --checkpoint runs/demo-1a2b3c4d --suite full

Exit code 0 also when gates fail: they are printed as FAILED, and stand in report.json under "gates".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ups_scale.errors import UserError, run_command

if TYPE_CHECKING:
    from ups_scale.evaluate.standing import Standing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, metavar="P", help="a run folder (its newest checkpoint), or step-<N>/")
    what.add_argument(
        "--queued",
        action="store_true",
        help="the full evaluations of what won on the small suite (docs/champions.md)",
    )
    parser.add_argument(
        "--data", metavar="MANIFEST", help="the data, a path or a URL (default: the recipe's data.manifest)"
    )
    parser.add_argument("--suite", help="what to measure: small (default) or full; docs/evaluation.md")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: <run>/evaluation/<suite>/, with guards <suite>-<guards>/)",
    )
    parser.add_argument(
        "--zoo",
        default="auto",
        metavar="auto|none|P,P",
        help="baselines beside the model (default auto: those of the same run root trained on the same manifest)",
    )
    parser.add_argument(
        "--guards",
        type=_names,
        default=(),
        metavar="G,G",
        help="correct every predicted frame of every predictor: helmholtz, positivity, interface_flux, conservation",
    )
    parser.add_argument(
        "--noise",
        type=float,
        metavar="S",
        help="of the ensembles' given frames, in RMS (default: the recipe's)",
    )
    parser.add_argument(
        "--super-resolution",
        type=_factors,
        metavar="2,4,8",
        help="also predict on the full grid from frames coarser by these factors (default: the suite's)",
    )
    parser.add_argument(
        "--champions",
        type=Path,
        metavar="DIR",
        help="where champions are (default: champions/ beside the run root; with --queued, champions/ here)",
    )
    parser.add_argument(
        "--no-champion", action="store_true", help="neither compare with the champion, nor promote, nor queue"
    )
    parser.add_argument("--json", action="store_true", help="print report.json instead of the table")
    parser.add_argument("--force", action="store_true", help="evaluate again what is evaluated already")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    arguments = parser.parse_args()

    from ups_scale.evaluate.run import Request, open_accelerator
    from ups_scale.evaluate.standing import DEFAULT, evaluate_and_judge, evaluate_queued

    if arguments.queued and (
        arguments.out or arguments.data or arguments.no_champion or arguments.guards or arguments.suite
    ):
        raise UserError(
            "--queued takes data, suite, guards and place from the queue: leave out --out, --data, --suite, --guards "
            "and --no-champion"
        )
    if arguments.noise is not None and arguments.noise < 0:
        raise UserError(f"--noise {arguments.noise}: a part of the fields' RMS, from 0 (no ensembles)")
    request = Request(
        suite=arguments.suite or "small",
        manifest=arguments.data,
        out=arguments.out,
        force=arguments.force,
        factors=arguments.super_resolution,
        guards=arguments.guards,
        zoo=arguments.zoo,
        noise=arguments.noise,
    )
    accelerator = open_accelerator(arguments.device)
    # Notices on the way are for people: with --json, standard output is the report alone.
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        if arguments.queued:
            done = evaluate_queued(arguments.champions or DEFAULT, accelerator, request)
        else:
            champions = None if arguments.no_champion else arguments.champions
            done = [
                evaluate_and_judge(arguments.checkpoint, accelerator, request, not arguments.no_champion, champions)
            ]
    accelerator.end_training()
    if not accelerator.is_main_process:
        return
    if arguments.json:
        reports = [standing.outcome.report for standing in done]
        print(json.dumps(reports if arguments.queued else reports[0], indent=1, allow_nan=False))
        return
    for standing in done:
        _show(standing, arguments.zoo)
    if not done:
        print("nothing is queued")


def _show(standing: Standing, zoo: str) -> None:
    from ups_scale.evaluate.report import text_table
    from ups_scale.evaluate.super_resolution import lines
    from ups_scale.evaluate.zoo import missing

    done, report = standing.outcome, standing.outcome.report
    print(text_table(report))
    for line in lines(report):
        print(line)
    for name, entry in report["data"].items():
        if "taken_as" in entry:
            print(f"note: {name} is taken as {entry['taken_as']}")
    for name, reason in report.get("left_out", {}).items():
        print(f"note: {name} is left out: {reason}")
    for name, of in report["zoo"].items():
        for entry, reason in of.get("left_out", {}).items():
            print(f"note: {name} is not measured on {entry}: {reason}")
    note = missing(tuple(report["zoo"]), zoo)
    if note:
        print(f"note: {note}")
    for line in report.get("verdict", ()):
        print(f"verdict: {line}")
    for line in standing.notes:
        print(line)
    if done.replaced_data:
        print(f"replaced the evaluation on other data (digest {done.replaced_data[:12]}); --out keeps them apart")
    if done.already_there:
        print(f"already evaluated on {report['date']}; --force does it again")
        if done.new_report:
            print("judged now: report.json and the leaderboard say so, report.html stays as it was")
    print(f"report: {done.out / 'report.html'}")


def _factors(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers with commas between, as 2,4,8") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    run_command(main)
