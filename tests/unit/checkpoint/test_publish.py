from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ups_scale.checkpoint.publish import clean, publish, published, retain
from ups_scale.checkpoint.resume import find_checkpoint, newest_whole, verify
from ups_scale.distributed import Ranks
from ups_scale.errors import CheckpointError

ALONE = Ranks(0, 1, 0, torch.device("cpu"), None)


def write(folder: Path) -> None:
    (folder / "deepspeed").mkdir()
    (folder / "deepspeed" / "weights.pt").write_bytes(bytes(range(256)) * 40)
    (folder / "state.json").write_text('{"step": 1}')


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    for step in (5, 10, 15):
        publish(folder, step, ALONE, write)
    return folder


def test_what_is_published_is_whole_and_listed(checkpoints: Path) -> None:
    assert [step for step, _ in published(checkpoints)] == [5, 10, 15]
    for _, folder in published(checkpoints):
        verify(folder)
        files = json.loads((folder / "manifest.json").read_text())["files"]
        assert sorted(files) == ["deepspeed/weights.pt", "state.json"]
        assert files["deepspeed/weights.pt"]["bytes"] == 10240
    assert (checkpoints / "latest").read_text() == "step-15\n"
    assert not list(checkpoints.glob("*.tmp"))


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (9, 10, 1000, 200):
        publish(tmp_path, step, ALONE, write)
    assert [step for step, _ in published(tmp_path)] == [9, 10, 200, 1000]


def test_a_failed_write_publishes_nothing_and_leaves_the_others(checkpoints: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"can't be published .*No space left on device.*free some space"):
        publish(checkpoints, 20, ALONE, fail)
    assert [step for step, _ in published(checkpoints)] == [5, 10, 15]
    publish(checkpoints, 20, ALONE, write)  # the rest of the failed one is no obstacle
    assert newest_whole(checkpoints) == checkpoints / "step-20"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "deepspeed/weights.pt").write_bytes(b"x" + bytes(range(256))[1:] + bytes(range(256)) * 39),
            "SHA-256",
        ),
        (lambda f: (f / "deepspeed/weights.pt").write_bytes(b"short"), "5 bytes, the manifest says 10240"),
        (lambda f: (f / "state.json").unlink(), "listed in the checkpoint's manifest but missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "no readable checkpoint manifest"),
        (lambda f: (f / "manifest.json").unlink(), "no readable checkpoint manifest"),
        (lambda f: (f / "manifest.json").write_text('{"format": 9, "files": {}}'), "format 9, this version reads 1"),
    ],
)
def test_a_damaged_newest_is_refused_by_name_and_the_one_before_taken(checkpoints, damage, message, capsys) -> None:
    damage(checkpoints / "step-15")
    with pytest.raises(CheckpointError, match=message):
        verify(checkpoints / "step-15")
    assert newest_whole(checkpoints, set_aside=True) == checkpoints / "step-10"
    said = capsys.readouterr().out
    assert "checkpoint step-15 is broken and passed over" in said
    assert message in said
    assert (checkpoints / "step-15.broken").is_dir()
    publish(checkpoints, 15, ALONE, write)
    assert newest_whole(checkpoints) == checkpoints / "step-15"


def test_every_single_flipped_byte_is_found(checkpoints: Path) -> None:
    path = checkpoints / "step-15" / "deepspeed" / "weights.pt"
    whole = path.read_bytes()
    for position in range(0, len(whole), 499):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match="SHA-256"):
            verify(path.parents[1])


def test_finding_by_run_or_by_step(checkpoints: Path) -> None:
    assert find_checkpoint(checkpoints.parent) == checkpoints / "step-15"
    assert find_checkpoint(checkpoints / "step-5") == checkpoints / "step-5"
    with pytest.raises(CheckpointError, match="neither a run folder"):
        find_checkpoint(checkpoints / "step-7")
    (checkpoints / "step-15/deepspeed/weights.pt").write_bytes(b"")
    assert find_checkpoint(checkpoints.parent, without=["deepspeed"]) == checkpoints / "step-15"
    assert find_checkpoint(checkpoints.parent) == checkpoints / "step-10"
    for step in (5, 10, 15):
        (checkpoints / f"step-{step}" / "state.json").write_text("")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        find_checkpoint(checkpoints.parent)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full to write to")
def test_a_full_disk_is_told_as_torch_tells_it(checkpoints: Path) -> None:
    def write_full(folder: Path) -> None:
        torch.save({"w": torch.zeros(10**5)}, "/dev/full")

    with pytest.raises(CheckpointError, match="can't be published"):
        publish(checkpoints, 20, ALONE, write_full)
    clean(checkpoints)
    assert not list(checkpoints.glob("*.tmp"))
    assert newest_whole(checkpoints) == checkpoints / "step-15"


@pytest.mark.parametrize(
    ("last", "every", "left"), [(2, 0, [10, 15]), (2, 5, [5, 10, 15]), (2, 10, [10, 15]), (3, 0, [5, 10, 15])]
)
def test_retention(checkpoints: Path, last: int, every: int, left: list[int]) -> None:
    retain(checkpoints, last, every)
    assert [step for step, _ in published(checkpoints)] == left
    assert not list(checkpoints.glob("*.tmp"))
