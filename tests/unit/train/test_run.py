from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ups_scale.errors import CheckpointError, RecipeError
from ups_scale.recipe import load
from ups_scale.train import run
from ups_scale.train.loop import due, require_hardware

RECIPES = Path(__file__).parents[3] / "recipes"


def test_a_run_folder_in_use_says_by_whom_and_is_free_when_its_holder_is_gone(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from ups_scale.train.run import lock; "
        f"file = lock(Path({str(tmp_path)!r})); print('held', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"in use by process {holder.pid} on .*change run.name"):
            run.lock(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    run.lock(tmp_path).close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"can't be written .*--run-root"):
        run.lock(tmp_path / "file" / "run")


def test_the_record_of_a_run_and_what_changed_since(tmp_path: Path) -> None:
    recipe = load(RECIPES / "demo.json")
    assert run.record(tmp_path, recipe, 2) == []
    assert json.loads((tmp_path / "recipe.json").read_text()) == recipe.as_dict()
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert environment["world_size"] == 2
    longer = load(RECIPES / "demo.json", [f"schedule.steps={recipe.schedule.steps + 1}"])
    assert run.record(tmp_path, longer, 2) == [
        f"schedule.steps: {recipe.schedule.steps} -> {recipe.schedule.steps + 1}"
    ]


def test_the_folder_is_named_by_recipe_and_data(tmp_path: Path) -> None:
    recipe = load(RECIPES / "demo.json")
    folder = run.run_folder(tmp_path, recipe, "a" * 64)
    assert folder.name.startswith("demo-")
    assert run.run_folder(tmp_path, recipe, "b" * 64) != folder
    assert run.run_folder(tmp_path, load(RECIPES / "demo.json", ["engine.micro_batch=3"]), "a" * 64) == folder


@pytest.mark.parametrize("size", ["S", "B", "L"])
def test_the_large_recipes_say_what_they_need(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        RecipeError, match=r"needs \d GPU\(s\) of 80 GiB, this machine has none.*engine.accelerator=any"
    ):
        require_hardware(load(RECIPES / f"{size}.json"))
    require_hardware(load(RECIPES / f"{size}.json", ["engine.accelerator=any"]))


@pytest.mark.parametrize(("done", "every", "expected"), [(10, 5, True), (11, 5, False), (12, 5, True), (12, 0, False)])
def test_what_is_due_at_the_end_too(done: int, every: int, expected: bool) -> None:
    assert due(done, every, last=12) == expected
