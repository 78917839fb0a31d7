"""What all layouts share: splits that never overlap, axes, names."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups_scale.data.source import check_names, extents_of_centres, is_even, split_by_seed, split_in_time
from ups_scale.errors import DataError
from ups_scale.physics.families import Field


def cells(splits: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """Every (trajectory, frame) of every split."""
    return [(int(row), frame) for part in splits.values() for row, start, stop in part for frame in range(start, stop)]


@given(num=st.integers(1, 60), num_frames=st.integers(1, 40), seed=st.integers(0, 9), by_time=st.booleans())
def test_splits_take_every_frame_once(num: int, num_frames: int, seed: int, by_time: bool) -> None:
    splits = split_in_time(num, num_frames) if by_time else split_by_seed(num, num_frames, seed)
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
    first, again, other = (split_by_seed(50, 3, seed)["test"][:, 0].tolist() for seed in (1, 1, 2))
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
