#!/usr/bin/env python3
"""Sweeps a recipe: a coarse grid, a local search around its best, a full evaluation of the winners: docs/sweeps.md.

The same command goes on where an earlier one was stopped or killed.

Example:
    tools/sweep.py --recipe recipes/demo.json --accelerators 2
    tools/sweep.py --recipe recipes/demo.json --space recipes/sweep/default.json --out sweeps/demo --dry-run
    tools/sweep.py --recipe recipes/S.json --accelerators 8 --slurm 4

Exit codes: 0 done; 2 recipe, space, data or folder is wrong; 4 no trial came to a result; 130 stopped by Ctrl-C or
SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from ups_scale.errors import INTERRUPTED, CheckpointError, RecipeError, UserError, run_command
from ups_scale.recipe.load import add_recipe_arguments, load, resolve

CODE = Path(__file__).resolve().parents[1]
NO_RESULT = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe_arguments(parser)
    parser.add_argument(
        "--space",
        type=Path,
        default=CODE / "recipes" / "sweep" / "default.json",
        metavar="FILE",
        help="what to try (default: recipes/sweep/default.json)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder (default: sweeps/<name of the recipe>)")
    parser.add_argument("--all", action="store_true", help="the whole grid instead of a sample")
    parser.add_argument("--max-parallel", type=int, default=1, metavar="N", help="trials at a time (default 1)")
    parser.add_argument("--accelerators", type=int, default=1, metavar="N", help="ranks of a trial (default 1)")
    parser.add_argument(
        "--champions",
        type=Path,
        metavar="DIR",
        help="let the full evaluations compete there (default: nowhere)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, all else to stderr")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print what would run, and stop")
    parser.add_argument("--slurm", type=int, metavar="N", help="write a Slurm script for N workers, and stop")
    parser.add_argument("--worker", action="store_true", help="join a sweep that was begun, as the Slurm script does")
    arguments = parser.parse_args()
    counts = {"--max-parallel": arguments.max_parallel, "--accelerators": arguments.accelerators}
    counts |= {"--slurm": arguments.slurm} if arguments.slurm is not None else {}
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} {count}: expected 1 or more")
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        code, summary = _sweep(arguments)
    if arguments.json and summary is not None:
        print(json.dumps(summary, indent=1))
    return code


def _sweep(arguments: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    """(exit code, the result)."""
    from ups_scale.sweep import setting, space
    from ups_scale.sweep.journal import optuna

    # All that can be refused is, before anything is written.
    problems: list[str] = []
    wanted, resolved = None, None
    try:
        wanted = space.read_space(arguments.space)
    except RecipeError as error:
        problems += [str(error)]
    try:
        resolved = resolve(arguments.recipe, arguments.set)
    except RecipeError as error:
        problems += [str(error)]
    if problems or wanted is None or resolved is None:
        raise RecipeError("\n".join(problems))
    space.check(wanted, resolved, str(arguments.space), arguments.all)
    recipe = load(arguments.recipe, arguments.set)
    if wanted.document["proxy_share"] is not None and not recipe.evaluate.every_steps:
        raise RecipeError(f"{arguments.space}: proxy_share needs evaluate.every_steps above 0")
    optuna()
    out = arguments.out or Path("sweeps") / recipe.run.name

    from ups_scale.data.manifest import load_manifest

    digest = load_manifest(recipe.data.manifest, recipe.data.cache_dir, recipe.data.cache_gib).digest
    new = setting.describe(wanted, arguments.recipe, arguments.set, resolved, digest, arguments.all)
    if not arguments.worker or (out / "sweep.json").exists():
        setting.check_same(out, new)
    else:
        raise CheckpointError(f"{out}: no sweep to join; begin it without --worker")
    place = _place(arguments, out, resolved, digest)
    if arguments.dry_run:
        _show_plan(wanted, resolved, arguments.all)
        return 0, None
    if arguments.slurm is not None:
        setting.establish(out, new)
        path = setting.write_batch(out, arguments.slurm, _worker_command(arguments, out), arguments.accelerators)
        print(f"sbatch {path}")
        return 0, None
    return _work(arguments, wanted, place, setting.establish(out, new))


def _place(arguments: argparse.Namespace, out: Path, resolved: dict[str, Any], digest: str) -> Any:
    import torch

    from ups_scale.sweep.trial import Place

    gpus, needed = torch.cuda.device_count(), arguments.accelerators * arguments.max_parallel
    if gpus and needed > gpus and not arguments.slurm:
        raise UserError(
            f"--accelerators {arguments.accelerators} --max-parallel {arguments.max_parallel}: needs {needed} GPUs, "
            f"this machine has {gpus}"
        )
    return Place(out, CODE, resolved, digest, arguments.accelerators, arguments.max_parallel, gpus, arguments.champions)


def _work(arguments: argparse.Namespace, wanted: Any, place: Any, found: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    from ups_scale.sweep import results, work
    from ups_scale.sweep.journal import Journal
    from ups_scale.sweep.progress import Progress
    from ups_scale.sweep.trial import Runner

    journal, stop = Journal(place.out), threading.Event()
    sweep = work.Sweep(wanted, place, arguments.all)
    work.begin(sweep, journal)
    progress = Progress(sweep, journal, arguments.max_parallel)

    def changed() -> None:
        results.write(sweep, journal, found)
        progress.line()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    errors: list[BaseException] = []

    def serve(slot: int) -> None:
        try:
            work.Worker(sweep, journal, Runner(place, slot, stop), stop, progress.say, changed).work()
        except BaseException as error:  # raised again by the main thread
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=serve, args=(slot,)) for slot in range(arguments.max_parallel)]
    for thread in threads:
        thread.start()
    work.wait_for(threads)
    if errors:
        raise errors[0]
    with journal.deciding():
        results.write(sweep, journal, found)
        order = work.ranked(journal.trials())
    summary = results.summarise(sweep, found, order)
    if stop.is_set():
        print("stopped: the same command goes on from here", file=sys.stderr)
        return INTERRUPTED, summary
    print(f"page: {place.out / 'sweep.html'}")
    if summary["best"] is None:
        print("no trial came to a result; their errors stand in trials.csv", file=sys.stderr)
        return NO_RESULT, summary
    print(f"best: {place.out / 'recipe.best.json'}   next: {place.out / 'next.json'}")
    return 0, summary


def _show_plan(wanted: Any, resolved: dict[str, Any], everything: bool) -> None:
    from ups_scale.sweep.space import grid, told

    trials = grid(wanted, resolved, everything)
    for number, values in enumerate(trials):
        print(f"coarse-{number:02d}  {told(values, resolved)}")
    print(
        f"{len(trials)} trials of the grid, {wanted.num_local} of the local search around the best "
        f"{wanted.document['local']['around']}, full evaluation of the best {wanted.document['full']['best']}"
    )


def _worker_command(arguments: argparse.Namespace, out: Path) -> str:
    line = [sys.executable, str(CODE / "tools" / "sweep.py"), "--recipe", arguments.recipe]
    for override in arguments.set:
        line += ["--set", override]
    line += ["--space", str(arguments.space), "--out", str(out), "--accelerators", str(arguments.accelerators)]
    line += ["--all"] if arguments.all else []
    line += ["--champions", str(arguments.champions)] if arguments.champions else []
    return f"cd {shlex.quote(os.getcwd())} && exec {shlex.join([*line, '--worker'])}"


if __name__ == "__main__":
    run_command(main)
