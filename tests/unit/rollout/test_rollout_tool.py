"""tools/rollout.py from a checkpoint and shards to a file that the readers of PDEBench's layout take."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from small_models import make
from small_shards import write_shards

from ups_scale.data.layouts.pdebench import inspect_pdebench
from ups_scale.data.reader import ShardReader
from ups_scale.errors import DataError, UserError
from ups_scale.evaluate.rolled_out import Request, roll_out
from ups_scale.physics.families import FamilySpec
from ups_scale.rollout.files import rollout_file

ROOT = Path(__file__).parents[3]
NAME, NUM, FRAMES = "kolmogorov_flow_2d", 3, 5


def shards(folder: Path):
    generator = np.random.default_rng(0)
    fields = {"vorticity": generator.standard_normal((NUM, FRAMES, 16, 8)).astype(np.float32)}
    drawn = {name: generator.random(NUM) for name in ("nu", "drag", "amplitude")}
    return write_shards(folder, fields, name=NAME, parameters=drawn)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with one checkpoint of a small model, and the shards that its recipe names."""
    manifest = shards(tmp_path / "data")
    spec = manifest.families[NAME].spec
    folder = tmp_path / "runs/t-00000000/checkpoints/step-10"
    model = make(specs=[spec], trained=True, std=0.02, context_frames=2)
    recipe = {"data": {"manifest": str(tmp_path / "data/manifest.json")}, "evaluate": {"horizons": [1, 3]}}
    model.save_pretrained(folder / "model")
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "state.json").write_text('{"step": 10}')
    files = {
        str(path.relative_to(folder)): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.rglob("*")
        if path.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))
    return folder.parents[1]


def request(run: Path, **changes) -> Request:
    return Request(checkpoint=run, split="train", device="cpu", **changes)


def test_the_file_holds_given_and_predicted_frames_and_is_read_back(run, tmp_path) -> None:
    done = roll_out(request(run, trajectories=(2, 0), horizon=9, guards=("conservation", "helmholtz")))
    assert done["guards"] == ["conservation"]
    assert "no velocity without divergence" in done["guards_left_out"]["helmholtz"]
    assert done["budgets"]["integral_vorticity"]["total"] < 1e-5
    assert done["budgets"]["integral_vorticity"]["relative"] < 1e-4
    assert done["not_finite"] == {}
    out = run / "rollouts" / f"{NAME}-train-9-conservation.hdf5"
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]
    source = inspect_pdebench(out)
    assert (source.family, source.grid, source.extents) == (NAME, (16, 8), ((0.0, 1.0), (0.0, 1.0)))
    assert list(source.splits) == ["train"]
    np.testing.assert_allclose(np.diff(source.times_nt), 0.1, rtol=1e-5)
    given = ShardReader(_manifest(tmp_path), NAME, "train").read([2, 0], [0, 0], 2)
    true = ShardReader(_manifest(tmp_path), NAME, "train").read([2, 0], [2, 2], 3).u_btcx[:, :, 0].numpy()
    assert list(done["nrmse"]) == [1, 3]  # the data hold the truth of 3 steps
    np.testing.assert_allclose(source.parameters_np, given.parameters_bp.numpy(), rtol=1e-6)
    with source.contents.open() as read:
        for row in range(2):
            frames = read(0, row, range(11))
            assert frames.shape == (11, 16, 8)
            assert np.isfinite(frames).all()
            np.testing.assert_array_equal(frames[:2], given.u_btcx[row, :, 0].numpy())
            assert np.abs(np.diff(frames[1:], axis=0)).max(axis=(1, 2)).min() > 0
        predicted = np.stack([read(0, row, range(2, 5)) for row in range(2)])
    for step, value in done["nrmse"].items():
        error, truth = (predicted - true)[:, step - 1], true[:, step - 1]
        expected = np.sqrt((error**2).mean((1, 2)) / (truth**2).mean((1, 2))).mean()
        assert value == pytest.approx(expected, rel=1e-5)
    with h5py.File(out) as file:
        assert file.attrs["first_predicted_frame"] == 2
        assert file["keys"].asstr()[:].tolist() == done["keys"] == list(given.keys)
        assert file["budgets/integral_vorticity"].shape == (2, 9, 1)


def _manifest(tmp_path: Path):
    from ups_scale.data.manifest import load_manifest

    return load_manifest(tmp_path / "data/manifest.json")


