"""What a layout makes of an input file: a `Source`, which names everything and reads slabs of frames.

Layouts (`data/layouts`) know containers; what is the same for all of them is here: the splits, checks of axes, and
opening HDF5 without following links out of the file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from ups_scale.data.plan import permutation
from ups_scale.errors import DataError, remedy
from ups_scale.physics.families import FAMILIES, Field

SPLITS = ("train", "valid", "test")
SPLIT_NAME = re.compile(r"train|valid|test|ood(_[a-z0-9]+)*")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""Names of families, fields and parameters: they become parts of file names in shards."""
# How far a point of an even axis may lie from its place, in steps; files keep axes in float32, some as running sums.
EVEN_TOLERANCE = 1e-2


class Frames(Protocol):
    """Reads frames of one field of one trajectory out of an open file."""

    def __call__(self, field: int, trajectory: int, frames: range) -> np.ndarray:
        """(len(frames), *grid), floating point; NaN where there is no value. Of a static field only `range(0, 1)` is
        asked. Reads no more of the file than it must."""


class Contents(Protocol):
    """How the numbers of one input are got at. Instances are pickled and sent to worker processes."""

    def open(self) -> AbstractContextManager[Frames]: ...


@dataclass(frozen=True)
class Dealt:
    """How whole trajectories are dealt to train, valid and test."""

    seed: int
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class Source:
    """One input (a file, or a folder such as a Zarr store): what it holds, and how to read it.

    Attributes:
        path: where it lies.
        layout: the name of what it was recognised as, such as "pdebench".
        family: name of the family; need not be in the registry.
        fields: what a frame holds, in order.
        parameters: their names.
        grid, extents, boundaries, steady, masked, geometry, coordinates: as in `FamilySpec`.
        times_nt: (N, T) float64, the times of the frames in s, NaN if steady; may be a broadcast view.
        parameters_np: (N, P) float64, NaN where the input states none.
        splits: for each split its pieces, (n, 3) int64 rows of (trajectory, first frame, end of frames); all pieces of
            a split have the same number of frames.
        dealt: how `splits` were dealt out, if they were; see `deal_together`.
        split_note: what is to be said of `splits`, where they are taken as they are.
        chunk_bytes: the most that must be read at once, whatever is asked for: the largest chunk.
        licence: the input's own word on it, if it has one.
        notes: what is no error but worth a line to whoever converts it.
        contents: reads it.
    """

    path: Path
    layout: str
    family: str
    fields: tuple[Field, ...]
    parameters: tuple[str, ...]
    grid: tuple[int, ...]
    extents: tuple[tuple[float, float], ...]
    boundaries: tuple[tuple[str, str], ...]
    times_nt: np.ndarray
    parameters_np: np.ndarray
    splits: Mapping[str, np.ndarray]
    contents: Contents
    dealt: Dealt | None = None
    split_note: str | None = None
    chunk_bytes: int = 0
    licence: str | None = None
    steady: bool = False
    masked: bool = False
    geometry: str = "grid"
    coordinates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_trajectories(self) -> int:
        return self.times_nt.shape[0]

    @property
    def num_frames(self) -> int:
        """Frames of a whole trajectory in the input."""
        return self.times_nt.shape[1]


def check_names(path: Path, family: str, fields: Sequence[Field], parameters: Sequence[str]) -> None:
    """Raises a `DataError` if a name can't be part of a file name, comes twice, or differs from the registry's."""
    for what, name in (
        ("family", family),
        *(("field", field.name) for field in fields),
        *(("parameter", name) for name in parameters),
    ):
        if not NAME.fullmatch(name):
            raise DataError(f"{path}: {what} name {name!r}; use letters, digits and _, starting with a letter")
    names = [field.name for field in fields]
    if len(set(names)) < len(names):
        raise DataError(f"{path}: two fields have the same name ({', '.join(names)}); give each its own")
    known = FAMILIES.get(family)
    if known and (known.fields != tuple(fields) or known.parameters != tuple(parameters)):
        expected = ", ".join(
            f"{field.name} ({field.unit}{', static' if field.static else ''})" for field in known.fields
        )
        found = ", ".join(f"{field.name} ({field.unit}{', static' if field.static else ''})" for field in fields)
        raise DataError(
            f"{path}: family {family} has the fields {expected} and the parameters {', '.join(known.parameters) or '-'}"
            f"; found {found} and {', '.join(parameters) or '-'}. Use those, or name the family otherwise"
        )


