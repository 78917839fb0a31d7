"""Layouts: what an input file holds, and how to read it. The axis order is stated by the layout, never guessed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ups_scale.data.layouts.detect import Recognised, recognise
from ups_scale.data.layouts.pdebench import inspect_pdebench
from ups_scale.data.layouts.the_well import inspect_the_well
from ups_scale.data.source import Dealt, Source, split_by_seed, split_in_time
from ups_scale.errors import DataError, remedy

__all__ = ["LAYOUTS", "Recognised", "input_files", "inspect", "recognise"]

LAYOUTS = ("auto", "pdebench", "the_well")
SUFFIXES = (".hdf5", ".h5", ".he5", ".nc", ".nc4", ".mat", ".npz")
# What lies beside inputs and is none.
BESIDE = (".md", ".txt", ".json", ".yaml", ".yml", ".py", ".csv", ".pdf", ".png", ".tar", ".idx")
ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")


def inspect(
    path: Path,
    layout: str,
    *,
    family: str | None = None,
    parameters: Mapping[str, float] | None = None,
    split: str = "source",
) -> Source:
    """What an input holds.

    Args:
        path: a file, or the folder of a Zarr store.
        layout: "pdebench", "the_well", "auto" (one of those, by the file's structure; see `recognise`), or the path of
            a mapping file, which ends in .json.
        family: name of the family, where the file doesn't tell it or another is wanted.
        parameters: values for all the input's trajectories.
        split: "source" for the input's own; "seed:N" deals whole trajectories to train, valid and test (8:1:1); "time"
            cuts every trajectory in time.

    Raises:
        DataError: the input isn't in the layout, is damaged, or its splits aren't known; unknown layout or split.
    """
    if layout == "auto":
        layout = recognise(path, family).layout
    if layout == "pdebench":
        source = inspect_pdebench(path, family, parameters)
    elif layout == "the_well":
        source = inspect_the_well(path, family, parameters)
    elif layout.endswith(".json"):
        from ups_scale.data.layouts.mapping import inspect_mapping

        source = inspect_mapping(path, Path(layout), family, parameters or {})
    else:
        raise DataError(f"--layout {layout}: unknown; give {', '.join(LAYOUTS)} or a mapping file that ends in .json")
    for name, values in zip(source.parameters, source.parameters_np.T, strict=True):
        if np.isinf(values).any():
            raise DataError(f"{path}: parameter {name} is infinite; write a number, or NaN where it is unknown")
    splits, dealt = _splits(source, split)
    if not splits:
        raise DataError(
            f"{path}: {source.num_trajectories} trajectories can't be split in tenths, as PDEBench does; give --split "
            "seed:0 or --split time, or write the attribute `split` (train, valid, test, ood) into the file"
        )
    notes = source.notes
    if split == "source" and source.split_note:
        notes += (source.split_note,)
    return dataclasses.replace(source, splits=splits, dealt=dealt, notes=notes)


def _splits(source: Source, split: str) -> tuple[Mapping, Dealt | None]:
    kind, _, number = split.partition(":")
    if split == "source":
        return source.splits, source.dealt
    if split == "time":
        if source.steady or source.num_frames < 3:
            raise DataError(
                f"{source.path}: --split time needs trajectories of at least 3 frames; these have "
                f"{'no time' if source.steady else source.num_frames}. Give --split seed:0"
            )
        return split_in_time(source.num_trajectories, source.num_frames), None
    if kind == "seed" and number.isascii() and number.isdigit():
        dealt = Dealt(int(number))
        return split_by_seed(source.num_trajectories, source.num_frames, dealt), dealt
    raise DataError(f"--split {split}: unknown; give source, seed:N with a number N, or time")


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr store, and so one input."""
    return folder.is_dir() and (folder.suffix == ".zarr" or any((folder / mark).exists() for mark in ZARR_MARKS))


def input_files(inputs: Sequence[Path], note: Callable[[str], None] = lambda text: None) -> list[Path]:
    """The inputs in `inputs`, each once: files as they are, folders searched to all depths, in the order of names.
    Links to folders aren't followed; `note` is told of files that are passed over for their endings.

    Raises:
        DataError: one is missing, or a folder holds none.
    """
    found: dict[Path, Path] = {}
    problems = []
    for given in inputs:
        new = []
        try:
            if given.is_file() or is_zarr(given):
                new = [given]
            elif given.is_dir():
                new, others = _inside(given)
                if others and new:
                    what = "1 file is" if len(others) == 1 else f"{len(others)} files are"
                    note(f"{given}: {what} passed over for the ending, such as {others[0]}")
                if not new:
                    problems.append(
                        f"{given}: no input in this folder; expected {', '.join(SUFFIXES)} files or Zarr stores"
                    )
            else:
                problems.append(f"{given}: no such file or folder")
        except OSError as error:
            advice = remedy(error, "check the disk it is on")
            problems.append(f"{error.filename or given}: can't be looked into ({error.strerror or error}); {advice}")
        for path in new:
            found.setdefault(path.resolve(), path)
    if not inputs:
        problems.append("no input given; name files or folders")
    if problems:
        raise DataError("\n".join(problems))
    return list(found.values())


def _inside(folder: Path) -> tuple[list[Path], list[Path]]:
    """The inputs in a folder, and the files that are none by their endings."""

    def fail(error: OSError) -> None:
        raise error

    out: list[Path] = []
    others: list[Path] = []
    for base, folders, files in os.walk(folder, onerror=fail):
        here = Path(base)
        stores = [name for name in folders if is_zarr(here / name) and not (here / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in stores and not name.startswith("."))
        shown = [name for name in files if not name.startswith(".") and (here / name).is_file()]
        suited = [name for name in shown if name.lower().endswith(SUFFIXES)]
        out += [here / name for name in (*stores, *suited)]
        others += [here / name for name in shown if name not in suited and not name.endswith(BESIDE)]
    return sorted(out), sorted(others)
