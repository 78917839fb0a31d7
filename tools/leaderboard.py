#!/usr/bin/env python3
"""Prints the leaderboard of a run root: every evaluation, in tables of what can be compared, the best first.

Evaluations add themselves to <runs>/leaderboard.csv, with <runs>/leaderboard.html beside it.

Example:
    tools/leaderboard.py
    tools/leaderboard.py --runs runs --suite full --json
    tools/leaderboard.py --runs runs --rebuild
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ups_scale.errors import DataError, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the run root (default: runs)")
    parser.add_argument("--suite", metavar="NAME", help="evaluations of this suite alone (default: all)")
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="make it anew from <run>/evaluation/<suite>/report.json; the file that is there is kept as .before",
    )
    parser.add_argument("--json", action="store_true", help="print a list of rows instead of the tables")
    arguments = parser.parse_args()

    from ups_scale.evaluate import leaderboard
    from ups_scale.evaluate.leaderboard_page import text

    path = arguments.runs / "leaderboard.csv"
    if not arguments.runs.is_dir():
        raise DataError(f"{arguments.runs}: no such folder; name the run root with --runs")
    if arguments.rebuild:
        done = leaderboard.rebuild(path, arguments.runs)
        for line in done.skipped:
            print(f"skipped: {line}", file=sys.stderr)
        kept = f"; what was there is in {done.before}" if done.before else ""
        print(f"{path}: {done.rows} row(s){kept}", file=sys.stderr)
    rows = leaderboard.read(path)
    if not rows:
        raise DataError(
            f"{path}: no evaluation in it yet; make one with tools/evaluate.py, or --rebuild it from the reports"
        )
    rows = [row for row in rows if arguments.suite in (None, row["suite"])]
    if not rows:
        raise DataError(f"{path}: no evaluation of suite {arguments.suite}; leave --suite out to see all")
    print(json.dumps(rows, indent=1) if arguments.json else text(rows))


if __name__ == "__main__":
    run_command(main)
