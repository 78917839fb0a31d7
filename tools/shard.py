#!/usr/bin/env python3
"""Turns HDF5 files into WebDataset shards with a byte index and `manifest.json`.

Example:
    tools/shard.py data/mine/hdf5 --layout pdebench --out data/mine
    tools/shard.py 1D_Burgers_Sols_Nu0.01.hdf5 --layout pdebench --out data/burgers
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

from ups_scale.data.shards import LAYOUTS, convert
from ups_scale.errors import DataError, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="HDF5 files, or folders of them")
    parser.add_argument("--layout", choices=sorted(LAYOUTS), required=True, help="how the files are laid out")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards and manifest.json")
    parser.add_argument(
        "--family", help="family of all inputs, where files neither state it nor are named as PDEBench's"
    )
    parser.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE", help="value for all inputs")
    parser.add_argument("--shard-mib", type=float, default=64.0, help="size of a shard in MiB (default 64)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args()

    parameters = {}
    for pair in arguments.parameter:
        name, _, value = pair.partition("=")
        try:
            parameters[name] = float(value)
        except ValueError:
            raise DataError(f"--parameter {pair}: expected NAME=NUMBER, such as nu=0.01") from None
    if not 0 < arguments.shard_mib < math.inf:
        raise DataError(f"--shard-mib {arguments.shard_mib}: expected a size above 0, such as 64")
    if arguments.workers < 1:
        raise DataError(f"--workers {arguments.workers}: expected 1 or more")
    manifest = convert(
        arguments.inputs,
        arguments.out,
        layout=arguments.layout,
        shard_mib=arguments.shard_mib,
        workers=arguments.workers,
        family=arguments.family,
        parameters=parameters,
        show_progress=not arguments.json,
    )
    rows = [
        {
            "family": name,
            "split": split,
            "trajectories": data.num_trajectories(split),
            "shards": len(shards),
            "mib": round(sum(shard.bytes for shard in shards) / 2**20, 2),
        }
        for name, data in manifest.families.items()
        for split, shards in data.shards.items()
    ]
    if arguments.json:
        print(json.dumps({"manifest": str(manifest.path), "digest": manifest.digest, "splits": rows}))
        return
    print(f"{'family':<24}{'split':<8}{'trajectories':>13}{'shards':>8}{'MiB':>9}")
    for row in rows:
        print(f"{row['family']:<24}{row['split']:<8}{row['trajectories']:>13}{row['shards']:>8}{row['mib']:>9.2f}")
    print(f"manifest: {manifest.path}")


if __name__ == "__main__":
    run_command(main)
