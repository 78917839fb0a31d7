#!/usr/bin/env python3
"""Writes one self-contained page of a training run: what became of it, curves, validation, recipe and environment.

Works on a run that is still training, too. The page of an evaluation is written by tools/evaluate.py.

Example:
    tools/report.py runs/demo-1a2b3c4d
    tools/report.py runs/demo-1a2b3c4d --out demo.html --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ups_scale.errors import CheckpointError, remedy, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, runs/<name>-<hash8>")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: RUN/report.html)")
    parser.add_argument("--json", action="store_true", help="print what the page says as JSON")
    arguments = parser.parse_args()

    from ups_scale import atomic
    from ups_scale.evaluate.run_record import read_run
    from ups_scale.evaluate.run_report import page, values, verdict

    run = read_run(arguments.run)
    out = arguments.out or arguments.run / "report.html"
    try:
        atomic.write_text(out, page(run))
    except OSError as error:
        what = remedy(error, "name another file with --out")
        raise CheckpointError(f"{out}: can't be written ({error.strerror}); {what}") from None
    if arguments.json:
        print(json.dumps(values(run), indent=1, allow_nan=False))
        return
    print(verdict(run))
    for line in (*run.damage, *run.unread):
        print(f"note: {line}")
    print(f"report: {out}")


if __name__ == "__main__":
    run_command(main)
