"""From a checkpoint on disk to its evaluation on disk: report.json, trajectories.json, table.csv and report.html."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ups_scale.data.manifest import Manifest, load_manifest
from ups_scale.data.reader import ShardReader
from ups_scale.data.remote import is_url
from ups_scale.errors import CheckpointError, DataError, UserError
from ups_scale.evaluate import report as reports
from ups_scale.evaluate import zoo
from ups_scale.evaluate.agreement import on_main, together
from ups_scale.evaluate.ensembles import reliability
from ups_scale.evaluate.entrants import TRIVIAL, Entrant, guarded, model_entrant, trivial_entrants
from ups_scale.evaluate.examples import Example, examples
from ups_scale.evaluate.html import page
from ups_scale.evaluate.loading import Checkpoint, fit, open_checkpoint, shown
from ups_scale.evaluate.report import Subject
from ups_scale.evaluate.saved import TRAJECTORIES, read_trajectories
from ups_scale.evaluate.suite import Evaluation, evaluate
from ups_scale.evaluate.suites import OOD, TEST, Suite, chosen, settings, splits, steps, suite_hash, suite_named
from ups_scale.evaluate.super_resolution import check_factors, suits, super_resolution
from ups_scale.evaluate.testset import TestSet, check_tests
from ups_scale.evaluate.variants import Match


@dataclass(frozen=True)
class Request:
    """What is asked of an evaluation.

    Attributes:
        manifest: the data, a path or a URL; None: the recipe's.
        out: where to write; None: `evaluation/<suite>/` of the run, with guards `evaluation/<suite>-<guards>/`.
        force: evaluate again what is evaluated already.
        factors: of super-resolution; None: the suite's, if the model can be asked.
        guards: names of what corrects every predicted frame, of every predictor.
        zoo: "auto", "none", or checkpoints with commas between (`zoo.find`).
        noise: of the ensembles' given frames, as a part of each field's RMS; None: the recipe's.
        noise_scale: factors of it by family.
    """

    suite: str = "small"
    manifest: str | Path | None = None
    out: Path | None = None
    force: bool = False
    factors: tuple[int, ...] | None = None
    guards: tuple[str, ...] = ()
    zoo: str = zoo.AUTO
    noise: float | None = None
    noise_scale: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The report, the folder it lies in, whether the evaluation was there already, and whether its report is new: an
    evaluation, or the judgement of one that was there."""

    report: dict[str, Any]
    out: Path
    already_there: bool
    new_report: bool = True
    replaced_data: str | None = None
    """Digest of the data of the report that was replaced, if it was on other data."""


@dataclass(frozen=True)
class Lineup:
    """Who is evaluated on what: the model first among the `entrants`."""

    checkpoint: Checkpoint
    suite: Suite
    subject: Subject
    tests: list[TestSet]
    entrants: list[Entrant]


@dataclass(frozen=True)
class Measured:
    """What was found of a lineup: report.json, trajectories.json, and the evaluation that they tell of; None if they
    were there already."""

    lineup: Lineup
    report: dict[str, Any]
    trajectories: dict[str, Any]
    evaluation: Evaluation | None


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
    request: Request,
    judged: Callable[[Measured], Measured] | None = None,
) -> Outcome:
    """Evaluates the checkpoint that `path` (a run folder or a checkpoint) means, unless that is done already.

    All processes must call it; the main one writes what `judged`, called by all, makes of the evaluation. An evaluation
    that is there and was not judged is given to it too.

    Raises:
        CheckpointError, DataError, UserError: see the messages.
    """

    def start() -> tuple[Lineup, Path]:
        suite, checkpoint = suite_named(request.suite), open_checkpoint(path, accelerator.device)
        out = request.out or _default_out(checkpoint, suite.name, request.guards)
        return line_up(checkpoint, suite, request, accelerator.device), out

    def look() -> dict[str, Any] | None:
        reports.prepare(out)
        return None if request.force else reports.saved(out, lineup.subject)

    lineup, out = together(accelerator, start)
    done = on_main(accelerator, look)
    if done is not None:
        return _judge_saved(lineup, done, out, accelerator, judged)
    before = _other_data(out, lineup.subject)
    measured = measure(lineup, accelerator)
    if judged is not None:
        measured = judged(measured)
    on_main(accelerator, lambda: write(measured, out, accelerator.device))
    return Outcome(measured.report, out, already_there=False, replaced_data=before)


