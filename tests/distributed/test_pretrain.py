"""`launch/pretrain.py` as users start it: runs, dies, resumes, refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import mixed_shards
import pytest
import torch
from safetensors.torch import load_file

from ups_scale.checkpoint.resume import find_checkpoint, read_state
from ups_scale.data.index import read_index
from ups_scale.model.simulator import Simulator
from ups_scale.train.run import lock

# Three runs a test at most, each with `finish`'s limit for one that hangs.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STEPS = 40
SMALL = {
    "model.depth": 2,
    "model.model_dim": 32,
    "model.num_heads": 2,
    "model.latent_dim": 32,
    "model.latent_tokens": 16,
    "model.drop_path": 0.2,
    "data.batch_tokens": 512,
    "engine.micro_batch": 4,
    "optimizer.lr": 1e-3,
    "schedule.steps": STEPS,
    "schedule.warmup_ratio": 0.05,
    "stabilization.ema_decay": 0.999,
    "stabilization.noise": 0.03,
    "curriculum.horizons": [1, 2],
    "curriculum.grow_every_steps": 15,
    "checkpoint.every_steps": 5,
    "checkpoint.keep_last": 3,
    "evaluate.every_steps": 20,
    "evaluate.horizons": [1, 4],
    "evaluate.trajectories": 3,
    "logging.every_steps": 1,
    "logging.pictures_every_steps": 20,
}
# What a scheduler sets for each process; $0 is the port, "$@" the command.
RANKS = """
export MASTER_ADDR=127.0.0.1 MASTER_PORT=$0 WORLD_SIZE=2
RANK=1 LOCAL_RANK=1 "$@" & RANK=0 LOCAL_RANK=0 "$@"; code=$?
wait $! && exit $code
"""
TIMED = {"tokens_per_s", "tflops_per_rank", "data_wait_share", "seconds"}


def command(launcher: str, shards: Path, root: Path, *extra: str, **overrides: object) -> list[str]:
    """The command line of a small run under a launcher: "deepspeed", "torchrun", "ranks" (two, without a launcher's own
    seconds; none ends the other) or "python" (one)."""
    start = {
        "deepspeed": [
            str(BIN / "deepspeed"),
            "--num_accelerators",
            "2",
            "--master_port",
            str(29700 + os.getpid() % 200),
        ],
        "torchrun": [str(BIN / "torchrun"), "--nproc-per-node", "2", "--master-port", str(29900 + os.getpid() % 90)],
        "ranks": ["bash", "-c", RANKS, str(29500 + os.getpid() % 100), sys.executable],
        "python": [sys.executable],
    }[launcher]
    line = [*start, "launch/pretrain.py", "--recipe", "recipes/demo.json", "--run-root", str(root), *extra]
    for key, value in {"data.manifest": str(shards / "manifest.json"), **SMALL, **overrides}.items():
        line += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return line


def start(line: list[str]) -> subprocess.Popen:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    return subprocess.Popen(
        line,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, timeout: float = 600) -> tuple[int, str]:
    """(exit code, output); a run that hangs is killed with its ranks and fails the test.

    `timeout` tells a hang from a loaded machine, on which a run takes several times as long as on one at rest.
    """
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"the run did not end within {timeout} s:\n{output[-3000:]}")
    return process.returncode, output


def run(line: list[str]) -> str:
    code, output = finish(start(line))
    assert code == 0, output[-4000:]
    return output


def the_run(root: Path) -> Path:
    (folder,) = (path for path in root.iterdir() if (path / "recipe.json").exists())
    return folder


def training_lines(folder: Path) -> list[dict]:
    """The training records without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines if "loss" in line]


