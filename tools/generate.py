#!/usr/bin/env python3
"""Generates trajectories with the embedded solvers, as HDF5 files in PDEBench's layouts.

Example:
    tools/generate.py --recipe recipes/data/small.json --shard
    tools/generate.py --families all --trajectories 320 --out data/mine/hdf5
    tools/generate.py --families burgers_1d --trajectories 64 --parameter nu=0.01:0.1 --ood regime=16 --out data/more
    tools/generate.py --list

A rerun keeps files whose settings match and makes the others again. docs/families.md describes the families.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ups_scale.errors import DataError, run_command

if TYPE_CHECKING:
    from ups_scale.solvers.files import Written


OF_RECIPE = ("share", "only", "shard")
OF_FAMILIES = ("trajectories", "splits", "ood", "frames", "stride", "grid", "boundary", "parameter", "points")


def main() -> None:
    arguments = parse()

    import torch
    from tqdm import tqdm

    from ups_scale.solvers.datasets import (
        build,
        check_foreign,
        check_space,
        cores,
        load_dataset,
        make_parts,
        parts_of,
        remove_strays,
    )
    from ups_scale.solvers.files import prepare_folder
    from ups_scale.solvers.generate import check_request

    if arguments.list:
        print_list()
        return
    if arguments.gallery:
        from ups_scale.solvers.gallery import draw_gallery
        from ups_scale.solvers.setups import USUAL

        torch.set_num_threads(1)
        draw_gallery(arguments.gallery, USUAL)
        return
    if arguments.recipe:
        dataset = load_dataset(arguments.recipe, changes(arguments))
        folder = (arguments.out or dataset.out) / "hdf5"
        shards = arguments.out or dataset.out
    else:
        dataset = build("--families", [from_flags(arguments)])
        folder = shards = arguments.out
    check_request(1, 0, arguments.device)
    parts = parts_of(dataset, folder)
    workers = arguments.workers or (1 if arguments.device == "cuda" else min(cores(), len(parts)))
    prepare_folder(folder)
    check_foreign(parts)
    check_space(parts, folder, shards if arguments.shard else None)
    left = Counter(part.label for part in parts)
    seconds: dict[str, float] = defaultdict(float)
    begin = time.perf_counter()
    written = []
    on_terminal = sys.stderr.isatty()
    size = sum(part.num_bytes // part.count * part.count for part in parts)
    with tqdm(total=size, unit="B", unit_scale=True, disable=not on_terminal) as bar:
        for one in make_parts(
            parts,
            device=arguments.device,
            workers=workers,
            say=lambda line: tqdm.write(line, file=sys.stderr),
            advance=bar.update,
        ):
            written.append(one)
            label = one.part.label
            left[label] -= 1
            seconds[label] += one.seconds
            if not left[label] and not on_terminal:
                count = sum(part.count for part in parts if part.label == label)
                print(f"{label}: {count} trajectories in {seconds[label]:.1f} s", file=sys.stderr, flush=True)
    for path in remove_strays(parts, folder):
        print(f"{path}: of an earlier run with other numbers, removed", file=sys.stderr)
    places = {part.path: number for number, part in enumerate(parts)}
    written.sort(key=lambda one: places[one.part.path])
    took = time.perf_counter() - begin
    manifest = None
    if arguments.shard:
        from ups_scale.data.shards import convert

        manifest = convert([folder], shards, workers=arguments.workers, show_progress=on_terminal, isolated=True).path
    report(written, took, folder, manifest, arguments.json)
    if arguments.recipe and not (arguments.shard or arguments.json):
        print(f"next: tools/shard.py {folder} --out {shards}")


def report(written: list[Written], seconds: float, folder: Path, manifest: Any, as_json: bool) -> None:
    """Prints the table: a row per set and split."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in written:
        part = one.part
        row = rows.setdefault(
            (part.label, part.split),
            {
                "set": part.label,
                "family": part.request.name,
                "split": part.split,
                "trajectories": 0,
                "shape": list(part.shape[1:]),
                "mib": 0.0,
                "seconds": 0.0,
                "kept": 0,
                "paths": [],
            },
        )
        row["trajectories"] += part.count
        row["mib"] = round(row["mib"] + one.num_bytes / 2**20, 2)
        row["seconds"] = round(row["seconds"] + one.seconds, 2)
        row["kept"] += one.kept
        row["paths"].append(str(part.path))
    made = sum(one.part.count for one in written if not one.kept)
    rate = round(made / seconds, 1)
    if as_json:
        table = {"out": str(folder), "seconds": round(seconds, 1), "trajectories_per_s": rate, "sets": [*rows.values()]}
        print(json.dumps(table if manifest is None else table | {"manifest": str(manifest)}))
        return
    width = max(26, 2 + max(len(label) for label, _ in rows))
    titles = f"{'set':<{width}}{'split':<16}{'trajectories':>13}  {'shape (T, C, ...)':<24}"
    print(f"{titles}{'MiB':>9}{'seconds':>9}{'per s':>8}")
    for row in rows.values():
        shape = "(" + ", ".join(map(str, row["shape"])) + ")"
        kept = row["kept"] == len(row["paths"])
        speed = "" if kept or not row["seconds"] else f"{row['trajectories'] / row['seconds']:.1f}"
        print(
            f"{row['set']:<{width}}{row['split']:<16}{row['trajectories']:>13}  {shape:<24}{row['mib']:>9.2f}"
            f"{'kept' if kept else format(row['seconds'], '.2f'):>9}{speed:>8}"
        )
    print(f"{made} trajectories made in {seconds:.1f} s ({rate} trajectories/s) in {folder}")
    if manifest is not None:
        print(f"manifest: {manifest}")


