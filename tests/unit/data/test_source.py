"""What all layouts share: splits that never overlap, axes, names."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from array_source import array_source
from hypothesis import given
from hypothesis import strategies as st

from ups_scale.data.source import (
    Dealt,
    Source,
    check_names,
    deal_together,
    extents_of_centres,
    is_even,
    split_by_seed,
    split_in_time,
)
from ups_scale.errors import DataError
from ups_scale.physics.families import Field


def cells(splits: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """Every (trajectory, frame) of every split."""
    return [(int(row), frame) for part in splits.values() for row, start, stop in part for frame in range(start, stop)]


@given(num=st.integers(1, 60), num_frames=st.integers(1, 40), seed=st.integers(0, 9), by_time=st.booleans())
def test_splits_take_every_frame_once(num: int, num_frames: int, seed: int, by_time: bool) -> None:
    splits = split_in_time(num, num_frames) if by_time else split_by_seed(num, num_frames, Dealt(seed))
    assert sorted(cells(splits)) == [(row, frame) for row in range(num) for frame in range(num_frames)]
    assert list(splits) == [name for name in ("train", "valid", "test") if name in splits]


def test_a_long_trajectory_is_split_80_10_10_in_time() -> None:
    splits = split_in_time(1, 201)
    assert {name: part.tolist() for name, part in splits.items()} == {
        "train": [[0, 0, 161]],
        "valid": [[0, 161, 181]],
        "test": [[0, 181, 201]],
    }


def test_split_by_seed_depends_on_the_seed_alone() -> None:
    first, again, other = (split_by_seed(50, 3, Dealt(seed))["test"][:, 0].tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 5


@pytest.mark.parametrize(
    ("points", "even"),
    [
        (np.linspace(0, 1, 7), True),
        (np.cumsum(np.full(1000, 0.1, np.float32)), True),
        (np.array([0.0, 1.0, 2.1]), False),
        (np.array([2.0, 1.0, 0.0]), False),
        (np.array([0.0, np.nan, 2.0]), False),
        (np.array([1.0]), False),
    ],
)
def test_even_axes(points: np.ndarray, even: bool) -> None:
    assert is_even(points) is even


def test_extents_reach_half_a_step_beyond_cell_centres() -> None:
    assert extents_of_centres(np.array([0.125, 0.375, 0.625, 0.875])) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("family", "fields", "parameters", "found"),
    [
        ("my-data", [Field("u", "1")], [], r"family name 'my-data'; use letters, digits and _"),
        ("mine", [Field("u.v", "1")], [], r"field name 'u\.v'"),
        ("mine", [Field("u", "1")], ["a b"], "parameter name 'a b'"),
        ("mine", [Field("u", "1"), Field("u", "m")], [], r"two fields have the same name \(u, u\)"),
        ("burgers_1d", [Field("v", "1")], ["nu"], r"burgers_1d has the fields u \(1\) and the parameters nu; found v"),
        ("burgers_1d", [Field("u", "1")], [], "and the parameters nu; found u .* and -. Use those, or name the family"),
        ("darcy_2d", [Field("permeability", "1"), Field("u", "1")], ["beta"], r"permeability \(1, static\)"),
    ],
)
def test_names_that_cannot_be_used(family: str, fields: list[Field], parameters: list[str], found: str) -> None:
    with pytest.raises(DataError, match=f"in.h5: .*{found}"):
        check_names(Path("in.h5"), family, fields, parameters)


def test_names_that_can_be_used() -> None:
    check_names(Path("in.h5"), "sea_surface", [Field("temperature", "K")], ["depth"])
    check_names(Path("in.h5"), "burgers_1d", [Field("u", "1")], ["nu"])


def test_few_trajectories_are_dealt_out_together_and_many_each_alike(tmp_path: Path) -> None:
    def of(name: str, num: int, seed: int | None = 0) -> Source:
        dealt = None if seed is None else Dealt(seed)
        u = np.zeros((num, 3, 4))
        source = array_source(tmp_path / f"{name}.npz", {"u": u}, dealt=dealt)
        return replace(source, splits=split_by_seed(num, 3, dealt or Dealt(0)))

    few, many = [of(f"few{n}", 4) for n in range(5)], [of(f"many{n}", 20) for n in range(2)]
    stated = of("stated", 4, None)
    sources = [*few, *many, stated]
    digests = {source.path: source.path.name for source in sources}
    dealt = deal_together(sources, digests)
    counts = [sum(len(source.splits.get(name, ())) for source in dealt[:5]) for name in ("train", "valid", "test")]
    assert counts == [16, 2, 2]
    for source in dealt[:5]:
        rows = sorted(row for part in source.splits.values() for row in part[:, 0])
        assert rows == [0, 1, 2, 3]
        assert all((part[:, 1:] == (0, 3)).all() for part in source.splits.values())
    again = deal_together(sources[::-1], digests)[::-1]
    for a, b in zip(dealt, again, strict=True):
        assert {k: v.tolist() for k, v in a.splits.items()} == {k: v.tolist() for k, v in b.splits.items()}
    # Of files of as many, what has the same number is in the same split: they may share their initial conditions.
    assert [part.tolist() for part in dealt[5].splits.values()] == [part.tolist() for part in dealt[6].splits.values()]
    assert dealt[7] is stated