def ranks_of(folder: Path) -> list[int]:
    """Process ids of the ranks that train into `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(a.startswith(b"--local_rank=") for a in arguments) and str(folder.parent).encode() in arguments:
            found.append(
                (int(next(a for a in arguments if a.startswith(b"--local_rank=")).split(b"=")[1]), int(path.parts[2]))
            )
    return [pid for _, pid in sorted(found) if b"launcher" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize(("stage", "precision"), [(1, "fp32"), pytest.param(3, "bf16", marks=pytest.mark.slow)])
def test_resume_after_kill_9_of_a_rank_is_bitwise_the_uninterrupted_run(
    shard_folder, tmp_path, stage, precision
) -> None:
    steps = 20
    options = {"engine.zero_stage": stage, "engine.precision": precision, "schedule.steps": steps}
    options |= {"evaluate.every_steps": steps // 2, "curriculum.grow_every_steps": 7}
    if stage == 3:  # wide enough that ZeRO-3 lets go of weights between uses
        options |= {"model.model_dim": 256, "engine.activation_checkpointing": "full"}
    run(command("ranks", shard_folder, tmp_path / "whole", **options))
    whole = the_run(tmp_path / "whole")
    assert [line["step"] for line in training_lines(whole)] == list(range(1, steps + 1))

    process = start(command("deepspeed", shard_folder, tmp_path / "killed", **options))
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        folders = list((tmp_path / "killed").glob("demo-*/metrics.jsonl"))
        if folders and folders[0].read_text().count("\n") >= steps // 2 - 2:
            break
        time.sleep(0.02)
    killed = folders[0].parent
    os.kill(ranks_of(killed)[1], signal.SIGKILL)
    code, output = finish(process)
    assert code != 0
    assert len(training_lines(killed)) < steps, "it was to die before its end"

    output = run(command("deepspeed", shard_folder, tmp_path / "killed", **options))
    assert "resumed from" in output
    assert killed.name == whole.name
    assert training_lines(killed) == training_lines(whole)
    weights, expected = (
        load_file(folder / f"checkpoints/step-{steps}/model/model.safetensors") for folder in (killed, whole)
    )
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not list((killed / "checkpoints").glob("*.tmp"))


@pytest.fixture(scope="module")
def finished(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished run of one rank under plain python."""
    root = tmp_path_factory.mktemp("finished")
    run(command("python", shard_folder, root))
    return the_run(root)


def test_a_run_leaves_what_its_users_rely_on(finished: Path) -> None:
    for name in ("recipe.json", "environment.json", "metrics.jsonl", "tensorboard"):
        assert (finished / name).exists(), name
    assert [path.name for path in sorted((finished / "checkpoints").glob("step-*"))] == [
        "step-30",
        "step-35",
        "step-40",
    ]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    assert {"step", "loss", "grad_norm", "lr", "tokens_per_s", "data_wait_share", "tflops_per_rank"} <= training[
        0
    ].keys()
    assert any(key.startswith("loss/") for key in training[-1])
    validation = [line for line in lines if "validation" in line]
    assert [line["step"] for line in validation] == [20, 40]
    assert {"burgers_1d", "advection_1d", "navier_stokes_2d"} & {
        key.split("/")[0] for key in validation[0]["validation"]
    }
    model = Simulator.from_pretrained(finished / "checkpoints/step-40/model")
    assert model.context_frames == 1


def test_a_finished_run_has_nothing_to_do_and_can_be_extended(finished: Path, shard_folder: Path) -> None:
    output = run(command("python", shard_folder, finished.parent))
    assert "already trained to step 40 of 40; nothing to do" in output
    output = run(command("python", shard_folder, finished.parent, **{"schedule.steps": 44}))
    assert "changed since this run began: schedule.steps: 40 -> 44" in output
    assert training_lines(finished)[-1]["step"] == 44


def test_a_damaged_newest_checkpoint_is_passed_over(finished: Path, shard_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / finished.name
    shutil.copytree(finished, folder)
    newest = max((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    victim = newest / "model" / "model.safetensors"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    output = run(command("python", shard_folder, tmp_path, **{"schedule.steps": 46}))
    assert f"checkpoint {newest.name} is broken and passed over" in output
    assert "SHA-256" in output
    assert (folder / "checkpoints" / f"{newest.name}.broken").is_dir()
    assert training_lines(folder)[-1]["step"] == 46


def test_going_back_leaves_no_later_checkpoint_in_the_way(finished: Path, shard_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / finished.name))
    steps = sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))
    back = str(folder / f"checkpoints/step-{steps[0]}")
    output = run(command("python", shard_folder, tmp_path, "--resume", back, **{"schedule.steps": steps[-1] + 2}))
    assert f"resumed from {back} at step {steps[0]}" in output
    for step in steps[1:]:
        assert f"set aside: step-{step}.abandoned lies after step {steps[0]}" in output
        assert (folder / f"checkpoints/step-{step}.abandoned").is_dir()
    assert training_lines(folder)[-1]["step"] == steps[-1] + 2
    assert find_checkpoint(folder).name == f"step-{steps[-1] + 2}"


