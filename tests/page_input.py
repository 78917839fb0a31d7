"""A report's content with every section, families of several kinds, and their rollouts, for tests of report.html."""

import math
from types import SimpleNamespace

import numpy as np

from ups_scale.physics.families import FamilySpec

NUM_STEPS = 6
STEPS = (1, 4, 6)
PREDICTORS = {"model": 1.0, "fno": 1.5, "unet": 1.2, "persistence": 8.0, "extrapolation": 9.0, "zero": 20.0}
RECIPE = {"run": {"name": "t"}, "model": {"width": 8}, "description": "a <small> recipe"}


def spec(name, fields, grid, kind="periodic", **more):
    dimensions = more.pop("dimensions", len(grid))
    settings = {
        "units": ("1",) * len(fields),
        "parameters": (),
        "extents": ((0.0, 1.0),) * dimensions,
        "boundaries": ((kind, kind),) * dimensions,
        "u_rms": (1.0,) * len(fields),
        "delta_rms": (0.1,) * len(fields),
        "dt": 0.1,
    }
    return FamilySpec(name=name, fields=fields, grid=grid, **(settings | more))


SPECS = {
    "advection_1d": spec("advection_1d", ("u",), (32,)),
    "reaction_diffusion_2d": spec("reaction_diffusion_2d", ("activator", "inhibitor"), (8, 12), "neumann"),
    "ocean": spec("ocean", ("sst", "depth"), (8, 8), "wall", static=("depth",), masked=True, units=("K", "m")),
    "cloud": spec(
        "cloud",
        ("u", "x", "y"),
        (40,),
        "wall",
        dimensions=2,
        static=("x", "y"),
        coordinates=("x", "y"),
        geometry="points",
    ),
    "euler_3d": spec("euler_3d", ("rho",), (6, 6, 6)),
}


def examples(of, seed=0):
    """Rollouts of a good, the median and the worst trajectory; NaN where a masked family has no value."""
    rng = np.random.default_rng(seed)
    shape = of.grid
    found = []
    for label, off in (("good", 0.05), ("median", 0.2), ("worst", 0.6)):
        truth = rng.normal(size=(NUM_STEPS, len(of.fields), *shape)).cumsum(axis=-1).astype(np.float32)
        if of.geometry == "points":
            truth[:, 1:] = rng.random((1, len(of.coordinates), *shape))
        if of.masked:
            truth[..., :3, :2] = np.nan
        model, fno = (truth + off * scale * rng.normal(size=truth.shape).astype(np.float32) for scale in (1, 2))
        found.append(
            SimpleNamespace(
                label=label, key=f"{of.name}-<{label}>", nrmse=off, truth_hcx=truth, pred_hcx=model, others={"fno": fno}
            )
        )
    return found


def figures(scale, steps=STEPS):
    found = {}
    for k in steps:
        names = ("nrmse", "vrmse", "rel_l2", "rmse", "mae", "max_error", "spectral_error", "conservation_gap")
        found |= {f"{name}@{k}": 0.01 * k * scale for name in names}
        found |= {f"psnr@{k}": 30.0 / scale, f"non_finite@{k}": 0}
    return found | {f"nrmse_mean@1-{steps[-1]}": 0.03 * scale, "horizon@0.8": 6.0 / scale}


def table(of):
    found = {name: figures(scale) for name, scale in PREDICTORS.items()}
    of_field = {name: figures(scale) for name, scale in PREDICTORS.items()}
    return {**found, "fields": {of.fields[c]: of_field for c in of.dynamic}}


def curve(scale):
    return {key: [0.01 * k * scale * f for k in range(1, NUM_STEPS + 1)] for key, f in QUANTILES.items()}


QUANTILES = {"mean": 1.0, "q10": 0.7, "q50": 0.95, "q90": 1.4}


