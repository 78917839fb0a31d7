"""Every description of a data set that ships is valid, and makes what it says."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest

import ups_scale
from ups_scale.solvers.datasets import Dataset, load_dataset, parts_of, schema
from ups_scale.solvers.generate import resolve
from ups_scale.solvers.setups import USUAL

FOLDER = Path(ups_scale.__file__).parents[1] / "recipes" / "data"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.json"))
GIB = 2**30


def shipped(name: str) -> Dataset:
    return load_dataset(FOLDER / f"{name}.json")


def num_bytes(dataset: Dataset) -> int:
    return sum(part.num_bytes for part in parts_of(dataset, Path("anywhere")))


def test_descriptions_are_found() -> None:
    assert set(SHIPPED) >= {"demo", "small", "full", "pdebench_advection", "pdebench_burgers"}


def test_the_schema_is_one_and_says_what_each_key_is_for() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    for keys in (schema()["properties"], schema()["properties"]["sets"]["additionalProperties"]["properties"]):
        assert all(key["description"].endswith(".") for key in keys.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_description_can_be_made_and_says_what_it_is_for(name: str) -> None:
    dataset = shipped(name)
    document = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    assert document["description"]
    assert os.path.normpath(FOLDER / document["$schema"]) == str(
        Path(ups_scale.__file__).parent / "solvers" / "dataset.schema.json"
    )
    assert dataset.out == Path("data") / name
    parts = parts_of(dataset, Path("anywhere"))
    assert len({part.path for part in parts}) == len(parts)
    assert {split for one in dataset.sets for split in one.counts} >= {"train", "valid", "test"}
    assert all(one.request.points is None or one.request.points > 0 for one in dataset.sets)


def test_the_full_set_has_every_family_and_fits_in_20_gib() -> None:
    full = shipped("full")
    assert {one.label for one in full.sets} == set(USUAL)
    assert all(one.label == one.request.name for one in full.sets)
    size = num_bytes(full) / GIB
    assert size <= 20
    description = json.loads((FOLDER / "full.json").read_text("utf-8"))["description"]
    assert abs(float(re.search(r"(\d+) GiB", description).group(1)) - size) < 1  # type: ignore[union-attr]


def test_the_full_set_holds_each_kind_of_split_that_a_family_has() -> None:
    for one in shipped("full").sets:
        for split in one.counts:
            resolve(one.request, split)
        assert "ood_regime" in one.counts
    by_label = {one.label: one.counts for one in shipped("full").sets}
    assert {label for label, counts in by_label.items() if "ood_geometry" in counts} == {
        label for label in USUAL if label.endswith("-obstacles")
    }


def test_the_small_set_is_a_share_of_the_full_one() -> None:
    full = {one.label: one for one in shipped("full").sets}
    small = {one.label: one for one in shipped("small").sets}
    assert list(small) == list(full)
    for label, one in small.items():
        assert one.request == full[label].request
        for split, count in full[label].counts.items():
            assert one.counts[split] == max(1, round(0.05 * count))
    assert 0.5 < num_bytes(shipped("small")) / GIB < 1.5


def test_the_demo_set() -> None:
    demo = {one.label: one for one in shipped("demo").sets}
    inside = ("train", "valid", "test")
    figures = {label: (sum(one.counts[split] for split in inside), one.request.grid) for label, one in demo.items()}
    assert figures == {
        "advection_1d": (320, (128,)),
        "burgers_1d": (320, (128,)),
        "reaction_diffusion_2d": (640, (32, 32)),
        "navier_stokes_2d": (1600, (32, 32)),
    }
    for label, one in demo.items():
        apart = {split: count for split, count in one.counts.items() if split not in inside}
        kinds = {"ood_regime", "ood_resolution"} | ({"ood_boundary"} if label == "reaction_diffusion_2d" else set())
        assert apart == dict.fromkeys(kinds, 16)
        assert one.counts["train"] == 0.8 * figures[label][0]
        assert (resolve(one.request, "train")[1].num_frames, one.request.stride, one.request.seed) == (24, 1, 0)


@pytest.mark.parametrize(
    ("name", "family", "parameter", "values"),
    [
        ("pdebench_advection", "advection_1d", "beta", (0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 4.0, 7.0)),
        (
            "pdebench_burgers",
            "burgers_1d",
            "nu",
            (0.001, 0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 1.0, 2.0, 4.0),
        ),
    ],
)
def test_pdebenchs_sets_are_of_its_sizes_and_values(
    name: str, family: str, parameter: str, values: tuple[float, ...]
) -> None:
    sets = shipped(name).sets
    assert [one.label for one in sets] == [f"{family}_{parameter}{value:g}" for value in values]
    for one, value in zip(sets, values, strict=True):
        request = one.request
        assert request.name == f"{family}-pdebench"
        assert request.ranges == {parameter: (value, value)}
        assert one.counts == {"train": 8000, "valid": 1000, "test": 1000}
        _, case = resolve(request, "train")
        # Every fourth of 1024 cells, every fifth of 201 frames.
        assert (case.grid, case.num_frames, request.stride) == ((256,), 41, 5)
        assert (case.num_frames - 1) * request.stride == 200