def line_up(checkpoint: Checkpoint, suite: Suite, request: Request, device: torch.device) -> Lineup:
    """The lineup that the request asks for: the data, the model fitted to them, and who stands beside it.

    Raises:
        CheckpointError, DataError, UserError: see the messages.
    """
    recipe, given = checkpoint.recipe, checkpoint.model.context_frames
    kept = {key: recipe["data"][key] for key in ("cache_dir", "cache_gib") if key in recipe["data"]}
    manifest = load_manifest(request.manifest or _recipe_manifest(checkpoint), **kept)
    decoder = checkpoint.model.arguments["model"]["decoder"]
    factors = request.factors if request.factors is not None else suits(suite.factors, decoder)
    check_factors(factors, decoder)
    horizons = tuple(sorted(recipe["evaluate"]["horizons"]))
    model, tests, left_out = _tests(manifest, checkpoint, suite, horizons)
    check_tests(tests, model.specs, given, horizons)
    others, told = zoo.load(zoo.find(request.zoo, checkpoint), tests, given, device)
    suite_settings = settings(suite, horizons, given, factors)
    measured = {f"{test.split}/{test.spec.name}": [list(test.steps), list(test.indices)] for test in tests}
    noise = recipe["stabilization"]["noise"] if request.noise is None else request.noise
    subject = Subject(
        checkpoint=checkpoint.told(),
        config_hash=checkpoint.run.rpartition("-")[2] if checkpoint.run_folder else None,
        manifest=manifest.path if isinstance(manifest.path, str) else shown(manifest.path),
        manifest_digest=manifest.digest,
        suite=suite.name,
        suite_hash=suite_hash(suite_settings, manifest.digest, measured),
        suite_settings=suite_settings,
        horizons=horizons,
        context_frames=given,
        left_out=tuple(left_out.items()),
        super_resolution=tuple(sorted(set(factors))),
        guards=tuple(request.guards),
        noise=noise if suite.members else 0.0,
        noise_scale=tuple(sorted(request.noise_scale.items())),
        zoo=tuple(told.items()),
    )
    entrants = [model_entrant(model, tests), *others, *trivial_entrants(tests, given)]
    return Lineup(checkpoint, suite, subject, tests, guarded(entrants, tests, request.guards))


def measure(lineup: Lineup, accelerator: Accelerator) -> Measured:
    """The evaluation of a lineup. All processes must call it; all get the result."""
    subject, tests, given = lineup.subject, lineup.tests, lineup.subject.context_frames
    evaluation = evaluate(lineup.entrants, tests, given, accelerator)
    if lineup.suite.members and subject.noise > 0:
        evaluation.reliability, ensembles = reliability(
            lineup.entrants[0],
            [test for test in tests if test.split == TEST],
            given,
            lineup.suite.members,
            lineup.suite.ensemble_trajectories,
            {test.spec.name: subject.noise * dict(subject.noise_scale).get(test.spec.name, 1.0) for test in tests},
            lineup.suite.seed,
            accelerator,
        )
        for family, table in ensembles.items():
            for name, figures in table.items():
                evaluation.families[family][name].update(figures)
    finer = {}
    if subject.super_resolution:
        of_test = {test.spec.name: test for test in tests if test.split == TEST}
        known = lineup.entrants[0].model.specs
        finer = super_resolution(
            lineup.checkpoint.model, known, of_test, subject.super_resolution, subject.horizons, accelerator
        )
    report = reports.build(
        subject, evaluation, finer, _guards_left_out(lineup), accelerator.device, accelerator.num_processes
    )
    return Measured(lineup, report, reports.trajectories(report, evaluation), evaluation)


def write(measured: Measured, out: Path, device: torch.device) -> None:
    """Writes the files of an evaluation to the folder `out`. Main process only."""
    lineup, report = measured.lineup, measured.report
    assert measured.evaluation is not None
    specs = {test.spec.name: test.spec for test in lineup.tests}
    shown_examples = _examples(lineup, measured.evaluation, device)
    html = page(report, specs, shown_examples, lineup.checkpoint.recipe)
    reports.write(out, report, measured.trajectories, html)


def changed(lineup: Lineup, guards: Sequence[str], noise_scale: Mapping[str, float]) -> Lineup:
    """The same lineup with other guards, and the ensembles' noise scaled by family."""
    subject = replace(
        lineup.subject,
        guards=tuple(guards),
        noise_scale=tuple(sorted(noise_scale.items())),
        asked=lineup.subject.requested,
    )
    return replace(lineup, subject=subject, entrants=guarded(lineup.entrants, lineup.tests, guards))


