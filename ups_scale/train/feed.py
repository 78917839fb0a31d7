"""The data of a run: its readers, what of them is damaged, the order of training, and the stream of micro-batches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import islice
from pathlib import Path

import torch

from ups_scale import distributed
from ups_scale.checkpoint.resume import read_state
from ups_scale.data.batch import FieldBatch
from ups_scale.data.loader import MicroBatch, stream
from ups_scale.data.manifest import Manifest
from ups_scale.data.plan import FamilyStream, Plan, PlanState
from ups_scale.data.prefetch import Prefetch
from ups_scale.data.quarantine import Quarantine, told
from ups_scale.data.reader import DamagedItem, ShardReader
from ups_scale.distributed import Ranks
from ups_scale.errors import DataError
from ups_scale.model.build import build_model
from ups_scale.model.simulator import Simulator
from ups_scale.objective.curriculum import horizon_at
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe import rules
from ups_scale.recipe.types import Recipe


def open_readers(manifest: Manifest, split: str, ranks: Ranks, strict: bool = True) -> dict[str, ShardReader]:
    """A reader per family that is trained on; every rank calls it. See `ShardReader` for `strict`.

    Raises:
        DataError: there is no such family, or one of them lacks the split.
    """
    trained = [name for name, data in manifest.families.items() if data.num_trajectories("train")]
    if not trained:
        raise DataError(f"{manifest.path}: no family has a train split; give tools/shard.py training data too")
    return distributed.together(
        ranks, lambda: {name: ShardReader(manifest, name, split, strict=strict) for name in trained}
    )


def isolate(readers: dict[str, ShardReader], max_share: float, source: Path | None, ranks: Ranks) -> Quarantine:
    """What is known to be damaged before the first step, alike on all ranks: shards that can't be opened on any, and
    what the checkpoint `source` knew. Every rank calls it.

    Raises:
        DataError: it is more than `max_share` of a family.
    """
    quarantine = Quarantine(readers, max_share)
    broken = quarantine.merge(distributed.gather(ranks, quarantine.take_new()))
    known: list[DamagedItem] = []
    if source:
        known = distributed.on_main(ranks, lambda: quarantine.still_damaged(read_state(source).get("quarantined", [])))
        quarantine.merge([known])
    if ranks.is_main:
        for item in broken:
            print(f"quarantined, other trajectories take its place: {item}", flush=True)
        if known:
            print(f"{len(known)} damaged items known from {source} are passed over", flush=True)
    quarantine.check()
    return quarantine


def read_sound(
    reader: ShardReader, quarantine: Quarantine, ranks: Ranks, count: int, num_frames: int
) -> tuple[FieldBatch, int]:
    """This rank's share of the first `count` trajectories that are not damaged, from their first frames, and how many
    they are: a rank without any gets one that it is not to count. Every rank calls it.

    Raises:
        DataError: all of the family is damaged.
    """
    frames = range(num_frames)

    def attempt() -> tuple[FieldBatch | None, list[DamagedItem]]:
        try:
            return reader.read(own or chosen[:1], [0] * max(1, len(own)), num_frames), []
        except DamagedItem as damage:
            return None, [damage]

    while True:
        sound = (n for n in range(reader.num_trajectories) if quarantine.find(reader.family, n, frames) is None)
        chosen = list(islice(sound, count))
        if not chosen:
            raise DataError(f"family {reader.family}: all trajectories of split {reader.split} are damaged")
        own = chosen[ranks.rank :: ranks.world_size]
        batch, found = distributed.together(ranks, attempt)
        quarantine.account(found)
        new = quarantine.merge(distributed.gather(ranks, quarantine.take_new()))
        if not new:
            assert batch is not None, "no rank has met damage"
            return batch, len(own)
        if ranks.is_main:
            print("\n".join(told(new)), flush=True)


def lay_out(
    recipe: Recipe, specs: Sequence[FamilySpec], readers: dict[str, ShardReader], ranks: Ranks
) -> tuple[int, Simulator, Plan]:
    """Microsteps per step, the model of these families on the meta device, and the order of training over the readers'.

    Raises:
        RecipeError: a grid can't be cut in patches, or the batch can't be divided among this many ranks.
    """
    accumulation = rules.accumulation(recipe, ranks.world_size)
    with torch.device("meta"):
        meta_model = build_model(recipe, specs)
    streams = {
        name: FamilyStream(reader.shard_sizes, reader.num_frames, meta_model.num_tokens(name), reader.data.spec.steady)
        for name, reader in readers.items()
    }
    plan = Plan(
        streams,
        seed=recipe.run.seed,
        exponent=recipe.data.sampling_temperature,
        draws_per_step=recipe.data.draws_per_step,
        batch_tokens=recipe.data.batch_tokens,
        context_frames=recipe.model.context_frames,
        shuffle_shards=recipe.data.shuffle_shards,
        max_stride=recipe.data.max_stride,
        steady_share=recipe.data.steady_share,
    )
    plan.check_ranks(ranks.world_size, recipe.curriculum.horizons)
    return accumulation, meta_model, plan


def open_stream(
    recipe: Recipe,
    plan: Plan,
    readers: dict[str, ShardReader],
    quarantine: Quarantine,
    state: PlanState,
    ranks: Ranks,
    accumulation: int,
) -> Generator[MicroBatch, None, None]:
    """This rank's micro-batches from `state` to the recipe's last step, `accumulation` of them a step."""
    return stream(
        plan,
        readers,
        quarantine,
        state,
        stop_step=recipe.schedule.steps,
        horizon_at=lambda step: horizon_at(
            step,
            recipe.curriculum.horizons,
            recipe.curriculum.grow_every_steps,
            recipe.curriculum.autoencoder_steps,
        ),
        context_frames=recipe.model.context_frames,
        rank=ranks.rank,
        world_size=ranks.world_size,
        parts=accumulation // recipe.data.draws_per_step,
        threads=recipe.data.reader_threads,
        prefetch=recipe.data.prefetch,
        ahead=Prefetch(plan, readers) if any(reader.remote for reader in readers.values()) else None,
    )
