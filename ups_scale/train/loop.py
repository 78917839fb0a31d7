"""A pretraining run, top to bottom."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from ups_scale import distributed
from ups_scale.atomic import write_json
from ups_scale.checkpoint.publish import clean, publish, published, retain
from ups_scale.checkpoint.resume import find_checkpoint, newest_whole, read_state, rename_aside
from ups_scale.data.loader import MicroBatch
from ups_scale.data.manifest import Manifest, load_manifest
from ups_scale.data.plan import Plan, PlanState, mix
from ups_scale.data.quarantine import Quarantine
from ups_scale.data.reader import ShardReader
from ups_scale.distributed import Ranks
from ups_scale.engine.setup import Engine
from ups_scale.errors import CheckpointError, DivergenceError, RecipeError, UserError
from ups_scale.metrics import accuracy
from ups_scale.model.build import build_model
from ups_scale.objective.forward import add_noise, nrmse_loss
from ups_scale.observe.pictures import comparison
from ups_scale.observe.sinks import Sinks
from ups_scale.recipe import rules
from ups_scale.recipe.types import Recipe
from ups_scale.train import early_stop, run
from ups_scale.train.feed import isolate, lay_out, open_readers, open_stream
from ups_scale.train.records import StepRecords
from ups_scale.train.requirements import check_cache, chosen, trained_specs
from ups_scale.train.validation import Validation, check_reconstruction, is_reconstruction, validate


def pretrain(recipe: Recipe, *, run_root: Path, resume: str) -> Path:
    """Trains a recipe to its last step, from its newest whole checkpoint if `resume` is "auto"; returns the run folder.

    Every rank calls it, with the same arguments. `resume` may also be "none" (start anew; refused if the run has
    checkpoints) or the path of a checkpoint or run folder to start from.

    Raises:
        RecipeError: the recipe does not fit this machine or the data.
        DataError: the data is missing or damaged.
        CheckpointError: the run folder is in use, or the checkpoint does not fit.
        DivergenceError: the loss is no longer finite.
    """
    require_hardware(recipe)
    manifest = chosen(recipe, load_manifest(recipe.data.manifest, recipe.data.cache_dir, recipe.data.cache_gib))
    check_cache(recipe, manifest)
    rules.check_data(
        recipe, {name: data.num_frames for name, data in manifest.families.items() if not data.spec.steady}
    )
    ranks = distributed.setup()
    folder = run.run_folder(run_root, recipe, manifest.digest)
    with hold(folder, ranks):
        _train(recipe, manifest, ranks, folder, resume)
    # Not after an error: leaving can wait for ranks that will not come.
    distributed.shutdown()
    return folder


def _train(recipe: Recipe, manifest: Manifest, ranks: Ranks, folder: Path, resume: str) -> None:
    # First whatever can be refused: until `begin` nothing is written.
    readers = open_readers(manifest, "train", ranks, strict=False)
    valid = open_readers(manifest, "valid", ranks, strict=False) if recipe.evaluate.every_steps else {}
    specs, notes = trained_specs(recipe, manifest)
    accumulation, meta_model, plan = distributed.together(ranks, lambda: lay_out(recipe, specs, readers, ranks))
    checkpoints = folder / "checkpoints"
    source = choose_checkpoint(checkpoints, resume, ranks)
    trained = distributed.on_main(ranks, lambda: read_state(source)["step"] if source else 0)
    if trained >= recipe.schedule.steps:
        say(ranks, f"{folder}: already trained to step {trained} of {recipe.schedule.steps}; nothing to do")
        return
    ended = distributed.on_main(ranks, lambda: early_stop.stopped(folder, recipe) if resume == "auto" else None)
    if ended:
        say(ranks, f"{folder}: stopped after step {ended.step}: {ended.reason}; other gates.* go on from there")
        return
    state = distributed.on_main(ranks, lambda: check_fits(source, recipe, ranks, plan))
    quarantine = isolate(readers, recipe.data.max_damaged_share, source, ranks)
    # Damage there is said and counted, but stops no run, as long as there is anything to validate on.
    valid_quarantine = isolate(valid, 1.0, None, ranks)
    watch = distributed.on_main(ranks, lambda: early_stop.EarlyStop(recipe, folder, state.step))
    distributed.on_main(ranks, lambda: begin(folder, state.step, recipe, ranks))

    torch.manual_seed(recipe.run.seed)
    engine = Engine(recipe, build_model(recipe, specs).to(ranks.device), ranks, accumulation)
    if source:
        engine.load(source)
        say(ranks, f"resumed from {source} at step {state.step}")

    sinks = Sinks(folder, state.step, recipe.schedule.steps) if ranks.is_main else None
    records = StepRecords(meta_model, quarantine, ranks)
    peak = (
        f"{records.peak_tflops} TFLOP/s (dense bf16)"
        if records.peak_tflops
        else "no peak: none is known for this device"
    )
    for note in notes:
        say(ranks, f"note: {note}")
    say(
        ranks,
        f"{ranks.world_size} rank(s) on {ranks.device.type}, {accumulation} microsteps a step; MFU against {peak}",
    )
    micro_batches = open_stream(recipe, plan, readers, quarantine, state, ranks, accumulation)
    engine.train(True)
    try:
        for step in range(state.step, recipe.schedule.steps):
            done = step + 1
            save_now = due(done, recipe.checkpoint.every_steps, recipe.schedule.steps)
            # Looked at before it is saved: a checkpoint that is not finite would be resumed for ever.
            log_now = save_now or due(done, recipe.logging.every_steps, recipe.schedule.steps)
            for microstep in range(accumulation):
                micro = next_timed(micro_batches, records)
                loss = microstep_loss(engine, recipe, micro, ranks)
                engine.backward(loss)
                records.add(micro, loss)
                if microstep < accumulation - 1:
                    engine.micro_step()
            lr, grad_norm = engine.step(step, want_norm=log_now)
            state = micro.state

            if log_now:
                record = records.collect(done, lr, grad_norm)
                if sinks:
                    sinks.training(record)
                if not record["finite"]:
                    raise DivergenceError(
                        f"step {done}: the loss or the gradient is not finite. Lower optimizer.lr or raise "
                        f"schedule.warmup_ratio, which makes it another run: start it anew, or from a checkpoint of "
                        f"this one with --resume {checkpoints}/step-<N>"
                    )
                quarantine.check()
            gated = done == recipe.curriculum.autoencoder_steps
            if gated:  # before it is saved: a checkpoint past a gate that was missed would be resumed
                report_validation(engine, recipe, valid, valid_quarantine, ranks, sinks, done)
            if save_now:
                save(checkpoints, done, state, quarantine, engine, recipe, ranks)
            if not gated and due(done, recipe.evaluate.every_steps, recipe.schedule.steps):
                figures = report_validation(engine, recipe, valid, valid_quarantine, ranks, sinks, done)
                stop = early_stop.decide(watch, ranks, done, figures)
                if stop:
                    if not save_now and stop.rule != early_stop.NOT_FINITE:
                        save(checkpoints, done, state, quarantine, engine, recipe, ranks)
                    end_early(folder, recipe, stop, ranks, sinks)
                    return
    finally:
        micro_batches.close()
        if sinks:
            sinks.close()
    say(ranks, f"trained to step {recipe.schedule.steps}: {folder}")


def require_hardware(recipe: Recipe) -> None:
    """Raises a `RecipeError` that says what the recipe needs, if this machine does not have it."""
    engine = recipe.engine
    if engine.accelerator != "gpu":
        return
    needed = f"recipe {recipe.run.name} needs {engine.min_gpus or 1} GPU(s) of {engine.gpu_memory_gib:g} GiB"
    remedy = (
        "run it on such a machine (`deepspeed launch/pretrain.py --recipe ...`), look at `tools/plan.py --recipe ...` "
        "for what it would take, or override with --set engine.accelerator=any"
    )
    if not torch.cuda.is_available():
        raise RecipeError(f"{needed}, this machine has none: {remedy}")
    _, world_size, _ = distributed.from_environment()
    if world_size < engine.min_gpus:
        raise RecipeError(f"{needed}, this run has {world_size} rank(s): {remedy}")
    found = torch.cuda.get_device_properties(0).total_memory / 2**30
    # A card sold as 80 GB reports a little less than 80 GiB: 5 % and the decimal prefix are let pass.
    if found < engine.gpu_memory_gib * 0.9:
        raise RecipeError(f"{needed}, this GPU has {found:.0f} GiB: {remedy}")


@contextmanager
def hold(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Within it the main rank has the run folder locked; every rank enters it. A folder that nothing was written to is
    taken away again."""
    with ExitStack() as held:

        def take() -> None:
            held.enter_context(run.lock(folder))

        distributed.on_main(ranks, take)
        try:
            yield
        finally:
            if ranks.is_main and [path.name for path in folder.iterdir()] == ["lock"]:
                shutil.rmtree(folder)