def _judge_saved(
    lineup: Lineup,
    report: dict[str, Any],
    out: Path,
    accelerator: Accelerator,
    judged: Callable[[Measured], Measured] | None,
) -> Outcome:
    """What is in the folder `out`, with what `judged` makes of it if that was not done yet."""
    if judged is None or "champion" in report:
        return Outcome(report, out, already_there=True, new_report=False)
    files = on_main(accelerator, lambda: read_trajectories(out / TRAJECTORIES)) or {}
    # Paths in the report are from the folder that it was made in.
    here = {"checkpoint": lineup.subject.checkpoint["checkpoint"], "manifest": lineup.subject.manifest}
    final = judged(Measured(lineup, report | here, files, None)).report
    if "champion" not in final:
        return Outcome(report, out, already_there=True, new_report=False)
    on_main(accelerator, lambda: reports.write_judged(out, final))
    return Outcome(final, out, already_there=True)


def _guards_left_out(lineup: Lineup) -> dict[str, dict[str, str]]:
    """By entry, the guards that don't act on it, with the reason."""
    guards = lineup.entrants[0].guards
    return {} if guards is None else {name: reasons for name, reasons in guards.left_out.items() if reasons}


def _examples(lineup: Lineup, evaluation: Evaluation, device: torch.device) -> dict[str, list[Example]]:
    """By family of the test split, rollouts of the model and of the zoo."""
    found = {}
    shown_entrants = [entrant for entrant in lineup.entrants if entrant.name not in TRIVIAL]
    for test in lineup.tests:
        if test.split != TEST:
            continue
        ranking, given = evaluation.ranking[test.spec.name], lineup.subject.context_frames
        found[test.spec.name] = examples(shown_entrants, test, ranking, given, device)
    return found


def _tests(
    manifest: Manifest, checkpoint: Checkpoint, suite: Suite, horizons: Sequence[int]
) -> tuple[Any, list[TestSet], dict[str, str]]:
    """The model, fitted to variants of what it knows; the test sets; and of the other entries why not.

    Raises:
        DataError: there is none, or what there is can't be read.
    """
    measured, left_out = {}, {}
    for name, data in manifest.families.items():
        has = [split for split in data.splits if data.num_trajectories(split)]
        measured[name] = splits(suite, has)
        if not any(split == TEST or split.startswith(OOD) for split in has):
            left_out[name] = f"it has no {TEST} split"
    entries = {name: manifest.families[name].spec for name, of in measured.items() if of}
    stride, given = checkpoint.recipe["data"].get("max_stride", 1), checkpoint.model.context_frames
    model, matches, unfit = fit(checkpoint.model, entries, stride, manifest.families)
    left_out |= unfit
    tests = [
        _test(manifest, name, split, of, suite, horizons, given)
        for name, of in matches.items()
        for split in measured[name]
    ]
    tests.sort(key=lambda test: (test.split != TEST, test.split, test.spec.name))
    if not any(test.split == TEST for test in tests):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "no entry has a test split"
        raise DataError(
            f"{manifest.path}: nothing to evaluate on ({reasons}); the model knows "
            f"{', '.join(sorted(checkpoint.model.specs))}. Name data with a test split of those (--data), or fine-tune "
            "on the new ones first"
        )
    return model, tests, left_out


def _test(
    manifest: Manifest, name: str, split: str, of: Match, suite: Suite, horizons: Sequence[int], given: int
) -> TestSet:
    data, reader = manifest.families[name], ShardReader(manifest, name, split)
    return TestSet(
        data.spec,
        data.num_frames[split],
        reader,
        data.regular,
        of.known_as,
        of.taken_as,
        split,
        steps(suite, data.spec, horizons, data.num_frames[split], given),
        chosen(suite, name, split, reader.num_trajectories),
    )


def _default_out(checkpoint: Checkpoint, suite: str, guards: Sequence[str]) -> Path:
    if checkpoint.run_folder is None:
        raise CheckpointError(
            f"{checkpoint.folder}: this checkpoint lies in no run folder; say where to write with --out DIR"
        )
    return Path(shown(checkpoint.run_folder / "evaluation" / "-".join([suite, *sorted(guards)])))


def _recipe_manifest(checkpoint: Checkpoint) -> str:
    path = checkpoint.recipe["data"]["manifest"]
    if not is_url(path) and not Path(path).exists():
        raise DataError(
            f"{path}: no such manifest; it is data.manifest in {checkpoint.folder / 'recipe.json'}, taken from the "
            "current folder. Name the data with --data MANIFEST, or make them with tools/generate.py and tools/shard.py"
        )
    return path


def _other_data(out: Path, subject: Subject) -> str | None:
    try:
        before = json.loads((out / "report.json").read_text(encoding="utf-8")).get("manifest_digest")
    except (OSError, ValueError, AttributeError):
        return None
    return before if before != subject.manifest_digest else None