def test_the_command_prints_a_line_per_guard_or_json(run, tmp_path) -> None:
    out = tmp_path / "new" / "frames.hdf5"
    command = [
        sys.executable, str(ROOT / "tools/rollout.py"), "--checkpoint", str(run), "--split", "train", "--device", "cpu",
        "--out", str(out), "--guards", "interface_flux,positivity", "--dtype", "bf16", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["horizon"], summary["dtype"], len(summary["keys"])) == (3, "bf16", 1)
    assert out.exists()
    done = subprocess.run(command[:-1], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert "1 trajectory, 2 given and 3 predicted frames" in done.stdout
    assert "guard interface_flux: applied" in done.stdout
    assert "guard positivity: left out, the registry calls none of its predicted fields positive" in done.stdout
    assert "budget integral_vorticity (must stay constant): changes by at most" in done.stdout
    assert re.search(r"nRMSE against the truth: \S+ at step 1, \S+ at step 3\n", done.stdout)
    assert f"file: {out}" in done.stdout


def test_a_rollout_that_diverges_is_said_and_kept(run) -> None:
    from safetensors.torch import load_file, save_file

    weights = run / "checkpoints/step-10/model/model.safetensors"
    tensors = {name: 1e12 * values for name, values in load_file(weights).items()}
    save_file(tensors, weights)
    manifest = weights.parents[1] / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["model/model.safetensors"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    done = roll_out(request(run, trajectories=(), horizon=4))
    assert len(done["keys"]) == NUM
    assert set(done["not_finite"]) == set(done["keys"])
    assert done["nrmse"][3] is None
    json.dumps(done, allow_nan=False)


def test_a_trajectory_ends_where_it_no_longer_correlates_with_the_truth(run, tmp_path) -> None:
    """The data are noise: a small model repeats the last frame, and is lost at once; a file of that frame is not."""
    held = FRAMES - 2
    done = roll_out(request(run, trajectories=(), until_horizon=True))
    assert (done["horizon"], done["first_below"]) == (held, dict.fromkeys(done["keys"], 1))
    with h5py.File(run / "rollouts" / f"{NAME}-train-3.hdf5") as file:
        vorticity = file["vorticity"][:]
        assert np.isfinite(vorticity[:, :3]).all()
        assert np.isnan(vorticity[:, 3:]).all()
        assert file["budgets/integral_vorticity"].shape == (NUM, held, 1)
        assert np.isnan(file["budgets/integral_vorticity"][:, 1:]).all()
    assert done["not_finite"] == {}
    generator = np.random.default_rng(1)
    first = generator.standard_normal((NUM, 1, 16, 8)).astype(np.float32)
    others = generator.standard_normal((NUM, FRAMES, 16, 8)).astype(np.float32)
    others[0] = first[0]  # stays as it is
    others[1, :3] = first[1]  # is another from the fourth frame on
    drawn = {name: generator.random(NUM) for name in ("nu", "drag", "amplitude")}
    write_shards(tmp_path / "still", {"vorticity": others}, name=NAME, parameters=drawn)
    done = roll_out(request(run, data=str(tmp_path / "still/manifest.json"), trajectories=(), until_horizon=True))
    assert list(done["first_below"].values()) == [None, 2, 1]
    with h5py.File(run / "rollouts" / f"{NAME}-train-3.hdf5") as file:
        there = np.isfinite(file["vorticity"][:]).all((2, 3))
    assert there.tolist() == [[True] * 5, [True] * 4 + [False], [True] * 3 + [False] * 2]
    out = tmp_path / "out.hdf5"
    command = [sys.executable, "tools/rollout.py", "--checkpoint", str(run), "--split", "train", "--until-horizon"]
    told = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert f"{done['keys'][0]}: correlation under 0.8 at step 1, where it ends" in told.stdout, told.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "other"}, r"--family other: .*manifest.json holds kolmogorov_flow_2d"),
        ({"trajectories": (0, 7)}, r"--trajectories 7: split train of kolmogorov_flow_2d has 0 to 2"),
        ({"horizon": 0}, r"--horizon 0: expected 1 step or more"),
        (
            {"horizon": 4, "until_horizon": True},
            r"--until-horizon: the data hold the truth of 3 steps, and --horizon is 4",
        ),
        ({"guards": ("positive",)}, r"guards positive: no such guard"),
    ],
)
def test_what_can_not_be_done_is_refused(run, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        roll_out(request(run, **changes))
    assert not (run / "rollouts").exists()


def test_a_file_that_fails_leaves_nothing_behind(tmp_path) -> None:
    spec = FamilySpec(
        name="darcy_2d", fields=("permeability", "u"), units=("1", "1"), parameters=("beta",), grid=(4, 4),
        extents=((0.0, 1.0),) * 2, boundaries=(("dirichlet", "dirichlet"),) * 2, u_rms=(1.0, 1.0), delta_rms=(0.0, 1.0),
        dt=float("nan"), static=("permeability",), steady=True,
    )  # fmt: skip
    out = tmp_path / "darcy.hdf5"
    arguments = (out, spec, ["a"], np.ones((1, 1)), np.full((1, 1), np.nan), {"split": "test"})
    with pytest.raises(KeyboardInterrupt), rollout_file(*arguments):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    frame = torch.arange(32.0).reshape(1, 2, 4, 4)
    with rollout_file(*arguments) as file:
        file.write(0, 0, frame)
    source = inspect_pdebench(out)
    assert source.steady
    with source.contents.open() as read:
        np.testing.assert_array_equal(read(1, 0, range(1, 2))[0], frame[0, 1].numpy())
        np.testing.assert_array_equal(read(0, 0, range(1))[0], frame[0, 0].numpy())
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"can't be written"), rollout_file(tmp_path / "file/x.hdf5", *arguments[1:]):
        pass
