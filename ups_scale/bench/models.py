"""Trains every encoder x operator x decoder x kind of prediction for equal processor times on one core each, and tells
what they reach on the validation split, beside the trivial predictors."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from ups_scale.atomic import write_json
from ups_scale.data.manifest import load_manifest
from ups_scale.data.plan import windows_per_draw
from ups_scale.errors import UserError
from ups_scale.model.build import build_model
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe.load import load
from ups_scale.recipe.types import Recipe

RECIPE = Path("recipes/demo.json")
STEPS = (1, 4)
ENDS = (("grid", "patch"), ("grid", "points"), ("points", "patch"), ("points", "points"))
OPERATORS = {
    "stacked": ("model.operator=stacked",),
    "stacked, separated": (
        "model.operator=stacked",
        "model.channel_separated=true",
        "model.accept_stacked_separated=true",
    ),
    "u_shaped": ("model.operator=u_shaped", "model.depth=5"),
    "u_shaped, separated": ("model.operator=u_shaped", "model.depth=5", "model.channel_separated=true"),
}
BATCH_TOKENS = 1024  # a quarter of the demo's: more steps in a short time
TRIAL_STEPS = 2


@dataclass(frozen=True)
class Combination:
    """One kind of model, by its names in a recipe."""

    encoder: str
    operator: str
    decoder: str
    prediction: str

    @property
    def name(self) -> str:
        words = self.operator.replace(", ", "_"), self.encoder, self.decoder, self.prediction
        return "_".join(words)

    def overrides(self, steps: int) -> list[str]:
        """What it changes in the demo's recipe for a run of so many steps."""
        ends = [f"model.encoder={self.encoder}", f"model.decoder={self.decoder}", f"model.prediction={self.prediction}"]
        # Not every encoder has patches that could be moved.
        ends += [f"data.batch_tokens={BATCH_TOKENS}", "model.patch_jitter=false"]
        if self.prediction == "field":
            return [*ends, *OPERATORS[self.operator]]
        # A latent rollout learns to keep the latent state decodable over steps from an unrolled horizon alone.
        latent = [
            "objective.reconstruction=0.3",
            "curriculum.horizons=[1,2,4]",
            f"curriculum.grow_every_steps={max(steps // 3, 1)}",
        ]
        return [*ends, *OPERATORS[self.operator], *latent]


COMBINATIONS = tuple(
    Combination(encoder, operator, decoder, prediction)
    for prediction, (encoder, decoder), operator in itertools.product(("field", "latent"), ENDS, OPERATORS)
)


def choose(manifest: str, parts: Sequence[str]) -> list[Combination]:
    """The combinations that take the data's families, and whose name has one of `parts` in it, if there are any.

    Raises:
        UserError: there is none; lists those there are.
    """
    points = any(data.spec.geometry == "points" for data in load_manifest(manifest).families.values())
    fit = [c for c in COMBINATIONS if not points or (c.encoder, c.decoder) == ("points", "points")]
    chosen = [c for c in fit if not parts or any(part in c.name for part in parts)]
    if not chosen:
        raise UserError(
            f"--only {','.join(parts)}: no such model for {manifest}; there is {', '.join(c.name for c in fit)}"
        )
    return chosen


def measure(
    combinations: Sequence[Combination],
    manifest: str,
    seconds: float,
    jobs: int,
    out: Path,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row per combination, from runs under `out` whose training takes about `seconds` of processor time each, `jobs`
    at a time with one thread each.

    What is there from an interrupted call is kept: a row that is in `out/rows.json` is not trained again. After a
    change of the code take another folder.

    Raises:
        UserError: a run failed; with the last lines of what it said.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "rows.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    writing = Lock()

    def one(combination: Combination) -> None:
        key = f"{combination.name} {manifest} {seconds:g}"
        if key in rows:
            return
        say(f"{combination.name}: {seconds:g} s")
        row = _train(combination, manifest, seconds, out)
        with writing:
            rows[key] = row
            write_json(path, rows)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, combinations))
    return [rows[f"{combination.name} {manifest} {seconds:g}"] for combination in combinations]