def choose_checkpoint(checkpoints: Path, resume: str, ranks: Ranks) -> Path | None:
    """The checkpoint to start from, chosen by the main rank for all; every rank calls it."""

    def choose() -> Path | None:
        if resume == "auto":
            return newest_whole(checkpoints, set_aside=True)
        if resume != "none":
            return find_checkpoint(resume)
        if published(checkpoints):
            raise CheckpointError(
                f"{checkpoints} holds checkpoints and --resume none would write over them: use --resume auto, "
                "another --run-root or run.name, or delete the folder"
            )
        return None

    return distributed.on_main(ranks, choose)


def check_fits(source: Path | None, recipe: Recipe, ranks: Ranks, plan: Plan) -> PlanState:
    """Where the stream was at the checkpoint `source` (the start, for None).

    Raises:
        CheckpointError: it was written with other ranks, ZeRO stage or families than this run has.
    """
    if source is None:
        return plan.start()
    saved = read_state(source)
    now = {"world_size": ranks.world_size, "zero_stage": recipe.engine.zero_stage}
    differs = [f"{key} {saved[key]} (now {value})" for key, value in now.items() if saved[key] != value]
    if differs:
        raise CheckpointError(
            f"{source} was written with {' and '.join(differs)}; resume with the same number of ranks and ZeRO "
            "stage, or start anew beside it with --set run.name=..."
        )
    if set(saved["positions"]) != set(plan.start().positions):
        raise CheckpointError(f"{source} was trained on families {sorted(saved['positions'])}, the data has others")
    return PlanState(saved["step"], saved["positions"])