def plain_report(specs=SPECS):
    """What every report has, also an old one: three predictors, gates against persistence."""
    families = {}
    for name, of in specs.items():
        kept = table(of)
        few = ("model", "persistence", "zero")
        families[name] = {key: kept[key] for key in few}
        families[name]["fields"] = {f: {key: t[key] for key in few} for f, t in kept["fields"].items()}
    return {
        "format": 1,
        "suite": "small",
        "checkpoint": "runs/t-00000000/checkpoints/step-10",
        "checkpoint_sha256": "ab" * 32,
        "run": "t-00000000",
        "step": 10,
        "manifest": "data/manifest.json",
        "manifest_digest": "cd" * 32,
        "date": "2026-01-02T03:04:05+00:00",
        "horizons": list(STEPS),
        "context_frames": 1,
        "params_m": 0.5,
        "left_out": {"other": "unknown"},
        "families": families,
        "gates": [
            {"name": "persistence", "family": name, "horizon": k, "value": 0.01 * k, "limit": 0.08 * k, "passed": True}
            for name in specs
            for k in STEPS
        ],
        "data": {
            name: {"num_trajectories": 3, "grid": list(of.grid), "dt_s": 0.1, "regular": True, "num_frames": 8}
            for name, of in specs.items()
        },
        "efficiency": {
            name: {"batch": 3, "steps": 6, "wall_clock_s": 0.6, "seconds_per_step": 0.1, "device": "cpu"}
            for name in specs
        },
        "growth": {name: {key: curve(PREDICTORS[key]) for key in ("model", "persistence")} for name in specs},
        "wall_clock_s": 3.0,
        "device": "cpu",
        "num_processes": 1,
        "environment": {"python": "3.11"},
    }


def full_report(specs=SPECS):
    """A report with every key that a page has a section for; two gates failed."""
    report = plain_report(specs)
    first = next(iter(specs))
    wave = [10.0 / (k + 1) ** 2 for k in range(17)]
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    told = {"checkpoint": "c", "checkpoint_sha256": "ef" * 32, "run": "fno-00000001", "step": 10, "params_m": 0.6}
    report |= {
        "suite_hash": "0123456789ab",
        "suite_settings": {"name": "small", "trajectories": 3, "seed": 0},
        "config_hash": "00000000",
        "guards": ["helmholtz"],
        "zoo": {"fno": told, "unet": told | {"run": "unet-00000002"}},
        "families": {name: table(of) for name, of in specs.items()},
        "splits": {"ood_regime": {first: table(specs[first])}, "ood_resolution": {f"{first}-64": table(specs[first])}},
        "growth": {name: {key: curve(scale) for key, scale in PREDICTORS.items()} for name in specs},
        "spectra": {
            first: {"step": 6, "fields": ["u"], "truth": [wave], "model": [wave], "fno": [[2 * v for v in wave]]}
        },
        "budgets": {first: {"integral": {"truth": [0.0] * 6, "model": [1e-3] * 6, "persistence": [0.0] * 6}}},
        "reliability": {
            first: {"members": 8, "noise": 0.02, "step": 6, "levels": levels, "coverage": levels, "sharpness": 0.125}
            | {"interval": {"low": levels, "high": levels, "ece_low": 0.015, "ece_high": 0.0301}}
        },
        "diverged": {first: {"fno": {"advection_1d-000002": 5}}},
        "champion": {
            "task": "demo-1234abcd",
            "against": "old-11111111",
            "promoted": False,
            "step": 6,
            "improvement": 0.013,
            "sigma": 0.02,
            "margin": 0.02,
        },
        "verdict": ["Changed: the <seed>.", "Helped a little.", "Next: longer."],
        "failsafe": [{"reason": "gap", "what": "guards conservation", "result": "passed"}],
        "super_resolution": {
            first: {
                "2x": {name: figures(x) for name, x in (("model", 1), ("persistence", 3), ("interpolation", 2))},
                "4x": {"left_out": "too coarse"},
            }
        },
    }
    report["data"][f"{first}-64 (ood_resolution)"] = {"num_trajectories": 3, "taken_as": "advection_1d"}
    report["families"][first]["fno"] |= {"nrmse@6": None, "non_finite@6": 1}
    report["growth"][first]["fno"]["mean"][4:] = [None, None]
    report["families"][first]["model"] |= {"ece@6": 0.02, "crps@6": 0.01, "spread_skill@6": 0.8}
    for of in report["efficiency"].values():
        of |= {"metrics_s": 0.1, "zoo": {"fno": {"wall_clock_s": 0.3, "seconds_per_step": 0.05}}}
    report["gates"] += [
        gate("conservation_gap", first, 4, 0.04, 0.02),
        gate("horizon", first, 6, 3.0, 4.0),
    ]
    return report


def gate(name, family, horizon, value, limit):
    return {"name": name, "family": family, "horizon": horizon, "value": value, "limit": limit, "passed": False}


def diverged_example(of):
    """A rollout that is not finite from the third step on."""
    found = examples(of)[0]
    found.pred_hcx[2:] = math.nan
    found.nrmse = math.inf
    return found
