#!/usr/bin/env python3
"""Generates trajectories with the embedded solvers, as HDF5 files in PDEBench's layouts: one per family and split.

Example:
    tools/generate.py --families all --trajectories 320 --out data/mine/hdf5
    tools/generate.py --families burgers_1d,advection_1d --trajectories 64 --splits test=1 --seed 7 --out data/more

A rerun keeps files whose settings match and makes the others again. docs/families.md describes the families.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from ups_scale.errors import DataError, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", required=True, metavar="NAMES", help="comma-separated, or all")
    parser.add_argument("--trajectories", type=int, required=True, metavar="N", help="per family, all splits together")
    parser.add_argument(
        "--splits",
        default="train=0.8,valid=0.1,test=0.1",
        metavar="NAME=FRACTION,...",
        help="the first one takes what rounding leaves (default %(default)s)",
    )
    parser.add_argument("--frames", type=int, default=24, metavar="T", help="per trajectory (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    arguments = parser.parse_args()

    import torch
    from tqdm import tqdm

    from ups_scale.solvers.files import prepare_folder, split_counts, write_family
    from ups_scale.solvers.generate import check_request
    from ups_scale.solvers.setups import SETUPS, setup

    names = list(SETUPS) if arguments.families == "all" else arguments.families.split(",")
    for name in names:
        setup(name)
    check_request(arguments.trajectories, arguments.frames, arguments.seed, arguments.device)
    counts = split_counts(arguments.trajectories, parse_fractions(arguments.splits))
    prepare_folder(arguments.out)
    # Batches are small enough that a second thread costs more than it gives.
    torch.set_num_threads(1)

    on_terminal = sys.stderr.isatty()
    begin = time.perf_counter()
    written = []
    with tqdm(total=len(names) * arguments.trajectories, unit="trajectory", disable=not on_terminal) as bar:
        for name in names:
            bar.set_description(name)
            files = write_family(
                name,
                counts,
                arguments.out,
                num_frames=arguments.frames,
                seed=arguments.seed,
                device=arguments.device,
                say=lambda line: tqdm.write(line, file=sys.stderr),
                advance=bar.update,
            )
            written += files
            if not on_terminal:
                seconds = sum(file.seconds for file in files)
                print(f"{name}: {arguments.trajectories} trajectories in {seconds:.1f} s", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - begin

    rows = [
        {
            "family": file.family,
            "split": file.split,
            "trajectories": file.num_trajectories,
            "shape": list(file.shape),
            "mib": round(file.num_bytes / 2**20, 2),
            "seconds": round(file.seconds, 2),
            "kept": file.skipped,
            "path": str(file.path),
        }
        for file in written
    ]
    made = sum(file.num_trajectories for file in written if not file.skipped)
    rate = round(made / seconds, 1)
    if arguments.json:
        print(json.dumps({"out": str(arguments.out), "trajectories_per_s": rate, "files": rows}))
        return
    print(f"{'family':<24}{'split':<8}{'trajectories':>13}  {'shape (N, T, C, ...)':<24}{'MiB':>9}{'seconds':>9}")
    for file in written:
        taken = "kept" if file.skipped else f"{file.seconds:.2f}"
        print(
            f"{file.family:<24}{file.split:<8}{file.num_trajectories:>13}  {file.shape!s:<24}"
            f"{file.num_bytes / 2**20:>9.2f}{taken:>9}"
        )
    print(f"{made} trajectories made in {seconds:.1f} s ({rate} trajectories/s) in {arguments.out}")


def parse_fractions(text: str) -> dict[str, float]:
    """{"train": 0.8, ...} from "train=0.8,..."."""
    fractions = {}
    for pair in text.split(","):
        name, _, value = pair.partition("=")
        try:
            fractions[name.strip()] = float(value)
        except ValueError:
            raise DataError(f"--splits {text}: {pair!r} is not NAME=FRACTION, such as train=0.8") from None
    return fractions


if __name__ == "__main__":
    run_command(main, "the files that are written are kept; the same command goes on")