def begin(folder: Path, first_step: int, recipe: Recipe, ranks: Ranks) -> None:
    """Records the recipe in the run folder and makes way for what will be trained after `first_step`."""
    checkpoints = folder / "checkpoints"
    clean(checkpoints)
    for step, path in published(checkpoints):
        if step > first_step:  # left behind by going back: the next --resume auto must not take it
            print(f"set aside: {rename_aside(path, 'abandoned').name} lies after step {first_step}", flush=True)
    (folder / early_stop.FILE).unlink(missing_ok=True)
    for line in run.record(folder, recipe, ranks.world_size):
        print(f"changed since this run began: {line}", flush=True)


def microstep_loss(engine: Engine, recipe: Recipe, micro: MicroBatch, ranks: Ranks) -> torch.Tensor:
    """The weighted objective of one micro-batch, a scalar.

    Its randomness (noise, dropped conditions and paths) is a function of the seed and the place in the run, so a
    resumed run draws what the uninterrupted one would have.
    """
    torch.manual_seed(mix(recipe.run.seed, 4, micro.step, micro.microstep, ranks.rank) >> 1)
    batch = micro.batch.to(ranks.device)
    context_frames = recipe.model.context_frames
    context, truth = batch.u_btcx.split([context_frames, micro.horizon], dim=1)
    given = None if batch.mask_btcx is None else batch.mask_btcx[:, :context_frames]
    counted = accuracy.counted_points(batch.mask_btcx, context_frames)
    dynamic = engine.module.specs[batch.family].dynamic
    least_rms = engine.module.least_rms(batch.family, ranks.device)
    warming_up = micro.step < recipe.curriculum.autoencoder_steps
    reconstruct = warming_up or recipe.objective.reconstruction > 0
    predicted = engine.forward(
        context if warming_up else add_noise(context, recipe.stabilization.noise, given, dynamic),
        batch.family,
        batch.parameters_bp,
        batch.dt_bt,
        0 if warming_up else micro.horizon,
        recipe.objective.unroll == "detached",
        mask_btcx=given,
        reconstruct=reconstruct,
    )
    reconstruction_loss: torch.Tensor | float = 0.0
    if reconstruct:
        predicted, reconstructed = predicted
        there = None if given is None else given[:, -1:]
        reconstruction_loss = nrmse_loss(reconstructed[:, None], context[:, -1:], least_rms, there, dynamic)
        if warming_up:
            return micro.weight * reconstruction_loss
    loss = recipe.objective.task_nrmse * nrmse_loss(predicted, truth, least_rms, counted, dynamic)
    return micro.weight * (loss + recipe.objective.reconstruction * reconstruction_loss)


