"""From a checkpoint on disk to its evaluation on disk: report.json, table.csv and report.html."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ups_scale.checkpoint.resume import find_checkpoint
from ups_scale.data.manifest import Manifest, load_manifest
from ups_scale.data.reader import ShardReader
from ups_scale.data.remote import is_url
from ups_scale.errors import CheckpointError, DataError, UserError
from ups_scale.evaluate import report as reports
from ups_scale.evaluate.html import page
from ups_scale.evaluate.report import Subject
from ups_scale.evaluate.suite import SUITES, evaluate, examples
from ups_scale.evaluate.super_resolution import check_factors, super_resolution
from ups_scale.evaluate.testset import TestSet, check_tests
from ups_scale.evaluate.variants import Match, fitted, match
from ups_scale.model.simulator import Simulator

SPLIT = "test"
TRAINING_STATE = ("deepspeed", "ema")  # folders of a checkpoint that only training reads


@dataclass(frozen=True)
class Outcome:
    """The report, the folder it lies in, and whether it was there already."""

    report: dict[str, Any]
    out: Path
    already_there: bool
    replaced_data: str | None = None
    """Digest of the data of the report that was replaced, if it was on other data."""


def open_accelerator(device: str) -> Accelerator:
    """Accelerate's view of the processes on `device`: auto (CUDA if there is any), cpu or cuda.

    Raises:
        UserError: cuda was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is visible to PyTorch; use --device cpu, or auto")
    return Accelerator(cpu=device == "cpu" or not torch.cuda.is_available(), mixed_precision="no")


def evaluate_checkpoint(
    path: Path,
    accelerator: Accelerator,
    suite: str = "small",
    manifest_path: str | Path | None = None,
    out: Path | None = None,
    force: bool = False,
    factors: Sequence[int] = (),
) -> Outcome:
    """Evaluates the checkpoint that `path` (a run folder or a checkpoint) means, unless that is done already.

    The data are those of `manifest_path`, by default the recipe's; the result goes to `out`, by default
    `evaluation/<suite>/` of the run. With `factors`, super-resolution by these too. All processes must call it; the
    main one writes.

    Raises:
        CheckpointError, DataError, UserError: see the messages.
    """
    if suite not in SUITES:
        raise UserError(f"--suite {suite}: no such suite; there is {', '.join(SUITES)}")
    checkpoint = find_checkpoint(path, without=TRAINING_STATE)
    recipe = _read_json(checkpoint / "recipe.json")
    out = out or _default_out(checkpoint, suite)
    kept = {key: recipe["data"][key] for key in ("cache_dir", "cache_gib") if key in recipe["data"]}
    manifest = load_manifest(manifest_path or _recipe_manifest(recipe, checkpoint), **kept)
    model = Simulator.from_pretrained(checkpoint / "model", accelerator.device)
    check_factors(factors, model.arguments["model"]["decoder"] if factors else "")
    params_m = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    trained = model
    model, tests, left_out = _tests(manifest, trained, recipe["data"].get("max_stride", 1))
    subject = Subject(
        checkpoint=_shown(checkpoint),
        checkpoint_sha256=hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest(),
        manifest=manifest.path if isinstance(manifest.path, str) else _shown(manifest.path),
        manifest_digest=manifest.digest,
        suite=suite,
        horizons=tuple(sorted(recipe["evaluate"]["horizons"])),
        run=_run_name(checkpoint, recipe),
        step=_read_json(checkpoint / "state.json").get("step"),
        params_m=params_m,
        context_frames=model.context_frames,
        left_out=tuple(left_out.items()),
        super_resolution=tuple(sorted(set(factors))),
    )
    if accelerator.is_main_process:
        reports.prepare(out)
    done = None if force else reports.saved(out, subject)
    accelerator.wait_for_everyone()  # nobody writes before all have looked
    if done is not None:
        return Outcome(done, out, already_there=True)
    before = _other_data(out, subject)
    report = evaluate_and_write(model, model.specs, tests, subject, recipe, out, accelerator, trained)
    return Outcome(report, out, already_there=False, replaced_data=before)