def test_steady_masked_and_irregular_families_train_and_validate_together(tmp_path) -> None:
    mixed_shards.write(tmp_path / "shards")
    options = {
        "data.steady_share": 0.5,
        "data.max_stride": 2,
        "model.patch_size": 2,
        "model.context_frames": 2,
        "schedule.steps": 12,
        "evaluate.every_steps": 6,
        "evaluate.horizons": [1, 2],
        "curriculum.grow_every_steps": 6,
        "logging.pictures_every_steps": 12,
        "checkpoint.every_steps": 12,
    }
    output = run(command("python", tmp_path / "shards", tmp_path / "runs", **options))
    lines = [json.loads(line) for line in (the_run(tmp_path / "runs") / "metrics.jsonl").read_text().splitlines()]
    families = ("darcy_2d", "ocean_2d", "waves_1d")
    for family in families:
        assert any(line.get(f"loss/{family}") is not None for line in lines), family
        assert f"validation at step 12: {family}" in output
    assert all(line["finite"] for line in lines if "loss" in line)
    validated = lines[-1]["validation"]
    steps = {name: {key[-1] for key in validated if key.startswith(f"{name}/model/nrmse@")} for name in families}
    assert steps == {"darcy_2d": {"1"}, "ocean_2d": {"1", "2"}, "waves_1d": {"1", "2"}}
    for family in families:  # each learned something: before training the model is persistence
        assert validated[f"{family}/model/nrmse@1"] != validated[f"{family}/persistence/nrmse@1"]


VICTIM = "advection_1d-train-00001.tar"
VALIDATED = "advection_1d-valid-00000.tar"
DAMAGED = {
    "schedule.steps": 12,
    "checkpoint.every_steps": 4,
    "evaluate.every_steps": 0,
    "data.max_damaged_share": 0.5,
    "data.max_stride": 3,
}


def flip(folder: Path, places: Iterable[tuple[int, int]], shard: str = VICTIM) -> bytes:
    """Changes a byte of these frames, (row, frame), of a shard; returns what it was."""
    path = folder / shard
    index = read_index(Path(f"{path}.idx"))
    whole = path.read_bytes()
    raw = bytearray(whole)
    for row, frame in places:
        raw[int(index.offsets_nc[row, 0]) + frame * index.header.frame_bytes + 7] ^= 16
    path.write_bytes(raw)
    return whole


def test_damage_is_replaced_logged_counted_over_ranks_and_kept_through_a_resume(own_shards, tmp_path) -> None:
    damaged = {(1, 6), (2, 0), (3, 11)}
    flip(own_shards, damaged)
    output = run(command("ranks", own_shards, tmp_path / "whole", **DAMAGED))
    folder = the_run(tmp_path / "whole")
    last = training_lines(folder)[-1]
    assert (last["quarantined"], last["quarantined/advection_1d"]) == (3, 3)
    counts = [line["quarantined"] for line in training_lines(folder)]
    assert counts == sorted(counts)
    assert counts[0] < 3, "it is counted when it is met"
    kept = read_state(find_checkpoint(folder))["quarantined"]
    assert {(entry["trajectory"] - 5, entry["frame"]) for entry in kept} == damaged
    assert {(entry["family"], entry["shard"]) for entry in kept} == {("advection_1d", VICTIM)}
    assert all(entry["key"] and "checksum" in entry["reason"] for entry in kept)
    said = [line for line in output.splitlines() if "quarantined" in line]
    assert len(said) == len(set(said)) == len(kept), "each once, whichever ranks met it"
    assert all(VICTIM in line and "another trajectory takes its place" in line and "checksum" in line for line in said)

    # Resumed in the middle, it goes on as it did.
    again = Path(shutil.copytree(folder, tmp_path / "again" / folder.name))
    for step in (8, 12):
        shutil.rmtree(again / f"checkpoints/step-{step}")
    half = read_state(again / "checkpoints/step-4")["quarantined"]
    output = run(command("ranks", own_shards, again.parent, **DAMAGED))
    assert f"{len(half)} damaged items known from {again / 'checkpoints/step-4'}" in output
    assert training_lines(again) == training_lines(folder)
    weights, expected = (load_file(found / "checkpoints/step-12/model/model.safetensors") for found in (again, folder))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_damage_met_while_validating_is_gone_round_and_counted(own_shards, tmp_path) -> None:
    flip(own_shards, [(0, 2)], VALIDATED)
    settings = {**DAMAGED, "evaluate.every_steps": 6}
    output = run(command("ranks", own_shards, tmp_path / "some", **settings))
    said = [line for line in output.splitlines() if "quarantined" in line]
    assert len(said) == 1
    assert VALIDATED in said[0]
    lines = (the_run(tmp_path / "some") / "metrics.jsonl").read_text().splitlines()
    validated = [line["validation"] for line in map(json.loads, lines) if "validation" in line]
    assert [line["advection_1d/quarantined"] for line in validated] == [1, 1]
    assert all("burgers_1d/quarantined" not in line for line in validated)

    # However little may be damaged of what is trained on.
    run(command("ranks", own_shards, tmp_path / "strict", **{**settings, **STRICT}))
    (own_shards / VALIDATED).unlink()
    code, output = finish(start(command("ranks", own_shards, tmp_path / "none", **settings)))
    assert code != 0
    assert "error: family advection_1d: all trajectories of split valid are damaged" in output


