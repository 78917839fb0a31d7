"""Evaluations as their files tell them, with trajectories whose figures are as noisy as is asked for."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

STEPS = (1, 4, 16)
FAMILIES = ("advection_1d", "burgers_1d", "navier_stokes_2d", "reaction_diffusion_2d")
MODEL = {1: 0.05, 4: 0.12, 16: 0.35}
PERSISTENCE = {1: 0.2, 4: 0.6, 16: 1.3}


def evaluation(
    name: str = "champion",
    seed: int = 0,
    factor: float | dict[str, float] = 1.0,
    noise: float = 0.0,
    num: int = 24,
    families: tuple[str, ...] = FAMILIES,
    clock: float = 0.1,
    **physics: float,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """report.json and trajectories.json of the checkpoint `name`.

    Trajectories of the same `seed` are as hard for every checkpoint; each nRMSE is `factor` times that (of all families
    or by name), and has a relative noise of its own that depends on `name`; so has each family's time, of `clock`.
    `physics` sets figures, such as `ece=0.1`.
    """
    own = np.random.default_rng([seed, int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)])
    late = np.random.default_rng([seed, int(hashlib.sha256(name.encode()).hexdigest()[8:16], 16)])
    figures = {"conservation_gap": 1e-3, "bc_violation": 0.02, "ece": 0.08, "spread_skill": 1.0} | physics
    report: dict[str, Any] = {
        "format": 1,
        "suite": "small",
        "suite_hash": f"hash{seed}{num}{'-'.join(families)}",
        "suite_settings": {"splits": ["test"], "horizons": list(STEPS), "trajectories": num, "members": 8},
        "checkpoint": f"runs/{name}/checkpoints/step-100",
        "checkpoint_sha256": hashlib.sha256(name.encode()).hexdigest(),
        "run": name,
        "step": 100,
        "manifest": "data/demo/manifest.json",
        "manifest_digest": "cd" * 32,
        "date": "2026-01-01T00:00:00+00:00",
        "guards": [],
        "noise": 0.03,
        "noise_scale": {},
        "num_processes": 1,
        "families": {},
        "efficiency": {},
    }
    trajectories: dict[str, Any] = {"format": 1, "suite_hash": report["suite_hash"], "families": {}}
    for number, family in enumerate(families):
        hard = np.exp(0.5 * np.random.default_rng([seed, number]).standard_normal(num))
        of = factor[family] if isinstance(factor, dict) else factor
        nrmse = {k: MODEL[k] * hard * of * np.exp(noise * own.standard_normal(num)) for k in STEPS}
        trivial = {k: PERSISTENCE[k] * hard for k in STEPS}
        model: dict[str, Any] = {}
        for k in STEPS:
            model |= {f"nrmse@{k}": float(nrmse[k].mean()), f"non_finite@{k}": 0}
            model |= {f"{metric}@{k}": value for metric, value in figures.items()}
        report["families"][family] = {
            "model": model,
            "persistence": {f"nrmse@{k}": float(trivial[k].mean()) for k in STEPS},
            "zero": {f"nrmse@{k}": 1.0 for k in STEPS},
            "fields": {"u": {}},
        }
        seconds = 0.5 * float(np.exp(clock * late.standard_normal()))
        report["efficiency"][family] = {"batch": 8, "steps": 16, "wall_clock_s": seconds, "device": "NVIDIA H200"}
        trajectories["families"][family] = {
            "keys": [f"{family}-{i:03d}" for i in range(num)],
            "nrmse": {
                "model": {str(k): nrmse[k].tolist() for k in STEPS},
                "persistence": {str(k): trivial[k].tolist() for k in STEPS},
                "zero": {str(k): [1.0] * num for k in STEPS},
            },
            "horizon": {"model": [float(math.ceil(8 / of / h)) for h in hard]},
        }
    return report, trajectories


def diverge(made: tuple[dict[str, Any], dict[str, Any]], family: str, step: int = 16, number: int = 0) -> None:
    """Makes one trajectory leave the finite numbers at `step`, in both files."""
    report, trajectories = made
    trajectories["families"][family]["nrmse"]["model"][str(step)][number] = None
    report["families"][family]["model"] |= {f"nrmse@{step}": None, f"non_finite@{step}": 1}
