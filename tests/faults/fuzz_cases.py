"""What a fuzz case is made of: sound inputs, damage of their bytes, and what may be answered."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import waves

MAPPING: dict[str, Any] = {
    "format": 1,
    "family": "made_up_1d",
    "fields": [{"name": "u", "unit": "1", "array": "u", "axes": ["n", "t", "x"]}],
    "time": {"array": "t"},
    "space": {"x": {"array": "x", "points": "centres"}},
    "boundaries": {"x": ["periodic", "periodic"]},
}


def arrays(num_points: int = 8) -> dict[str, Any]:
    """What `MAPPING` maps."""
    points = (np.arange(num_points) + 0.5) / num_points
    return {"u": waves(4, 1, 5, (num_points,), 0)[:, 0], "t": 0.1 * np.arange(5), "x": points}


@dataclass
class Input:
    """A sound file, or the files of a folder (`members`), and how it is inspected; `mapping` is written beside it where
    there is one."""

    name: str
    raw: bytes
    layout: str = "auto"
    family: str | None = None
    mapping: dict[str, Any] | None = None
    members: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def content(self) -> bytes | Callable[[Path], None]:
        """As `Case` has it."""
        return (lambda path: write_members(path, self.members)) if self.members else self.raw


@dataclass
class Place:
    """Where cases are written, and the sound inputs they are made of."""

    folder: Path
    marker: Path
    inputs: list[Input] = field(default_factory=list)

    def of(self, *endings: str) -> list[Input]:
        return [entry for entry in self.inputs if entry.name.endswith(endings)]


@dataclass
class Case:
    """What is written under the input's name, and what may be answered.

    Attributes:
        content: bytes, or a function that writes it.
        mapping, layout: others than the input's.
        must: "hold": an error, or arrays of the shape that the file states, whatever their values;
            "detect": an error, or exactly the values that the sound input has;
            "read": `values`, and nothing else of the sound input changed, with `says` in the notes;
            "refuse": an error that says `says`.
    """

    source: Input
    content: bytes | Callable[[Path], None]
    mapping: bytes | None = None
    layout: str | None = None
    must: str = "hold"
    values: np.ndarray | None = None
    says: str = ""


def write_members(path: Path, members: Mapping[str, bytes]) -> None:
    """The files of a folder."""
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def damage(rng: random.Random, raw: bytes, heads: int) -> bytes:
    """Bytes that are not `raw`; half of the changes lie in the first `heads` bytes, where formats keep structure."""
    changed = raw
    while changed == raw:
        changed = _changed(rng, raw, heads)
    return changed


def _changed(rng: random.Random, raw: bytes, heads: int) -> bytes:
    changed = bytearray(raw)
    end = heads if rng.random() < 0.5 else len(raw)
    at = rng.randrange(min(end, len(raw)))
    how = rng.randrange(8)
    if how == 0:
        del changed[at:]
    elif how in (1, 2, 3):
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            changed[rng.randrange(min(end, len(raw)))] ^= 1 << rng.randrange(8)
    elif how == 4:
        size = rng.choice((1, 4, 8, 64))
        changed[at : at + size] = rng.choice((rng.randbytes(size), b"\xff" * size, bytes(size)))
    elif how == 5:
        del changed[at : at + rng.choice((1, 8, 64))]
    elif how == 6:
        changed[at:at] = rng.randbytes(rng.choice((1, 8, 512)))
    else:  # a piece of the file in another place of it
        other, size = rng.randrange(len(raw)), rng.choice((8, 16, 96))
        changed[at : at + size] = raw[other : other + size]
    return bytes(changed) or b"\0"


def flip(rng: random.Random, raw: bytes) -> bytes:
    """As many bytes, some of them others."""
    changed = bytearray(raw)
    for at in rng.sample(range(len(raw)), rng.choice((1, 1, 2, 4, min(16, len(raw))))):
        changed[at] ^= rng.randrange(1, 256)
    return bytes(changed)