def is_even(points: np.ndarray) -> bool:
    """Whether points increase in even steps."""
    if len(points) < 2 or not np.isfinite(points).all() or points[-1] <= points[0]:
        return False
    step = (points[-1] - points[0]) / (len(points) - 1)
    return bool(np.abs(points - np.linspace(points[0], points[-1], len(points))).max() <= EVEN_TOLERANCE * step)


def extents_of_centres(points: np.ndarray) -> tuple[float, float]:
    """(low, high) of an even axis whose points are cell centres: half a step beyond the first and last."""
    half = (points[-1] - points[0]) / (len(points) - 1) / 2
    return float(points[0] - half), float(points[-1] + half)


def whole(trajectories: Sequence[int] | np.ndarray, num_frames: int) -> np.ndarray:
    """(n, 3) pieces: these trajectories with all their frames."""
    rows = np.asarray(trajectories, np.int64)
    return np.stack([rows, np.zeros_like(rows), np.full_like(rows, num_frames)], axis=1)


def split_by_seed(num: int, num_frames: int, dealt: Dealt) -> dict[str, np.ndarray]:
    """Whole trajectories dealt to train, valid and test, in an order that depends on seed and number alone."""
    order = permutation(num, dealt.seed, num)
    ends = np.round(np.cumsum(dealt.shares) / sum(dealt.shares) * num).astype(int)
    parts = np.split(order, ends[:-1])
    return {name: whole(np.sort(part), num_frames) for name, part in zip(SPLITS, parts, strict=True) if len(part)}


def _too_few(source: Source) -> bool:
    """Whether a split that is to have a share of its trajectories got none."""
    assert source.dealt is not None
    return any(share > 0 and name not in source.splits for name, share in zip(SPLITS, source.dealt.shares, strict=True))


def deal_together(sources: Sequence[Source], digests: Mapping[Path, str]) -> list[Source]:
    """The sources; those with too few trajectories to be dealt out by themselves are dealt together with others of
    their family that are dealt by the same seed, in the order of their content.

    Sources with enough of them are each dealt by themselves, those of as many alike: files of several regimes often
    share their initial conditions, trajectory by trajectory, and these stay in one split.
    """
    groups: dict[tuple[str, Dealt], list[Source]] = defaultdict(list)
    for source in sources:
        if source.dealt is not None and _too_few(source):
            groups[source.family, source.dealt].append(source)
    changed: dict[Path, Source] = {}
    for (_, dealt), members in groups.items():
        members.sort(key=lambda source: digests[source.path])
        if len(members) == 1:
            continue
        owners = np.repeat(np.arange(len(members)), [source.num_trajectories for source in members])
        rows = np.concatenate([np.arange(source.num_trajectories) for source in members])
        splits = split_by_seed(len(rows), 1, dealt)
        for number, source in enumerate(members):
            own = {name: part[owners[part[:, 0]] == number, 0] for name, part in splits.items()}
            pieces = {name: whole(rows[part], source.num_frames) for name, part in own.items() if len(part)}
            changed[source.path] = replace(source, splits=pieces)
    return [changed.get(source.path, source) for source in sources]


