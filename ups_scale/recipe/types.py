"""The sections of a recipe as frozen dataclasses.

Names, order and meaning are those of schema.json, which also holds the defaults and units: nothing here has a default.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What names the run and seeds it."""

    name: str
    seed: int


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which shards are read, and how many tokens of each family make an optimizer step."""

    manifest: str
    families: tuple[str, ...] | None
    batch_tokens: int
    sampling_temperature: float
    steady_share: float
    draws_per_step: int
    max_stride: int
    max_damaged_share: float
    reader_threads: int
    prefetch: int
    shuffle_shards: int
    cache_dir: str | None
    cache_gib: float


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Encoder, latent operator and decoder; the size's fields are filled in."""

    size: str | None
    encoder: str
    operator: str
    decoder: str
    prediction: str
    target: str
    depth: int
    model_dim: int
    num_heads: int
    modes: tuple[int, ...] | None
    mlp_ratio: float
    qk_rmsnorm: bool
    channel_separated: bool
    accept_stacked_separated: bool
    window_size: int
    u_stages: tuple[int, ...]
    u_depths: tuple[int, ...] | None
    u_growth: int
    latent_tokens: int
    latent_dim: int
    patch_size: int
    context_frames: int
    frame_dropout: float
    patch_jitter: bool
    supernodes: int
    supernode_radius: float
    neighbours: int
    decoder_reach: int
    log_clamp: float | None
    drop_path: float


@dataclasses.dataclass(frozen=True)
class ConditioningSettings:
    """What the model is told beside the fields."""

    family: bool
    parameters: bool
    dt: bool
    boundary: bool
    extents: bool
    scale: bool
    geometry: bool
    geometry_hash: bool
    dropout: float


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """What is minimised."""

    task_nrmse: float
    reconstruction: float
    unroll: str


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer and its constants; `lr` is filled in where the recipe left it null."""

    name: str
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    eps: float


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """Length of the run and course of the learning rate."""

    name: str
    steps: int
    warmup_ratio: float
    final_lr_ratio: float
    decay_ratio: float


@dataclasses.dataclass(frozen=True)
class StabilizationSettings:
    """What keeps training and long rollouts from blowing up."""

    grad_clip: float
    ema_decay: float
    noise: float


@dataclasses.dataclass(frozen=True)
class CurriculumSettings:
    """How the rollout length grows during training."""

    horizons: tuple[int, ...]
    grow_every_steps: int
    autoencoder_steps: int


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """How the run is spread over machines and memory."""

    zero_stage: int
    precision: str
    activation_checkpointing: str
    micro_batch: int
    accumulation: int | None
    accelerator: str
    min_gpus: int
    gpu_memory_gib: float


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are published and which are kept."""

    every_steps: int
    keep_last: int
    keep_every: int


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """Validation during training."""

    horizons: tuple[int, ...]
    every_steps: int
    trajectories: int


@dataclasses.dataclass(frozen=True)
class GatesSettings:
    """What a run must reach to go on."""

    reconstruction: float
    patience: int | None
    proxy_share: float
    proxy_against: str | None


@dataclasses.dataclass(frozen=True)
class LoggingSettings:
    """What is written down while training."""

    every_steps: int
    pictures_every_steps: int


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One run: a whole, valid recipe with every value filled in."""

    format: int
    description: str
    run: RunSettings
    data: DataSettings
    model: ModelSettings
    conditioning: ConditioningSettings
    objective: ObjectiveSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    stabilization: StabilizationSettings
    curriculum: CurriculumSettings
    engine: EngineSettings
    checkpoint: CheckpointSettings
    evaluate: EvaluateSettings
    gates: GatesSettings
    logging: LoggingSettings

    def as_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain JSON values (tuples become lists), as `load.resolve` returned it."""
        plain = dataclasses.asdict(self)
        for value in plain.values():
            if isinstance(value, dict):
                value.update({key: list(item) for key, item in value.items() if isinstance(item, tuple)})
        return plain


SECTIONS: dict[str, type] = {
    "run": RunSettings,
    "data": DataSettings,
    "model": ModelSettings,
    "conditioning": ConditioningSettings,
    "objective": ObjectiveSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "stabilization": StabilizationSettings,
    "curriculum": CurriculumSettings,
    "engine": EngineSettings,
    "checkpoint": CheckpointSettings,
    "evaluate": EvaluateSettings,
    "gates": GatesSettings,
    "logging": LoggingSettings,
}


def build(resolved: dict[str, Any]) -> Recipe:
    """The `Recipe` of a resolved, valid recipe."""
    sections = {
        name: section(**{k: tuple(v) if isinstance(v, list) else v for k, v in resolved[name].items()})
        for name, section in SECTIONS.items()
    }
    return Recipe(format=resolved["format"], description=resolved["description"], **sections)
