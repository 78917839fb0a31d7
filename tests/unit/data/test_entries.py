"""Which inputs go together, and what the others are called."""

import dataclasses
import random

import numpy as np
import pytest
from array_source import array_source, convert_sources
from synthetic import waves

from ups_scale.data.entries import MAX_ENTRIES, Part, make_entries
from ups_scale.data.source import whole
from ups_scale.errors import DataError
from ups_scale.physics.families import Field

WALLS = (("dirichlet", "dirichlet"),)


def part(tmp_path, name, grid=(8,), num_frames=4, num=3, split="train", **changes):
    base = array_source(tmp_path / f"{name}.npz", {"u": np.zeros((num, num_frames, *grid), np.float32)}, **changes)
    source = dataclasses.replace(base, splits={split: whole(range(num), num_frames)})
    return Part(source, f"digest of {name}", source.splits, {})


def named(parts, by_parameters=False):
    """Names of the inputs by entry, whatever the order they come in."""
    found = []
    for seed in range(4):
        shuffled = list(parts)
        random.Random(seed).shuffle(shuffled)
        entries = make_entries(shuffled, by_parameters)
        found.append({entry.name: [part.source.path.stem for part in entry.parts] for entry in entries})
    assert all(names == found[0] for names in found)
    return found[0]


def test_files_that_are_alike_are_one_entry(tmp_path):
    parts = [part(tmp_path, "a"), part(tmp_path, "b"), part(tmp_path, "c", split="test")]
    assert named(parts) == {"mine": ["a", "b", "c"]}


def test_float32_axes_make_no_variants(tmp_path):
    low = float(np.float32(0.1)) - 0.1
    parts = [part(tmp_path, "a"), part(tmp_path, "b", extents=((low, 1.0),))]
    assert named(parts) == {"mine": ["a", "b"]}


@pytest.mark.parametrize(
    ("changes", "variant"),
    [
        ({"grid": (16,)}, "16"),
        ({"boundaries": WALLS}, "dirichlet"),
        ({"boundaries": (("wall", "open"),)}, "wall_to_open"),
        ({"extents": ((-1.0, 2.5),)}, "domain_m1_2_5"),
        ({"num_frames": 41}, "t41"),
        ({"masked": True}, "masked"),
        ({"grid": (16,), "boundaries": WALLS, "num_frames": 41}, "dirichlet_16_t41"),
        ({"geometry": "points"}, "points8"),
        ({"steady": True, "num_frames": 4}, "steady"),
    ],
)
def test_a_variant_is_called_after_what_differs(tmp_path, changes, variant):
    parts = [part(tmp_path, "z", boundaries=(("periodic", "periodic"),)), part(tmp_path, "a", **changes)]
    assert named(parts) == {"mine": ["z"], f"mine-{variant}": ["a"]}


def test_axes_of_different_kinds(tmp_path):
    mixed = (("periodic", "periodic"), ("wall", "wall"))
    parts = [part(tmp_path, "a", grid=(4, 4)), part(tmp_path, "b", grid=(4, 8), boundaries=mixed)]
    assert named(parts) == {"mine": ["a"], "mine-periodic_wall_4x8": ["b"]}


def test_variants_that_the_name_would_not_tell_apart_are_numbered(tmp_path):
    parts = [part(tmp_path, name) for name in "abc"]
    units = [("m", False), ("K", False), ("1", True)]
    parts = [
        dataclasses.replace(p, source=dataclasses.replace(p.source, fields=(Field("u", *unit),)))
        for p, unit in zip(parts, units, strict=True)
    ]
    assert sorted(named(parts)) == ["mine", "mine-2", "mine-3"]


def test_the_registrys_usual_boundary_comes_first(tmp_path):
    family = {"family": "burgers_1d"}
    parts = [part(tmp_path, "a", boundaries=WALLS, **family), part(tmp_path, "b", grid=(16,), **family)]
    assert named(parts) == {"burgers_1d": ["b"], "burgers_1d-dirichlet_8": ["a"]}


def test_a_longer_test_is_the_same_family_and_another_resolution_is_not(tmp_path):
    parts = [
        part(tmp_path, "train"),
        part(tmp_path, "longer", num_frames=9, split="test"),
        part(tmp_path, "finer", grid=(32,), split="ood"),
    ]
    assert named(parts) == {"mine": ["train", "longer"], "mine-32": ["finer"]}
    (first, _) = make_entries(parts, False)
    assert first.num_frames == {"train": 4, "test": 9}


