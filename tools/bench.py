#!/usr/bin/env python3
"""Measures how fast the parts are, beside other people's, on made-up input of a fixed shape.

`data` reads windows of 8 of 21 frames, float32 (4, 64, 64), every frame verified: against copies of memory, h5py,
WebDataset, and The Well's and MosaicML's loaders where they are installed (pip install ups_scale[bench]). `remote`
reads the same from an S3-compatible server on this machine (pip install ups_scale[test]), against a folder. `models`
trains every kind of model on a data set for the same time and prints what each reaches (docs/model.md). `suites`
evaluates checkpoints by the small and the full suite, and says whether both rank them alike.

Example:
    tools/bench.py data
    tools/bench.py remote --json
    tools/bench.py models --seconds 120 --jobs 2
    tools/bench.py suites runs/*/checkpoints/step-*
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# Before numpy and torch: their threads would take turns with the readers' on the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from ups_scale.errors import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="reading windows out of shards, planning, resuming, sharding")
    data.add_argument("--json", action="store_true", help="print the figures as JSON")
    data.add_argument("--rounds", type=int, default=9, help="how often each method has its turn (default 9)")
    data.add_argument("--threads", type=int, default=2, help="reading threads of the stream (default 2, as recipes)")
    data.add_argument("--folder", type=Path, help="where a temporary folder of about 1.5 GB is made")
    remote = commands.add_parser("remote", help="reading from an S3-compatible server beside a folder")
    remote.add_argument("--json", action="store_true", help="print the figures as JSON")
    remote.add_argument("--rounds", type=int, default=5, help="how often each place has its turn (default 5)")
    remote.add_argument("--threads", type=int, default=2, help="reading threads of the stream (default 2, as recipes)")
    remote.add_argument("--step-ms", type=float, default=100.0, help="length of a step of training (default 100)")
    remote.add_argument("--folder", type=Path, help="where a temporary folder of about 1 GB is made")
    models = commands.add_parser("models", help="what each encoder, operator, decoder and prediction learns")
    models.add_argument("--json", action="store_true", help="print the figures as JSON")
    models.add_argument(
        "--seconds", type=float, default=120.0, help="processor time of each training, on one core (default 120)"
    )
    models.add_argument("--jobs", type=int, default=2, help="how many train at a time, a core each (default 2)")
    models.add_argument("--data", default="data/demo/manifest.json", help="manifest (default: the demo's)")
    models.add_argument("--only", default="", help="parts of names, such as u_shaped_grid or latent, comma-separated")
    models.add_argument(
        "--out", type=Path, default=Path("runs/models"), help="runs and finished rows (default %(default)s)"
    )
    suites = commands.add_parser("suites", help="whether the small suite ranks checkpoints as the full one does")
    suites.add_argument("checkpoints", type=Path, nargs="+", metavar="P", help="run folders, or step-<N>/ of them")
    suites.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    if arguments.command == "suites":
        print(bench_suites(arguments))
        return
    if arguments.command == "models":
        if arguments.seconds <= 0 or arguments.jobs < 1:
            parser.error("--seconds must be more than 0 and --jobs at least 1")
        print(bench_models(arguments))
        return
    if arguments.rounds < 1 or arguments.threads < 0:
        parser.error("--rounds must be at least 1 and --threads at least 0")
    print(bench_remote(arguments) if arguments.command == "remote" else bench_data(arguments))


def bench_data(arguments: argparse.Namespace) -> str:
    from ups_scale.bench.data import Settings, measure
    from ups_scale.bench.table import render

    settings = Settings(rounds=arguments.rounds, threads=arguments.threads)
    measured = measure(settings, arguments.folder, say)
    return json.dumps(measured.as_json(), indent=1) if arguments.json else render(measured)


def bench_remote(arguments: argparse.Namespace) -> str:
    from ups_scale.bench.remote import Settings, measure, render

    settings = Settings(rounds=arguments.rounds, threads=arguments.threads, step_s=arguments.step_ms / 1000)
    measured = measure(settings, arguments.folder, say)
    return json.dumps(measured.as_json(), indent=1) if arguments.json else render(measured)


def bench_models(arguments: argparse.Namespace) -> str:
    from ups_scale.bench.models import choose, measure, render

    chosen = choose(arguments.data, [part for part in arguments.only.split(",") if part])
    rows = measure(chosen, arguments.data, arguments.seconds, arguments.jobs, arguments.out, say)
    return json.dumps(rows, indent=1) if arguments.json else render(rows)


def bench_suites(arguments: argparse.Namespace) -> str:
    from ups_scale.bench.suites import compare, correlations, render

    rows = compare(arguments.checkpoints, say)
    found = {"checkpoints": [row.as_json() for row in rows], "rank_correlation": correlations(rows)}
    return json.dumps(found, indent=1) if arguments.json else render(rows)


def say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
