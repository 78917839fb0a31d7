"""Which entries of a manifest a set of inputs makes: what is alike goes together, what differs becomes a variant.

Nothing here depends on the order of the inputs or on where they lie.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ups_scale.data.source import SPLITS, Source
from ups_scale.data.tar_stream import MAX_MEMBER_BYTES
from ups_scale.errors import DataError
from ups_scale.physics.families import FAMILIES, VARIANT_MARK

MIN_FRAMES = 64
"""A trajectory is not cut into pieces of fewer frames."""
# How far two files' extents may differ, as a part of the domain: many keep their axes in float32.
EXTENT_TOLERANCE = 1e-5
MAX_ENTRIES = 256


@dataclass(frozen=True)
class Part:
    """A source as an entry takes it.

    Attributes:
        splits: its pieces after cutting, (n, 3) rows of (trajectory, first frame, end of frames) by split.
        dropped: frames at the end of a range that the cutting into equal pieces left over, by split.
    """

    source: Source
    digest: str
    splits: Mapping[str, np.ndarray]
    dropped: Mapping[str, int]

    @property
    def lengths(self) -> dict[str, int]:
        """Frames of a piece, by split."""
        return {split: int(rows[0, 2] - rows[0, 1]) for split, rows in self.splits.items()}


@dataclass
class Entry:
    """One entry of the manifest: a family, or a variant of it."""

    name: str
    parts: list[Part] = field(default_factory=list)

    @property
    def source(self) -> Source:
        """Stands for all: they differ in nothing that the manifest says once."""
        return self.parts[0].source

    @property
    def num_frames(self) -> dict[str, int]:
        lengths: dict[str, int] = {}
        for part in self.parts:
            lengths |= part.lengths
        return {split: lengths[split] for split in sorted(lengths, key=split_order)}

    def takes(self, part: Part) -> bool:
        """Whether a part's pieces are as long as those that are here of the same splits."""
        here = self.num_frames
        return all(here.get(split, length) == length for split, length in part.lengths.items())