def test_a_missing_shard_is_gone_round_if_that_is_allowed(own_shards, tmp_path) -> None:
    (own_shards / VICTIM).unlink()
    output = run(command("ranks", own_shards, tmp_path, **DAMAGED))
    said = [line for line in output.splitlines() if "quarantined" in line]
    assert len(said) == 1
    assert f"{VICTIM}: no such shard" in said[0]
    folder = the_run(tmp_path)
    assert {line["quarantined/advection_1d"] for line in training_lines(folder)} == {5}
    assert [(entry["trajectory"], entry["frame"]) for entry in read_state(find_checkpoint(folder))["quarantined"]] == [
        (5, None)
    ]

    code, output = finish(start(command("ranks", own_shards, tmp_path / "strict", **{**DAMAGED, **STRICT})))
    assert code != 0
    assert "5 of 12 train trajectories are damaged (41.67%), more than data.max_damaged_share 0.1" in output
    assert output.count("error:") == 1
    assert not list((tmp_path / "strict").iterdir()), "a refused run left something"


STRICT = {"data.max_damaged_share": 0.1}


def test_above_the_share_all_ranks_stop_with_the_list_and_go_on_when_it_is_repaired(own_shards, tmp_path) -> None:
    whole = flip(own_shards, [(row, frame) for row in range(4) for frame in range(12)])
    line = command("ranks", own_shards, tmp_path, **{**DAMAGED, **STRICT})
    code, output = finish(start(line))
    assert code != 0
    assert output.count("error: family advection_1d: ") == 1
    assert "of 12 train trajectories are damaged" in output
    assert f"  {VICTIM}: {VICTIM[:-4]}-00000" in output
    assert "Run tools/shard.py again" in output
    folder = the_run(tmp_path)
    stopped = training_lines(folder)[-1]
    assert stopped["quarantined"] >= 2
    assert stopped["step"] < 12

    (own_shards / VICTIM).write_bytes(whole)
    run(line)
    assert training_lines(folder)[-1]["step"] == 12
    assert training_lines(folder)[-1]["quarantined"] == 0


def test_torchrun_and_deepspeed_ranks_give_the_same_losses(shard_folder: Path, tmp_path: Path) -> None:
    short = {"schedule.steps": 4, "evaluate.every_steps": 0}
    losses = []
    for launcher in ("torchrun", "deepspeed"):
        run(command(launcher, shard_folder, tmp_path / launcher, **short))
        losses.append(training_lines(the_run(tmp_path / launcher)))
    assert losses[0] == losses[1]