def next_timed(micro_batches: Iterator[MicroBatch], records: StepRecords) -> MicroBatch:
    """The next micro-batch, with the time waited for it put on record."""
    start = time.perf_counter()
    try:
        micro = next(micro_batches)
    except UserError as error:
        error.on_all_ranks = False  # each rank reads its own windows
        raise
    records.waited(time.perf_counter() - start)
    return micro


def due(done: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps (0: never) and at the end happens after `done` steps."""
    return bool(every) and (done % every == 0 or done == last)


def report_validation(
    engine: Engine,
    recipe: Recipe,
    readers: dict[str, ShardReader],
    quarantine: Quarantine,
    ranks: Ranks,
    sinks: Sinks | None,
    done: int,
) -> dict[str, float]:
    """The figures of a validation, put into the sinks with its pictures; every rank calls it."""
    horizons = recipe.evaluate.horizons
    result = validate(
        engine,
        readers,
        quarantine,
        ranks,
        trajectories=recipe.evaluate.trajectories,
        horizons=horizons,
        context_frames=recipe.model.context_frames,
    )
    if sinks is not None:
        _show_validation(sinks, recipe, readers, result, done)
    if done == recipe.curriculum.autoencoder_steps:
        check_reconstruction(result.figures, recipe.gates.reconstruction, done)
    return result.figures


def end_early(folder: Path, recipe: Recipe, stop: early_stop.Stop, ranks: Ranks, sinks: Sinks | None) -> None:
    """Says and records that the run ends before its last step; every rank calls it."""
    distributed.on_main(ranks, lambda: early_stop.record(folder, recipe, stop))
    if sinks:
        sinks.stopped(stop.step, stop.rule, stop.reason)


def _show_validation(
    sinks: Sinks, recipe: Recipe, readers: dict[str, ShardReader], result: Validation, done: int
) -> None:
    horizons = recipe.evaluate.horizons
    sinks.validation(done, result.figures)
    for family in sorted(readers):
        steps = readers[family].data.spec.steps(horizons)
        model, persistence = (
            [result.figures[f"{family}/{who}/nrmse@{k}"] for k in steps] for who in ("model", "persistence")
        )
        shown = "  ".join(f"@{k} {m:.3f} ({p:.3f})" for k, m, p in zip(steps, model, persistence, strict=True))
        kept = [f"{error:.2g}" for name, error in result.figures.items() if is_reconstruction(name, family)]
        if kept:
            shown += f"  reconstruction {', '.join(kept)} of the variance"
        sinks.message(f"validation at step {done}: {family:<24} nrmse (persistence)  {shown}")
    if due(done, recipe.logging.pictures_every_steps, recipe.schedule.steps):
        for family, (predicted, truth) in result.rollouts.items():
            spec = readers[family].data.spec
            places = truth[0, [spec.fields.index(name) for name in spec.coordinates]].T if spec.coordinates else None
            for number in spec.dynamic:
                name = f"{family}/{spec.fields[number]}"
                sinks.picture(name, done, comparison(predicted[:, number], truth[:, number], places))


def save(
    checkpoints: Path,
    step: int,
    state: PlanState,
    quarantine: Quarantine,
    engine: Engine,
    recipe: Recipe,
    ranks: Ranks,
) -> None:
    """Publishes a checkpoint of the run and deletes those past retention; every rank calls it."""
    with engine.averaged():
        weights = engine.full_weights()

    def write(folder: Path) -> None:
        engine.save(folder)
        if ranks.is_main:
            engine.module.save_pretrained(folder / "model", weights, recipe.as_dict())
            write_json(folder / "recipe.json", recipe.as_dict())
            shape = {"world_size": ranks.world_size, "zero_stage": recipe.engine.zero_stage}
            stream_state = {"step": step, "positions": dict(state.positions), "quarantined": quarantine.state()}
            write_json(folder / "state.json", {**stream_state, **shape})

    publish(checkpoints, step, ranks, write)
    if ranks.is_main:
        retain(checkpoints, recipe.checkpoint.keep_last, recipe.checkpoint.keep_every)


def say(ranks: Ranks, text: str) -> None:
    """Prints on the main rank."""
    if ranks.is_main:
        print(text, flush=True)