def test_training_files_of_two_lengths_keep_their_tests(tmp_path):
    parts = [
        *(part(tmp_path, f"short_{split}", split=split) for split in ("train", "test")),
        *(part(tmp_path, f"long_{split}", num_frames=9, split=split) for split in ("train", "test")),
    ]
    assert named(parts) == {"mine": ["short_test", "short_train"], "mine-t9": ["long_test", "long_train"]}


def test_by_parameters_only_what_is_constant_within_a_file(tmp_path):
    parts = [
        part(tmp_path, "a", parameters={"nu": [0.01] * 3, "rho": [1.0, 2.0, 3.0]}),
        part(tmp_path, "b", parameters={"nu": [2e-5] * 3, "rho": [1.0, 2.0, 3.0]}),
        part(tmp_path, "c", parameters={"nu": [0.01] * 3, "rho": [-2.0] * 3}),
        part(tmp_path, "d", parameters={"nu": [0.01, 0.02, 0.03], "rho": [np.nan] * 3}),
    ]
    assert named(parts) == {"mine": list("abcd")}
    expected = {"mine-nu0_01": ["a"], "mine-nu2em05": ["b"], "mine-nu0_01_rhom2": ["c"], "mine": ["d"]}
    assert named(parts, by_parameters=True) == expected


def test_a_parameter_that_reads_like_a_difference(tmp_path):
    parts = [
        part(tmp_path, "a", parameters={"nu": [1.0] * 3, "t": [9.0] * 3}),
        part(tmp_path, "b", parameters={"nu": [1.0] * 3, "t": [1.0, 2.0, 3.0]}),
        part(tmp_path, "c", parameters={"nu": [1.0] * 3, "t": [1.0, 2.0, 3.0]}, num_frames=9),
    ]
    expected = {"mine-nu1": ["b"], "mine-nu1_t9": ["c"], "mine-nu1_t9_2": ["a"]}
    assert named(parts, by_parameters=True) == expected


def test_more_entries_than_anybody_wants(tmp_path):
    parts = [part(tmp_path, "a", parameters={"nu": [1.0] * 3})]
    number = MAX_ENTRIES + 1
    parts = [
        dataclasses.replace(
            parts[0], source=dataclasses.replace(parts[0].source, parameters_np=np.full((3, 1), float(nu)))
        )
        for nu in range(number)
    ]
    with pytest.raises(DataError, match=rf"make {number} entries, such as mine-nu0 .*Leave --by-parameters out"):
        make_entries(parts, True)


def test_no_training_data(tmp_path):
    parts = [part(tmp_path, f"a{number}", split="test") for number in range(8)]
    expected = (
        r"family mine: no training trajectories in a0\.npz, a1\.npz, a2\.npz, a3\.npz, a4\.npz and 3 more; give the "
        r"file of the train split too, or --split seed:0"
    )
    with pytest.raises(DataError, match=expected):
        make_entries(parts, False)


def test_an_entry_without_training_data_has_its_familys_statistics(monkeypatch, tmp_path):
    train = array_source(tmp_path / "a.npz", {"u": waves(3, 1, 4, (8,), 0)[:, 0]})
    fine = array_source(
        tmp_path / "b.npz", {"u": waves(3, 1, 4, (16,), 1)[:, 0]}, splits={"ood_resolution": whole(range(3), 4)}
    )
    families = convert_sources(monkeypatch, [fine, train], tmp_path / "out").families
    assert set(families) == {"mine", "mine-16"}
    assert families["mine-16"].splits == ("ood_resolution",)
    assert families["mine-16"].statistics == families["mine"].statistics


def test_shards_do_not_depend_on_the_order_of_inputs(monkeypatch, tmp_path):
    sources = [
        array_source(tmp_path / f"{name}.npz", {"u": waves(3, 1, 4, grid, seed)[:, 0]})
        for seed, (name, grid) in enumerate([("a", (8,)), ("b", (16,)), ("c", (8,))])
    ]
    first = convert_sources(monkeypatch, sources, tmp_path / "one")
    second = convert_sources(monkeypatch, sources[::-1], tmp_path / "two")
    assert first.digest == second.digest