BAD = [
    ({"optimizer.learning_rate": 1}, (), ["optimizer.learning_rate", "lr"]),
    ({"engine.zero_stage": 0, "engine.precision": "bf16"}, (), ["engine.zero_stage", "bf16"]),
    ({"data.manifest": "nowhere/manifest.json"}, (), ["nowhere/manifest.json: no such manifest", "tools/shard.py"]),
    ({"curriculum.horizons": [1, 30], "data.batch_tokens": 65536}, (), ["curriculum.horizons", "30 predicted frames"]),
    (
        {"model.operator": "u_shaped", "model.depth": 5, "model.patch_size": 5, "model.latent_tokens": 7},
        (),
        ["a grid of 32 points makes 7 tokens", "the nearest that do are 4 and 8", "model.patch_size (now 5)"],
    ),
    ({"engine.accelerator": "gpu"}, (), ["needs 1 GPU", "engine.accelerator=any"]),
    ({}, ("--resume", "nowhere"), ["nowhere: neither a run folder"]),
    ({}, ("--resume", "none"), ["holds checkpoints", "--resume auto"]),
]


@pytest.mark.parametrize(("overrides", "extra", "needles"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_exits_2_with_one_message(finished, shard_folder, overrides, extra, needles) -> None:
    if "engine.accelerator" in overrides and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so a recipe that needs one is not refused")
    code, output = finish(start(command("python", shard_folder, finished.parent, *extra, **overrides)))
    assert code == 2, output
    assert "Traceback" not in output
    assert output.count("error:") == 1
    assert sorted(path.name for path in finished.parent.iterdir()) == [finished.name], "a refused run left something"
    for needle in needles:
        assert needle in output


def test_a_run_folder_in_use_is_refused(finished: Path, shard_folder: Path) -> None:
    with lock(finished):
        code, output = finish(start(command("python", shard_folder, finished.parent)))
    assert code == 2, output
    assert f"in use by process {os.getpid()}" in output
    assert "Traceback" not in output


def test_another_number_of_ranks_is_refused_with_the_numbers(finished: Path, shard_folder: Path) -> None:
    line = command("torchrun", shard_folder, finished.parent, **{"schedule.steps": 60})
    _, output = finish(start(line))
    assert "was written with world_size 1 (now 2); resume with the same number of ranks" in output
    # A run that has nothing left to do has nothing to refuse.
    output = run(command("torchrun", shard_folder, finished.parent))
    assert "already trained to step" in output


def test_the_checkpoint_is_evaluated_on_the_test_split(finished: Path, shard_folder: Path, tmp_path: Path) -> None:
    line = [sys.executable, "tools/evaluate.py", "--checkpoint", str(finished), "--out", str(tmp_path)]
    output = run(line)
    assert f"report: {tmp_path / 'report.html'}" in output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["checkpoint"].endswith(
        max((finished / "checkpoints").glob("step-*"), key=lambda p: int(p.name[5:])).name
    )
    for table in report["families"].values():
        assert {"nrmse@1", "nrmse@4", "vrmse@1"} <= table["model"].keys() & table["persistence"].keys()
    assert "already evaluated" in run(line)


GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"


@pytest.mark.slow
def test_an_autoencoder_that_misses_its_gate_stops_the_run_each_time(shard_folder: Path, tmp_path: Path) -> None:
    latent = {
        "model.prediction": "latent",
        "objective.reconstruction": 0.3,
        "curriculum.autoencoder_steps": 2,
        "schedule.steps": 4,
        "checkpoint.every_steps": 1,
        "logging.pictures_every_steps": 0,
    }
    run = command("python", shard_folder, tmp_path, **latent)
    for _ in range(2):  # what is resumed has not passed the gate either
        code, output = finish(start(run))
        assert code == 3, output
        assert "step 2: the autoencoder does not reconstruct fields well enough" in output
        assert "gates.reconstruction asks for less than 0.001" in output
    code, output = finish(start([*run, "--set", "gates.reconstruction=100"]))
    assert code == 0, output
    assert "resumed from" in output
    assert re.search(r"validation at step 2: advection_1d .* reconstruction [\d.]+ of the variance", output)


def test_the_losses_of_forty_steps_are_those_on_record(finished: Path) -> None:
    """Any change of the mathematics shows here. If it was meant, record the new losses, and say why in the commit."""
    lines = [line for line in training_lines(finished) if line["step"] <= STEPS]
    expected = json.loads(GOLDEN.read_text())
    assert [line["loss"] for line in lines] == pytest.approx(expected["loss"], rel=5e-3)
    assert [line["lr"] for line in lines] == pytest.approx(expected["lr"], rel=1e-9)