def split_order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def cut(source: Source, shard_bytes: float, value_bytes: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """A source's pieces by split, the long ones cut into equal pieces of about a shard's size; and the frames at the
    end of each range which that leaves over. A stored value has `value_bytes`."""
    splits, dropped = {}, {}
    frame_bytes = math.prod(source.grid) * value_bytes
    moving = sum(not field.static for field in source.fields) * frame_bytes
    # A member of a tar, one field's piece, has a size limit of its own.
    hard = max(1, MAX_MEMBER_BYTES // frame_bytes)
    for split, rows in source.splits.items():
        if not len(rows):
            continue
        length = int(rows[0, 2] - rows[0, 1])
        assert (rows[:, 2] - rows[:, 1] == length).all(), "pieces of a split are equally long"
        wanted = max(MIN_FRAMES, int(shard_bytes // max(1, moving)))
        number = 1 if source.steady else max(1, min(-(-length // wanted), length // MIN_FRAMES))
        number = max(number, -(-length // hard))
        part = length // number
        starts = rows[:, 1:2] + part * np.arange(number)
        trajectories = np.broadcast_to(rows[:, :1], starts.shape)
        splits[split] = np.stack([trajectories, starts, starts + part], axis=2).reshape(-1, 3)
        if length > part * number:
            dropped[split] = length - part * number
    return splits, dropped


def make_entries(parts: Sequence[Part], by_parameters: bool) -> list[Entry]:
    """The entries that these inputs make, in the order of their names.

    The first of a family's is called as the family, the others `<family>-<what differs from the first>`. With
    `by_parameters` there is also one per value of the parameters that are constant within a file.

    Raises:
        DataError: a family without training data, or more entries than anybody wants.
    """
    by_stem: dict[tuple[str, str], list[Part]] = defaultdict(list)
    for part in sorted(parts, key=lambda part: (part.source.path.name, part.digest)):
        regime = _regime(part.source) if by_parameters else ""
        by_stem[part.source.family, regime].append(part)
    entries: list[Entry] = []
    for (family, regime), members in sorted(by_stem.items()):
        groups = sorted(_group(members), key=_rank)
        for group, name in zip(groups, _names(groups, family, regime), strict=True):
            group.name = _free(name, {entry.name for entry in entries})
            entries.append(group)
    if len(entries) > MAX_ENTRIES:
        raise DataError(
            f"the inputs make {len(entries)} entries, such as {entries[0].name} and {entries[1].name}; more than "
            f"{MAX_ENTRIES} are of no use. Leave --by-parameters out, or shard fewer kinds of inputs together"
        )
    trained = {entry.source.family for entry in entries if "train" in entry.num_frames}
    for entry in entries:
        if entry.source.family not in trained:
            files = sorted(
                {part.source.path.name for e in entries for part in e.parts if e.source.family == entry.source.family}
            )
            raise DataError(
                f"family {entry.source.family}: no training trajectories in {_some(files)}; give the file of the train "
                "split too, or --split seed:0 to deal the trajectories out"
            )
    return sorted(entries, key=lambda entry: entry.name)


def _free(name: str, taken: set[str]) -> str:
    """The name, numbered if it is taken: some differences have no words."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}{'_' if VARIANT_MARK in name else VARIANT_MARK}{number}"
    return free


def _some(names: Sequence[str], num: int = 5) -> str:
    return ", ".join(names[:num]) + (f" and {len(names) - num} more" if len(names) > num else "")


def _group(parts: Sequence[Part]) -> list[Entry]:
    """Entries, unnamed yet, of parts that are alike."""
    groups: list[Entry] = []
    for part in parts:
        for group in groups:
            same_length = group.source.num_frames == part.source.num_frames
            if same_length and _alike(group.source, part.source) and group.takes(part):
                group.parts.append(part)
                break
        else:
            groups.append(Entry("", [part]))
    # A test file may have longer trajectories than its training file: that is no family of its own.
    trained = sorted((group for group in groups if "train" in group.num_frames), key=_rank)
    kept = list(trained)
    for group in sorted((group for group in groups if "train" not in group.num_frames), key=_rank):
        for target in trained:
            if _alike(target.source, group.source) and all(target.takes(part) for part in group.parts):
                target.parts += group.parts
                break
        else:
            kept.append(group)
    return kept


def _alike(a: Source, b: Source) -> bool:
    return (_same_domain(a, b) and (a.fields, a.parameters) == (b.fields, b.parameters)) and all(
        word(a) == word(b) for word in _DIFFERENCES
    )


def _same_domain(a: Source, b: Source) -> bool:
    return len(a.extents) == len(b.extents) and all(
        math.isclose(x, y, rel_tol=0, abs_tol=EXTENT_TOLERANCE * abs(high - low))
        for (low, high), other in zip(a.extents, b.extents, strict=True)
        for x, y in zip((low, high), other, strict=True)
    )


def _units(source: Source) -> tuple[tuple[str, bool], ...]:
    return tuple((field.unit, field.static) for field in source.fields)


def _of_fields(source: Source) -> str:
    return "_".join(field.name for field in source.fields)


def _of_parameters(source: Source) -> str:
    return "_".join(source.parameters) or "no_parameters"


def _of_boundaries(source: Source) -> str:
    axes = [low if low == high else f"{low}_to_{high}" for low, high in source.boundaries]
    return axes[0] if len(set(axes)) == 1 else "_".join(axes)


def _of_grid(source: Source) -> str:
    return ("points" if source.geometry == "points" else "") + "x".join(map(str, source.grid))


def _of_kind(source: Source) -> str:
    return ("steady" if source.steady else "transient") + "_".join(("", *source.coordinates))


def _of_mask(source: Source) -> str:
    return "masked" if source.masked else "unmasked"


# What a variant is called after, in the order of its name.
_DIFFERENCES: tuple[Callable[[Source], str], ...] = (
    _of_fields,
    _of_parameters,
    _of_kind,
    _of_boundaries,
    _of_grid,
    _of_mask,
)


def num_differences(a: Source, b: Source) -> int:
    """In how many ways two entries of a family differ."""
    return sum(word(a) != word(b) for word in _DIFFERENCES)


def _of_domain(source: Source) -> str:
    return "domain_" + "_".join(_number(end) for pair in source.extents for end in pair)


def _of_length(source: Source) -> str:
    return f"t{source.num_frames}"


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "m").replace(".", "_").replace("+", "")


def _regime(source: Source) -> str:
    """The parameters that are the same for all of a file's trajectories, such as "nu0_01"."""
    words = []
    for name, values in zip(source.parameters, source.parameters_np.T, strict=True):
        if len(values) and np.isfinite(values).all() and (values == values[0]).all():
            words.append(name + _number(float(values[0])))
    return "_".join(words)


def _rank(group: Entry) -> tuple:
    """Its place among its family's: the first is the one with training data, of the usual boundary and the smallest
    grid."""
    source = group.source
    known = FAMILIES.get(source.family)
    usual = known.boundary if known else "periodic"
    return (
        "train" not in group.num_frames,
        any(side != usual for sides in source.boundaries for side in sides),
        source.masked,
        source.steady,
        source.geometry,
        math.prod(source.grid),
        source.grid,
        source.num_frames,
        math.prod(high - low for low, high in source.extents),
        source.extents,
        source.boundaries,
        _of_fields(source),
        _of_parameters(source),
        _of_kind(source),
        _units(source),
        sorted((part.source.path.name, part.digest) for part in group.parts),
    )


def _names(groups: Sequence[Entry], family: str, regime: str) -> list[str]:
    """`<family>` for the first, `<family>-<variant>` for the others; `regime` is a part of all."""
    first, names = groups[0].source, []
    for group in groups:
        source = group.source
        words = [regime] if regime else []
        for word in (*_DIFFERENCES, _of_length):
            if word(source) != word(first):
                words.append(word(source))
        if not _same_domain(first, source):
            words.append(_of_domain(source))
        variant = re.sub(r"[^A-Za-z0-9]+", "_", "_".join(words))
        names.append(f"{family}{VARIANT_MARK}{variant}" if variant else family)
    return names