def _tests(
    manifest: Manifest, model: Simulator, max_stride: int
) -> tuple[Simulator, dict[str, TestSet], dict[str, str]]:
    """The model, fitted to variants of what it knows; the entries to evaluate on; and of the others why not.

    Raises:
        DataError: there is none, or what there is can't be read.
    """
    known, matches, left_out = model.specs, {}, {}
    for name, data in manifest.families.items():
        try:
            matches[name] = match(data.spec, known, max_stride, reserved=manifest.families)
        except DataError as error:
            left_out[name] = str(error)
            continue
        if not data.num_trajectories(SPLIT):
            del matches[name]
            left_out[name] = f"it has no {SPLIT} split"
    variants = {name: of.variant for name, of in matches.items() if of.variant is not None}
    if variants:
        model, refused = fitted(model, list(variants.values()))
        left_out |= {name: refused[spec.name] for name, spec in variants.items() if spec.name in refused}
    tests = {name: _test(manifest, name, of) for name, of in matches.items() if name not in left_out}
    if not tests:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise DataError(
            f"{manifest.path}: nothing to evaluate on ({reasons}); the model knows {', '.join(sorted(known))}. "
            "Name data with a test split of those (--data), or fine-tune on the new ones first"
        )
    return model, tests, left_out


def _test(manifest: Manifest, name: str, of: Match) -> TestSet:
    data, reader = manifest.families[name], ShardReader(manifest, name, SPLIT)
    return TestSet(data.spec, data.num_frames[SPLIT], reader, data.regular, of.known_as, of.taken_as)


def evaluate_and_write(
    model: Any,
    known: Mapping[str, Any],
    tests: Mapping[str, TestSet],
    subject: Subject,
    recipe: Mapping[str, Any],
    out: Path,
    accelerator: Accelerator,
    trained: Simulator | None = None,
) -> dict[str, Any]:
    """The report of an evaluation, written to `out` by the main process. All processes must call it.

    `known` are the entries that `model` takes; `trained` is the model before it was fitted to `tests`, if it was.

    Raises:
        DataError: the model can't be evaluated on `tests`.
    """
    check_tests(tests, known, subject.context_frames, subject.horizons)
    evaluation = evaluate(model, tests, subject.horizons, accelerator)
    factors = subject.super_resolution
    finer = super_resolution(trained or model, known, tests, factors, subject.horizons, accelerator) if factors else {}
    report = reports.build(subject, evaluation, finer, accelerator.device, accelerator.num_processes)
    if accelerator.is_main_process:
        shown = {
            name: examples(model, test, evaluation.ranking[name], subject.horizons, accelerator.device)
            for name, test in tests.items()
        }
        specs = {name: test.spec for name, test in tests.items()}
        reports.write(out, report, page(report, specs, evaluation.spectra, shown, recipe))
    accelerator.wait_for_everyone()
    return report


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); name another checkpoint") from None


def _run_folder(checkpoint: Path) -> Path | None:
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else None


def _run_name(checkpoint: Path, recipe: Mapping[str, Any]) -> str:
    run = _run_folder(checkpoint)
    return run.name if run is not None else str(recipe.get("run", {}).get("name", checkpoint.resolve().name))


def _default_out(checkpoint: Path, suite: str) -> Path:
    run = _run_folder(checkpoint)
    if run is None:
        raise CheckpointError(f"{checkpoint}: this checkpoint lies in no run folder; say where to write with --out DIR")
    return Path(_shown(run / "evaluation" / suite))


def _recipe_manifest(recipe: Mapping[str, Any], checkpoint: Path) -> str:
    path = recipe["data"]["manifest"]
    if not is_url(path) and not Path(path).exists():
        raise DataError(
            f"{path}: no such manifest; it is data.manifest in {checkpoint / 'recipe.json'}, taken from the current "
            "folder. Name the data with --data MANIFEST, or make them with tools/generate.py and tools/shard.py"
        )
    return path


def _other_data(out: Path, subject: Subject) -> str | None:
    try:
        before = json.loads((out / "report.json").read_text(encoding="utf-8")).get("manifest_digest")
    except (OSError, ValueError, AttributeError):
        return None
    return before if before != subject.manifest_digest else None


def _shown(path: Path) -> str:
    """The path from the current folder where it lies in it."""
    whole = path.resolve()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(whole)
