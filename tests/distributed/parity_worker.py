"""One rank of tests/distributed/test_zero_parity.py: trains a small model of every kind of family for a few steps at
every ZeRO stage and precision asked for, and writes losses, gradient norms and weights. Run by torchrun.

    parity_worker.py OUT CASE [CASE ...]      a case is <stage>-<precision>-<activation checkpointing>-<kind of model>
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_models import BOX, FORCED, LINE, PLANE, POINTS, SPECS, STEADY, TORUS, inputs, make

from ups_scale import distributed
from ups_scale.engine.setup import Engine
from ups_scale.model.simulator import Simulator
from ups_scale.recipe import load

ROOT = Path(__file__).parents[2]
PLAIN = (LINE, replace(PLANE, grid=(16, 16)), replace(TORUS, grid=(16, 16)))
FAMILIES = {"grids": (*SPECS, FORCED, STEADY), "points": (LINE, POINTS, FORCED, BOX), "fno": PLAIN, "unet": PLAIN}
ACCUMULATION = 3
STEPS = 6


def batch(kind: str, step: int, microstep: int, rank: int) -> tuple[tuple, dict, torch.Tensor]:
    """Inputs (plain, and by name) and target of one microstep: families take turns, the same one on all ranks. What
    takes points is trained as an autoencoder in its first steps."""
    spec = FAMILIES[kind][(step * 2 + microstep) % len(FAMILIES[kind])]
    seed = 1000 * step + 10 * microstep + rank
    given, target = inputs(spec, batch=2, seed=seed), inputs(spec, batch=2, seed=seed + 1)[0]
    named = {}
    if spec.masked:
        named["mask_btcx"] = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    if kind == "points":
        named["reconstruct"] = True
    return (*given, 0 if kind == "points" and step < 2 else 2), named, target


def objective(predicted: Any, target: torch.Tensor) -> torch.Tensor:
    """The mean squared error, of the reconstruction too where there is one."""
    if isinstance(predicted, torch.Tensor):
        return (predicted - target).square().mean()
    frames, reconstruction = predicted
    loss = (reconstruction - target[:, 0]).square().mean()
    return loss + (frames - target).square().mean() if frames.shape[1] else loss


def wide_model(kind: str) -> Simulator:
    """Wide enough that ZeRO-3 lets go of its larger weights between uses: it keeps those under 100,000 elements."""
    if kind in ("fno", "unet"):
        return make(trained=True, std=0.02, specs=FAMILIES[kind], operator=kind, model_dim=16)
    settings = {"model_dim": 256, "num_heads": 4}
    if kind == "points":  # two encoders and decoders, several patch shapes, merging patterns and streams
        settings |= {"encoder": "auto", "decoder": "auto", "prediction": "latent", "latent_dim": 64}
        settings |= {"operator": "u_shaped", "depth": 3, "channel_separated": True}
    return make(trained=True, std=0.02, specs=FAMILIES[kind], **settings)


def predict(engine: Engine, kind: str) -> torch.Tensor:
    """The averaged model's rollout, as in the validation during training."""
    engine.train(False)
    with torch.no_grad(), engine.averaged():
        predicted = engine.forward(*inputs(FAMILIES[kind][0]), 2)
    engine.train(True)
    return predicted


def main() -> None:
    out = Path(sys.argv[1])
    ranks = distributed.setup()
    results = {}
    for case in sys.argv[2:]:
        stage, precision, recomputation, kind = case.split("-")
        overrides = [f"engine.zero_stage={stage}", f"engine.precision={precision}", "schedule.steps=20"]
        overrides.append(f"engine.activation_checkpointing={recomputation}")
        overrides += ["optimizer.lr=0.001", "stabilization.ema_decay=0.9", "stabilization.grad_clip=0.5"]
        recipe = load(ROOT / "recipes" / "demo.json", overrides)
        engine = Engine(recipe, wide_model(kind), ranks, ACCUMULATION)
        engine.train(True)
        losses, norms = [], []
        for step in range(STEPS):
            for microstep in range(ACCUMULATION):
                given, named, target = batch(kind, step, microstep, ranks.rank)
                loss = objective(engine.forward(*given, **named), target)
                engine.backward(loss)
                losses.append(float(distributed.sum_over_ranks(loss.detach().clone())) / ranks.world_size)
                if microstep < ACCUMULATION - 1:
                    engine.micro_step()
            norms.append(engine.step(step, want_norm=True)[1])
            if step == 2:  # a validation in between must leave no trace
                predict(engine, kind)
        weights = engine.full_weights()
        with engine.averaged():
            averaged = engine.full_weights()
        predicted = predict(engine, kind)
        if ranks.is_main:
            torch.save({"weights": weights, "averaged": averaged, "predicted": predicted}, out / f"{case}.pt")
        results[case] = {"losses": losses, "norms": norms}
    if ranks.is_main:
        (out / "results.json").write_text(json.dumps(results))
    distributed.shutdown()


if __name__ == "__main__":
    main()
