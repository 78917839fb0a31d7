"""Sources of any kind out of plain arrays: what a layout would make of a file, without a layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ups_scale.data import inputs, shards
from ups_scale.data.manifest import Manifest
from ups_scale.data.source import Frames, Source, whole
from ups_scale.physics.families import Field

DT = 0.05


@dataclass(frozen=True)
class Arrays:
    """Reads an `.npz` of an array (N, T, *grid) per field, (N, 1, *grid) of a static one."""

    path: Path
    names: tuple[str, ...]

    @contextmanager
    def open(self) -> Iterator[Frames]:
        with np.load(self.path, allow_pickle=False) as file:
            arrays = [file[name] for name in self.names]
        yield lambda field, trajectory, frames: arrays[field][trajectory, frames.start : frames.stop]


def array_source(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    static: Sequence[str] = (),
    parameters: Mapping[str, Sequence[float]] | None = None,
    splits: Mapping[str, np.ndarray] | None = None,
    times: Any = None,
    **changes: Any,
) -> Source:
    """A source of `arrays`, written to `path`; by default all of it trains, on a periodic unit box.

    Args:
        times: (T,) or (N, T) in s; None for even steps.
        changes: other attributes of `Source`.
    """
    np.savez(path, **arrays)
    fields = tuple(Field(name, "1", name in static) for name in arrays)
    moving = next((arrays[f.name] for f in fields if not f.static), next(iter(arrays.values())))
    num, num_frames, *grid = moving.shape
    if times is None:
        times = np.full(num_frames, np.nan) if changes.get("steady") else DT * np.arange(num_frames)
    values = parameters or {}
    known: dict[str, Any] = {
        "family": "mine",
        "extents": ((0.0, 1.0),) * len(grid),
        "boundaries": (("periodic", "periodic"),) * len(grid),
    }
    return Source(
        path=path,
        layout="arrays",
        fields=fields,
        parameters=tuple(values),
        grid=tuple(grid),
        times_nt=np.broadcast_to(times, (num, num_frames)),
        parameters_np=np.array([values[name] for name in values], float).reshape(len(values), num).T,
        splits={"train": whole(range(num), num_frames)} if splits is None else splits,
        contents=Arrays(path, tuple(arrays)),
        **{**known, **changes},
    )


def convert_sources(monkeypatch: Any, sources: Sequence[Source], out: Path, **options: Any) -> Manifest:
    """`shards.convert` of sources as they are."""
    by_path = {source.path: source for source in sources}
    monkeypatch.setattr(inputs, "input_files", lambda paths, note: list(paths))
    monkeypatch.setattr(inputs, "inspect", lambda path, layout, **_: by_path[path])
    return shards.convert(list(by_path), out, layout="arrays", **{"show_progress": False, **options})