def _train(combination: Combination, manifest: str, seconds: float, out: Path) -> dict[str, Any]:
    step_s = _step_seconds(combination, manifest)
    steps = max(int(seconds / step_s), 10)
    name = combination.name
    root = out / name
    shutil.rmtree(root, ignore_errors=True)  # of a call that was interrupted: it took another number of steps
    command = [sys.executable, "launch/pretrain.py", "--recipe", str(RECIPE), "--run-root", str(root)]
    settings = [
        f"run.name={name}",
        f"data.manifest={manifest}",
        f"schedule.steps={steps}",
        f"evaluate.every_steps={steps}",
        f"evaluate.horizons={list(STEPS)}",
        "evaluate.trajectories=32",
        f"checkpoint.every_steps={steps}",
        f"logging.every_steps={max(steps // 20, 1)}",
        "logging.pictures_every_steps=0",
        "model.frame_dropout=0",
        *combination.overrides(steps),
    ]
    for setting in settings:
        command += ["--set", setting]
    log = out / f"{name}.log"
    with log.open("w", encoding="utf-8") as said:
        run = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=_on_one_core())
        # Its own processor time: other work on the machine does not count.
        _, status, used = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        raise UserError(f"{name}: training ended with {run.returncode}:\n{log.read_text(encoding='utf-8')[-2000:]}")
    (folder,) = root.iterdir()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figures = [line["validation"] for line in lines if "validation" in line][-1]
    recipe, specs = _recipe(combination, manifest, steps)
    with torch.device("meta"):
        model = build_model(recipe, specs)
    return {
        **{part: getattr(combination, part) for part in ("encoder", "operator", "decoder", "prediction")},
        "params_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "steps": steps,
        "cpu_s": used.ru_utime + used.ru_stime,
        "families": {
            spec.name: {
                str(k): [figures[f"{spec.name}/{who}/nrmse@{k}"] for who in ("model", "persistence")] for k in STEPS
            }
            for spec in specs
        },
    }


def _recipe(combination: Combination, manifest: str, steps: int) -> tuple[Recipe, list[FamilySpec]]:
    recipe = load(RECIPE, [f"data.manifest={manifest}", f"schedule.steps={steps}", *combination.overrides(steps)])
    families = load_manifest(manifest).families.values()
    return recipe, [data.spec for data in families if data.num_trajectories("train")]


def _step_seconds(combination: Combination, manifest: str) -> float:
    """Processor time of an optimizer step on one thread, from one draw of every family; without the optimizer's own."""
    recipe, specs = _recipe(combination, manifest, 1000)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(recipe, specs).train()
    horizon = max(recipe.curriculum.horizons)
    took = []
    for spec in specs:
        tokens = model.num_tokens(spec.name) * horizon
        batch = windows_per_draw(recipe.data.batch_tokens, recipe.data.draws_per_step, tokens)
        u = torch.rand(batch, 1, len(spec.fields), *spec.grid)
        parameters = torch.rand(batch, len(spec.parameters))
        for _ in range(TRIAL_STEPS):  # the first allocates
            began = time.thread_time()
            out = model(u, spec.name, parameters, torch.full((batch, horizon), spec.dt), horizon)
            out.square().mean().backward()
            seconds = time.thread_time() - began
        took.append(seconds)
    return recipe.data.draws_per_step * sum(took) / len(took)


def _on_one_core() -> Mapping[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: nRMSE at the steps, per family, with the persistence of the same frames in the last line."""
    families = list(rows[0]["families"])
    heads = [f"{family} @{k}" for family in families for k in STEPS]
    lines = [
        "| prediction | encoder | operator | decoder | M weights | steps | CPU s | "
        + " | ".join(heads)
        + " | beats both |",
        "| --- " * (8 + len(heads)) + "|",
    ]
    for row in rows:
        pairs = [row["families"][family][str(k)] for family in families for k in STEPS]
        beats = "yes" if all(model < min(persistence, 1) for model, persistence in pairs) else "**no**"
        figures = " | ".join(f"{model:.3f}" for model, _ in pairs)
        lines.append(
            f"| {row['prediction']} | {row['encoder']} | {row['operator']} | {row['decoder']} | "
            f"{row['params_m']:.2f} | {row['steps']} | {row['cpu_s']:.0f} | {figures} | {beats} |"
        )
    persistence = " | ".join(f"{rows[0]['families'][family][str(k)][1]:.3f}" for family in families for k in STEPS)
    lines.append(f"| persistence | | | | | | | {persistence} | |")
    return "\n".join(lines)
