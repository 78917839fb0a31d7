#!/usr/bin/env python3
"""Turns people's files (HDF5, netCDF, Zarr, MATLAB, .npz) into WebDataset shards with a byte index and `manifest.json`.

Example:
    tools/shard.py data/mine/hdf5 --out data/mine
    tools/shard.py 1D_Burgers_Sols_Nu0.01.hdf5 --layout pdebench --out data/burgers --dtype float16
    tools/shard.py ocean.nc --layout ocean.json --split time --licence CC-BY-4.0 --out data/ocean
    tools/shard.py hdf5/ many.npz runs/a.mat --layout many.npz=many.json --layout runs/a.mat=a.json --out data/all

A rerun keeps the shards that are already there, also after a kill, and writes only what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from ups_scale.data.index import DTYPES
from ups_scale.data.shards import convert
from ups_scale.errors import DataError, run_command


def main() -> None:
    arguments = parse()
    parameters = {}
    for pair in arguments.parameter:
        name, _, value = pair.partition("=")
        try:
            parameters[name] = float(value)
        except ValueError:
            raise DataError(f"--parameter {pair}: expected NAME=NUMBER, such as nu=0.01") from None
    if not 0 < arguments.shard_mib < math.inf:
        raise DataError(f"--shard-mib {arguments.shard_mib}: expected a size above 0, such as 64")
    if arguments.workers is not None and arguments.workers < 1:
        raise DataError(f"--workers {arguments.workers}: expected 1 or more")
    layout, layouts = parse_layouts(arguments.layout)
    manifest = convert(
        arguments.inputs,
        arguments.out,
        layout=layout,
        layouts=layouts,
        family=arguments.family,
        parameters=parameters,
        split=arguments.split,
        dtype=arguments.dtype,
        shard_mib=arguments.shard_mib,
        workers=arguments.workers,
        licence=arguments.licence,
        leave_out_bad=arguments.leave_out_bad,
        by_parameters=arguments.by_parameters,
        show_progress=not arguments.json,
        isolated=True,
    )
    rows = [
        {
            "family": name,
            "split": split,
            "trajectories": data.num_trajectories(split),
            "frames": data.num_frames[split],
            "shards": len(shards),
            "mib": round(sum(shard.bytes for shard in shards) / 2**20, 2),
        }
        for name, data in manifest.families.items()
        for split, shards in data.shards.items()
    ]
    if arguments.json:
        print(json.dumps({"manifest": str(manifest.path), "digest": manifest.digest, "splits": rows}))
        return
    width = max(24, 2 + max(len(name) for name in manifest.families))
    print(f"{'family':<{width}}{'split':<16}{'trajectories':>13}{'frames':>8}{'shards':>8}{'MiB':>10}")
    for row in rows:
        print(
            f"{row['family']:<{width}}{row['split']:<16}{row['trajectories']:>13}{row['frames']:>8}{row['shards']:>8}"
            f"{row['mib']:>10.2f}"
        )
    print(f"manifest: {manifest.path}")


def parse_layouts(given: list[str]) -> tuple[str, dict[str, str]]:
    """The layout of all inputs, and those of single ones, from "LAYOUT" and "INPUT=LAYOUT"."""
    of_all: list[str] = []
    of_one: dict[str, str] = {}
    for text in given:
        name, mark, layout = text.rpartition("=")
        if not mark or Path(text).is_file():  # a mapping's own name may have a "="
            of_all.append(text)
        elif of_one.setdefault(name, layout) != layout:
            raise DataError(f"--layout {text}: {name} has been given {of_one[name]}; leave one of them out")
    if len(of_all) > 1:
        raise DataError(
            f"--layout {of_all[0]} and --layout {of_all[1]}: which of them for which input? Write --layout "
            f"INPUT={of_all[1]}"
        )
    return (of_all[0] if of_all else "auto"), of_one


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="files, Zarr stores, or folders of them")
    parser.add_argument(
        "--layout",
        action="append",
        default=[],
        metavar="[INPUT=]auto|pdebench|the_well|MAPPING.json",
        help="how the inputs are laid out; auto (the default) recognises the known layouts and says why. With INPUT= "
        "it is of that file or folder alone, and may be given again for others",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for shards and manifest.json")
    parser.add_argument("--family", metavar="NAME", help="family of all inputs, where they don't tell it")
    parser.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE", help="value for all inputs")
    parser.add_argument(
        "--split",
        default="source",
        metavar="source|seed:N|time",
        help="the inputs' own splits (default), whole trajectories dealt 8:1:1, or every trajectory cut in time 8:1:1",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the stored values (default %(default)s)")
    parser.add_argument("--shard-mib", type=float, default=64.0, help="size of a shard in MiB (default 64)")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes (default: one per core, at most 4, fewer where they would fill the memory)",
    )
    parser.add_argument("--licence", metavar="TEXT", help="of the inputs that state none, for the manifest")
    parser.add_argument(
        "--leave-out-bad", action="store_true", help="go on without the trajectories that hold NaN or infinity"
    )
    parser.add_argument(
        "--by-parameters",
        action="store_true",
        help="an entry per value of the parameters that are constant within an input, such as burgers_1d-nu0_01",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON and no progress")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main, "the shards that are written are kept; the same command goes on")
