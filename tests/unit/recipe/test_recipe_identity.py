"""The name of a run changes with the mathematics and the data, and with nothing else."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ups_scale.errors import RecipeError
from ups_scale.recipe import validate
from ups_scale.recipe.load import from_dict, identity

LEAVES = {key: leaf for key, leaf in validate.leaves().items() if "." in key}
OUTSIDE = {
    "run.name", "data.manifest", "data.reader_threads", "data.prefetch", "data.max_damaged_share",
    "data.cache_dir", "data.cache_gib", "model.size", "schedule.steps", "engine.zero_stage",
    "engine.activation_checkpointing", "engine.micro_batch", "engine.accumulation", "engine.accelerator",
    "engine.min_gpus", "engine.gpu_memory_gib", "model.accept_stacked_separated",
}  # fmt: skip


def values(leaf: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema allows at a key."""
    kinds = leaf["type"] if isinstance(leaf["type"], list) else [leaf["type"]]
    if "enum" in leaf:
        return st.sampled_from(leaf["enum"])
    if kinds[0] == "boolean":
        return st.booleans()
    if kinds[0] == "integer":
        return st.integers(leaf["minimum"], leaf["maximum"])
    if kinds[0] == "number":
        low, high = (leaf.get(f"{end}imum", leaf.get(f"exclusive{end.title()}imum")) for end in ("min", "max"))
        return st.floats(low, high, exclude_min="exclusiveMinimum" in leaf, exclude_max="exclusiveMaximum" in leaf)
    if kinds[0] == "array":
        return st.lists(values(leaf["items"]), min_size=leaf["minItems"], max_size=leaf["maxItems"], unique=True).map(
            sorted
        )
    return st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True)


def with_value(resolved: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(resolved)
    section, name = key.split(".")
    changed[section][name] = value
    return changed


@given(data=st.data())
def test_hash_changes_exactly_with_the_keys_of_the_mathematics(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(LEAVES)))
    before = from_dict({"model": {"size": "tiny"}})
    try:
        after = from_dict(with_value(before.as_dict(), key, data.draw(values(dict(LEAVES[key])))))
    except RecipeError:
        assume(False)
    changed = after != before
    same = identity(before, "d") == identity(after, "d")
    assert same == (not changed or not LEAVES[key].get("x-identity", True))


@pytest.mark.parametrize("key", sorted(LEAVES))
def test_keys_outside_the_hash_are_the_ones_meant(key: str) -> None:
    outside = key in OUTSIDE or key.partition(".")[0] in ("checkpoint", "evaluate", "gates", "logging")
    assert LEAVES[key].get("x-identity", True) is not outside


def test_hash_is_8_hex_digits_and_knows_the_data() -> None:
    recipe = from_dict({})
    assert re.fullmatch("[0-9a-f]{8}", identity(recipe, "digest"))
    assert identity(recipe, "digest") != identity(recipe, "other digest")


def test_hash_does_not_depend_on_how_the_recipe_is_written() -> None:
    stated = {
        "latent_tokens": 64,
        "depth": 4,
        "window_size": 4,
        "supernodes": 256,
        "neighbours": 16,
        "drop_path": 0,
        "mlp_ratio": 4.0,
    }
    short = {"model": {"size": "tiny", "drop_path": 0.0, "mlp_ratio": 4}, "description": "x", "format": 1}
    lr = {"optimizer": {"lr": 3e-4}}
    assert identity(from_dict({"model": stated, **lr}), "d") == identity(from_dict(short), "d")


def test_hash_does_not_change_between_versions() -> None:
    """Runs are found again by it: if this fails, a change renames everybody's runs, which must be meant."""
    known = {"model": {"size": "S"}, "optimizer": {"lr": 3e-4}}
    assert identity(from_dict(known), "0" * 64) == "7b3dcc22"
