#!/usr/bin/env python3
"""Compares evaluations: what differs in their recipes beside what differs in their figures, and how sure that is.

The first is the reference. Runs that differ in run.seed alone are replicates: one column shows their mean and spread.

Example:
    tools/compare.py runs/demo-1a2b3c4d runs/wider-5e6f7a8b
    tools/compare.py runs/a-1a2b3c4d runs/b-5e6f7a8b --suite full --step 16 --html compare.html
    tools/compare.py runs/a-1a2b3c4d/evaluation/small out/report.json --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ups_scale.errors import DataError, remedy, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "evaluations",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="two or more run folders, evaluation folders or report.json files",
    )
    parser.add_argument("--suite", help="of run folders, this suite (default: full if all have it, else small)")
    parser.add_argument("--step", type=int, metavar="K", help="figures at this step alone (default: all)")
    parser.add_argument(
        "--all", action="store_true", help="print all figures of physics and calibration (default: those that differ)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page too")
    parser.add_argument("--anyway", action="store_true", help="compare figures of other data or suites too, and say so")
    arguments = parser.parse_args()

    from ups_scale import atomic
    from ups_scale.evaluate.compare import compare
    from ups_scale.evaluate.compare_page import page, text, values

    result = compare(arguments.evaluations, arguments.suite, arguments.step, arguments.anyway)
    if arguments.html:
        try:
            atomic.write_text(arguments.html, page(result))
        except OSError as error:
            what = remedy(error, "name another file")
            raise DataError(f"{arguments.html}: can't be written ({error.strerror}); {what}") from None
    if arguments.json:
        print(json.dumps(values(result), indent=1, allow_nan=False))
    else:
        print(text(result, everything=arguments.all))


if __name__ == "__main__":
    run_command(main)
