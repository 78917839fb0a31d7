"""Data with test and out-of-distribution splits, and run folders with a checkpoint, small enough to be evaluated in a
test."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from small_models import make
from small_shards import write_shards

from ups_scale.data.manifest import Manifest, load_manifest

FRAMES = 9
HORIZONS = (1, 4)


def write_data(folder: Path) -> Manifest:
    """Waves on a line (`advection_1d`: 6 test trajectories, 4 of another regime, 2 on a grid twice as fine) and
    growing patterns in a plane (`gray_scott_2d`: 3 of the test split)."""
    parts = [
        ("advection_1d", "train", _waves(2, 16, 0.02)),
        ("advection_1d", "test", _waves(6, 16, 0.02)),
        ("advection_1d", "ood_regime", _waves(4, 16, 0.05)),
        ("advection_1d-32", "ood_resolution", _waves(2, 32, 0.02)),
        ("gray_scott_2d", "train", _patterns(2)),
        ("gray_scott_2d", "test", _patterns(3)),
    ]
    families: dict[str, dict] = {}
    for name, split, (fields, parameters) in parts:
        manifest = write_shards(folder, fields, name=name, split=split, parameters=parameters)
        entry = json.loads(Path(manifest.path).read_text())["families"][name]
        known = families.setdefault(name, entry)
        for key in ("splits", "num_frames"):
            known[key] |= entry[key]
    path = folder / "manifest.json"
    path.write_text(json.dumps({"format": 2, "families": families}))
    return load_manifest(path)


def write_run(root: Path, manifest: Manifest, name: str = "t", step: int = 10, seed: int = 0, **settings) -> Path:
    """`<root>/<name>-00000000` with a checkpoint of a model that knows both families, near persistence."""
    folder = root / f"{name}-00000000/checkpoints/step-{step}"
    specs = [manifest.families[family].spec for family in ("advection_1d", "gray_scott_2d")]
    torch.manual_seed(seed)
    model = make(specs=specs, trained=True, std=0.005, **settings)
    recipe = {
        "run": {"name": name, "seed": seed},
        "data": {"manifest": str(manifest.path), "max_stride": 1},
        "model": model.arguments["model"],
        "stabilization": {"noise": 0.03},
        "evaluate": {"horizons": list(HORIZONS)},
    }
    model.save_pretrained(folder / "model")
    for path in (folder / "recipe.json", root / f"{name}-00000000/recipe.json"):
        path.write_text(json.dumps(recipe))
    (folder / "state.json").write_text(json.dumps({"step": step}))
    files = {
        str(path.relative_to(folder)): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))
    return folder.parents[1]


def _waves(num: int, points: int, speed: float) -> tuple[dict, dict]:
    x, t = np.arange(points) / points, np.arange(FRAMES)[:, None]
    rng = np.random.default_rng(num)
    size, phase = 1 + rng.random((num, 1, 1)), rng.random((num, 1, 1))
    u = size * np.sin(2 * np.pi * (x - speed * t + phase))
    return {"u": u.astype(np.float32)}, {"beta": np.full(num, speed)}


def _patterns(num: int) -> tuple[dict, dict]:
    y = np.arange(8) / 8
    plane = np.sin(2 * np.pi * (y[:, None] + 2 * y[None, :]))
    grown = 1 + 0.05 * np.arange(FRAMES)[:, None, None] * (1 + np.arange(num)[:, None, None, None])
    fields = {"u": (plane * grown).astype(np.float32), "v": (plane.T + 0.1 * grown).astype(np.float32)}
    return fields, {"feed": np.full(num, 0.03), "kill": np.full(num, 0.06)}