def split_in_time(num: int, num_frames: int, shares: Sequence[float] = (0.8, 0.1, 0.1)) -> dict[str, np.ndarray]:
    """Every trajectory cut in time: the first frames train, the next valid, the last test; none across a border."""
    ends = np.round(np.cumsum(shares) / sum(shares) * num_frames).astype(int)
    borders = [0, *ends]
    return {
        name: np.array([(row, start, stop) for row in range(num)], np.int64)
        for name, start, stop in zip(SPLITS, borders[:-1], borders[1:], strict=True)
        if stop > start
    }


def text_of(value: object) -> str:
    """An attribute as text; HDF5 has strings of fixed length too, which arrive as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The open file, with a `DataError` in place of h5py's own when it is missing or not HDF5."""
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path, or make data with tools/generate.py") from None
    except OSError as error:
        raise DataError(
            f"{path}: not a readable HDF5 file ({error}); "
            + remedy(error, "if it was downloaded or copied, do that again")
        ) from None
    with file:
        yield file


# What h5py raises on damaged or hostile files: the HDF5 library's errors arrive as any of these.
HDF5_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)


@contextmanager
def hdf5_reads(path: Path, where: str) -> Iterator[None]:
    """A block that reads `where` in an HDF5 file: what h5py raises there becomes a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except HDF5_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{path}: {where} can't be read ({type(error).__name__}: {reason}); the file is damaged, get it again"
        ) from None


def hdf5_item(path: Path, file_or_group: h5py.Group, name: str) -> h5py.Dataset | h5py.Group | None:
    """The dataset or group called `name` ("a/b" goes down), None where there is no such thing.

    Follows hard links alone, and gives datasets only whose numbers lie in this file: a file from elsewhere must neither
    name other files of this machine nor send a reader in circles.

    Raises:
        DataError: a soft or external link, a dataset stored in other files, or a damaged entry.
    """
    item: h5py.Dataset | h5py.Group = file_or_group
    where = file_or_group.name.rstrip("/") if file_or_group.name else ""
    for part in name.strip("/").split("/"):
        if not isinstance(item, h5py.Group):
            return None
        where = f"{where}/{part}"
        with hdf5_reads(path, where):
            encoded = part.encode(errors="surrogateescape")
            if not item.id.links.exists(encoded):
                return None
            if item.id.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
                link = item.get(part, getlink=True)
                target = getattr(link, "filename", "") + getattr(link, "path", "")
                raise DataError(
                    f"{path}: {where} is {'a soft' if isinstance(link, h5py.SoftLink) else 'an external'} link to "
                    f"{target!r}; links aren't followed. Copy the data itself into the file"
                )
            item = item[part]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise DataError(
                        f"{path}: {where} keeps its numbers in other files ("
                        f"{'a virtual dataset' if item.is_virtual else 'external storage'}), which aren't followed. "
                        "Copy the data itself into the file"
                    )
            elif not isinstance(item, h5py.Group):
                return None
    return item


def hdf5_names(path: Path, group: h5py.Group) -> list[str]:
    """Names of a group's members in the file's order, hard links only.

    Raises:
        DataError: the group is damaged.
    """
    with hdf5_reads(path, group.name or "/"):
        return [name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink)]


def hdf5_attribute(path: Path, item: h5py.Dataset | h5py.Group, name: str) -> Any:
    """An attribute's value as h5py gives it, None where there is none.

    Raises:
        DataError: it is damaged.
    """
    with hdf5_reads(path, f"attribute {name} of {item.name}"):
        if name not in item.attrs:  # attrs.get() would take a damaged attribute for an absent one
            return None
        return item.attrs[name]


def hdf5_shape(path: Path, item: h5py.Dataset | h5py.Group | None, kinds: str = "fiu") -> tuple[int, ...]:
    """The shape of a dataset of numbers of these numpy kinds, () for all else.

    Raises:
        DataError: its description is damaged.
    """
    if not isinstance(item, h5py.Dataset):
        return ()
    with hdf5_reads(path, str(item.name)):
        return tuple(item.shape or ()) if item.dtype.kind in kinds else ()