def print_list() -> None:
    """What can be generated."""
    from ups_scale.solvers.generate import OOD_SPLITS, Request, other_cases, resolve
    from ups_scale.solvers.setups import SETUPS

    for name, chosen in SETUPS.items():
        _, case = resolve(Request(name), "train")
        drawn = ", ".join(f"{key} {one.low:g} to {one.high:g}" for key, one in chosen.ranges.items())
        splits = ", ".join(split for split in OOD_SPLITS if split in other_cases(chosen, case))
        print(f"{name}: {chosen.family.equation}")
        grid, kinds = "x".join(map(str, chosen.grid)), " or ".join(chosen.boundaries)
        print(f"    grid {grid}, boundary {kinds}; drawn: {drawn}" + (f"; {splits}" if splits else ""))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--recipe", type=Path, metavar="FILE", help="description of a data set, such as recipes/data/full.json"
    )
    what.add_argument("--families", metavar="NAMES", help="comma-separated, or all")
    what.add_argument("--list", action="store_true", help="what can be generated, and leave it at that")
    what.add_argument("--gallery", type=Path, metavar="FILE.png", help="draw every family, and leave it at that")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the files; with --recipe the one for the shards, in which hdf5/ is made (default: as it says)",
    )
    parser.add_argument("--share", type=float, metavar="X", help="with --recipe: this part of every set's trajectories")
    parser.add_argument("--only", metavar="SETS", help="with --recipe: these sets, comma-separated")
    parser.add_argument("--shard", action="store_true", help="with --recipe: make the shards too")
    parser.add_argument("--trajectories", type=int, metavar="N", help="per family, all splits together")
    parser.add_argument(
        "--splits",
        metavar="NAME=FRACTION,...",
        help="the first one takes what rounding leaves (default train=0.8,valid=0.1,test=0.1)",
    )
    parser.add_argument(
        "--ood",
        metavar="KIND=N,...",
        help="trajectories out of distribution: regime, boundary, geometry, resolution",
    )
    parser.add_argument("--frames", type=int, metavar="T", help="per trajectory (default: as usual for the family)")
    parser.add_argument("--stride", type=int, metavar="N", help="keep every N-th frame (default 1)")
    parser.add_argument("--grid", type=int, metavar="N", help="points per axis, a power of two")
    parser.add_argument("--boundary", metavar="KIND", help="on all sides")
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=LOW:HIGH", help="what is drawn from, or NAME=VALUE"
    )
    parser.add_argument("--points", type=int, metavar="N", help="sample 2D fields at N scattered points")
    parser.add_argument("--seed", type=int, help="default 0")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default %(default)s")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core; one on a GPU)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    arguments = parser.parse_args()
    if arguments.families and (arguments.trajectories is None or arguments.out is None):
        parser.error("--families needs --trajectories and --out")
    for mode, flags in ((arguments.families, OF_RECIPE), (arguments.recipe, OF_FAMILIES)):
        given = [f"--{name}" for name in flags if getattr(arguments, name) not in (None, [], False)]
        if mode and given:
            other = "--recipe" if flags is OF_RECIPE else "--families; in a description they are keys of its sets"
            parser.error(f"{', '.join(given)}: only with {other}")
    if arguments.workers is not None and arguments.workers < 1:
        parser.error("--workers must be at least 1")
    return arguments


def changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags change of a description."""
    given = {"share": arguments.share, "seed": arguments.seed, "only": arguments.only and arguments.only.split(",")}
    return {key: value for key, value in given.items() if value is not None}


def from_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The description that the flags make."""
    from ups_scale.solvers.setups import USUAL, setup

    names = USUAL if arguments.families == "all" else arguments.families.split(",")
    entry = {
        "trajectories": arguments.trajectories,
        "ood": whole_numbers("--ood", arguments.ood or ""),
        "frames": arguments.frames,
        "stride": arguments.stride or 1,
        "grid": arguments.grid,
        "boundary": arguments.boundary,
        "parameters": dict(parse_range(text) for text in arguments.parameter),
        "points": arguments.points,
    }
    if arguments.splits is not None:
        entry["splits"] = numbers("--splits", arguments.splits, "train=0.8")
    for name in names:
        setup(name)
    labels = {f"{name}-points" if arguments.points else name: name for name in names}
    return {"seed": arguments.seed or 0, "sets": {label: {"family": name, **entry} for label, name in labels.items()}}


def parse_range(text: str) -> tuple[str, list[float]]:
    """("nu", [0.01, 0.1]) from "nu=0.01:0.1", or from "nu=0.01" twice the same."""
    name, _, value = text.partition("=")
    low, _, high = value.partition(":")
    try:
        return name.strip(), [float(low), float(high or low)]
    except ValueError:
        raise DataError(f"--parameter {text}: not NAME=LOW:HIGH or NAME=VALUE, such as nu=0.01:0.1") from None


def whole_numbers(flag: str, text: str) -> dict[str, int]:
    """{"regime": 32, ...} from "regime=32,..."."""
    found = numbers(flag, text, "regime=32")
    for name, value in found.items():
        if not value.is_integer():
            raise DataError(f"{flag} {text}: {name} is {value:g}; give a whole number of trajectories")
    return {name: int(value) for name, value in found.items()}


def numbers(flag: str, text: str, example: str) -> dict[str, float]:
    """{"train": 0.8, ...} from "train=0.8,..."."""
    found = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise DataError(f"{flag} {text}: {pair!r} is not NAME=NUMBER, such as {example}") from None
    return found


if __name__ == "__main__":
    run_command(main, "the files that are written are kept; the same command goes on")
