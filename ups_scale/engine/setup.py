"""The engine that the training loop sees: forward, backward, step, save and load, with DeepSpeed inside."""

from __future__ import annotations

import copyreg
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ups_scale.distributed import Ranks
from ups_scale.engine import ops
from ups_scale.engine.ds_config import ds_config
from ups_scale.engine.ema import EMA
from ups_scale.engine.optimizer import OPTIMIZERS
from ups_scale.engine.remat import block_runner
from ups_scale.engine.schedule import lr_at
from ups_scale.errors import CheckpointError
from ups_scale.model.simulator import Simulator
from ups_scale.recipe.types import Recipe

DEEPSPEED_TAG = "deepspeed"
RECIPE_CONSTANTS = ("betas", "eps", "weight_decay")


class Engine:
    """A model under DeepSpeed with its optimizer, schedule and moving average. Every rank makes one, and calls every
    method that says so."""

    def __init__(self, recipe: Recipe, model: Simulator, ranks: Ranks, accumulation: int) -> None:
        ops.prepare()
        import deepspeed
        from deepspeed.runtime.zero.config import ZeroStageEnum

        from ups_scale.engine import master

        # Checkpoints hold one, which Python 3.11.0 to 3.11.3 pickle as a call of getattr: that is not let in again.
        copyreg.pickle(ZeroStageEnum, lambda stage: (ZeroStageEnum, (stage.value,)))

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # DeepSpeed calls an API that newer torch renames, at every step.
        warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*", category=FutureWarning)
        self._master = master
        self._schedule: Callable[[int], float] = lambda step: lr_at(
            step,
            name=recipe.schedule.name,
            peak=recipe.optimizer.lr,
            steps=recipe.schedule.steps,
            warmup_ratio=recipe.schedule.warmup_ratio,
            final_lr_ratio=recipe.schedule.final_lr_ratio,
            decay_ratio=recipe.schedule.decay_ratio,
        )
        model.operator.run_block = block_runner(recipe.engine.activation_checkpointing)
        settings = recipe.optimizer
        optimizer = OPTIMIZERS[settings.name](model, settings.lr, settings.betas, settings.eps, settings.weight_decay)
        config = ds_config(
            zero_stage=recipe.engine.zero_stage,
            precision=recipe.engine.precision,
            grad_clip=recipe.stabilization.grad_clip,
            accumulation=accumulation,
            world_size=ranks.world_size,
        )
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self._stage = recipe.engine.zero_stage
        self._rank = ranks.rank
        self.ema = None
        if recipe.stabilization.ema_decay > 0:
            self.ema = EMA(master.local_master(self._engine), recipe.stabilization.ema_decay)

    @property
    def module(self) -> Simulator:
        return self._engine.module

    def train(self, mode: bool) -> None:
        """Switches the model between training and evaluation."""
        self._engine.train(mode)

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """`Simulator.forward` under the engine; every rank calls it the same number of times, for the same family."""
        return self._engine(*inputs, **options)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss` / accumulation, averaged over ranks; every rank calls it."""
        self._engine.backward(loss)

    def micro_step(self) -> None:
        """Ends a microstep that is not the last of its optimizer step; every rank calls it."""
        self._engine.step()

    def step(self, step: int, want_norm: bool) -> tuple[float, float | None]:
        """Ends the last microstep of optimizer step `step`: clips, updates weights and average; every rank calls it.

        Returns:
            The learning rate used, and the gradient's norm before clipping if `want_norm` (it waits for the device).
        """
        lr = self._schedule(step)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        norm = self._master.global_gradient_norm(self._engine) if want_norm and self._stage == 0 else None
        self._engine.step()
        if want_norm and self._stage > 0:
            norm = self._master.global_gradient_norm(self._engine)
        if self.ema is not None:
            self.ema.update(self._master.local_master(self._engine), step)
        return lr, norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the model has the averaged weights (its own, where there is no average); every rank enters it."""
        if self.ema is None:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        assert self.ema is not None
        self.ema.swap(self._master.local_master(self._engine))
        self._master.publish_master(self._engine)

    def full_weights(self) -> dict[str, Tensor]:
        """Every weight whole, fp32, on the CPU of rank 0; empty on the others. Every rank calls it."""
        return self._master.full_weights(self._engine, keep=self._rank == 0)

    def save(self, folder: Path) -> None:
        """Writes weights, optimizer and average into `folder`, which exists; every rank calls it."""
        self._engine.save_checkpoint(str(folder), tag=DEEPSPEED_TAG, save_latest=False)
        if self.ema is not None:
            (folder / "ema").mkdir(exist_ok=True)
            self.ema.save(folder / "ema" / f"rank-{self._rank:05d}.safetensors")

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote, with the same number of ranks and ZeRO stage; every rank calls it.

        Raises:
            CheckpointError: the files are not there, or hold something that a checkpoint of ours does not.
        """
        optimizer = self._engine.optimizer
        constants = [{key: group[key] for key in RECIPE_CONSTANTS} for group in optimizer.param_groups]
        clip = getattr(optimizer, "clip_grad", None)
        with _weights_only():
            try:
                path, _ = self._engine.load_checkpoint(str(folder), tag=DEEPSPEED_TAG)
            except Exception as error:  # DeepSpeed raises what its many layers raise; all of it means: not loadable
                raise CheckpointError(f"{folder}: DeepSpeed can't load it ({type(error).__name__}: {error})") from error
        if path is None:
            raise CheckpointError(f"{folder}: DeepSpeed finds no checkpoint in it")
        # The recipe's own constants, not those of the run that wrote the checkpoint.
        for group, values in zip(optimizer.param_groups, constants, strict=True):
            group.update(values)
        if clip is not None:
            optimizer.clip_grad = clip
        if self.ema is not None:
            self.ema.load(folder / "ema" / f"rank-{self._rank:05d}.safetensors")


@contextmanager
def _weights_only() -> Iterator[None]:
    """Restricts unpickling to tensors and the few classes that DeepSpeed's files hold."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
