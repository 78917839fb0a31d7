"""The figures of a step: summed on the device while it runs, read only when they are logged."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from ups_scale.data.loader import MicroBatch
from ups_scale.data.quarantine import Quarantine, told
from ups_scale.distributed import Ranks, gather, sum_over_ranks
from ups_scale.model.simulator import Simulator
from ups_scale.observe.flops import peak_tflops, training_flops


class StepRecords:
    """Collects losses, tokens, operations and waiting times between two log lines, without waiting for the device."""

    def __init__(self, meta_model: Simulator, quarantine: Quarantine, ranks: Ranks) -> None:
        self._ranks = ranks
        self._quarantine = quarantine
        self._families = sorted(meta_model.specs)
        self._tokens_per_frame = {name: meta_model.num_tokens(name) for name in self._families}
        self._flops_per_frame = {name: training_flops(meta_model, name) for name in self._families}
        self.peak_tflops = peak_tflops(ranks.device)
        self._reset()

    def _reset(self) -> None:
        # Columns: sum and count of the families' losses, weighted as in the objective.
        self._by_family = torch.zeros(len(self._families), 2, dtype=torch.float64, device=self._ranks.device)
        self._step_loss = torch.zeros((), dtype=torch.float64, device=self._ranks.device)
        self._step = -1
        self._micro_batches = self._tokens = self._flops = 0
        self._waited_s = 0.0
        self._start = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Adds time spent waiting for data."""
        self._waited_s += seconds

    def add(self, micro: MicroBatch, loss: torch.Tensor) -> None:
        """Adds a microstep's loss (a scalar on the device) and size."""
        if micro.step != self._step:  # only the last step's own loss is logged: it does not depend on the line before
            self._step, self._micro_batches = micro.step, 0
            self._step_loss.zero_()
        loss = loss.detach().double()
        row = self._families.index(micro.batch.family)
        self._by_family[row, 0] += loss
        self._by_family[row, 1] += 1
        self._step_loss += loss
        self._micro_batches += 1
        frames = len(micro.batch.keys) * micro.horizon
        self._tokens += frames * self._tokens_per_frame[micro.batch.family]
        self._flops += frames * self._flops_per_frame[micro.batch.family]
        self._quarantine.account(micro.quarantined)

    def collect(self, done: int, lr: float, grad_norm: float | None) -> dict[str, Any]:
        """The record after `done` steps, over all ranks, and a new start; every rank calls it.

        `loss` is the objective of the last step, `loss/<family>` the mean since the line before; `quarantined` counts
        damaged trajectories since the run began. Ranks learn of each other's here, and each is said once.
        """
        seconds = time.perf_counter() - self._start
        numbers = self._step_loss.new_tensor([self._tokens, self._flops])
        flat = torch.cat([self._by_family.flatten(), (self._step_loss / self._micro_batches)[None], numbers])
        values = sum_over_ranks(flat).tolist()
        losses, (loss, tokens, flops) = values[:-3], values[-3:]
        loss /= self._ranks.world_size
        waited, found = zip(*gather(self._ranks, (self._waited_s, self._quarantine.take_new())), strict=True)
        new = self._quarantine.merge(found)
        if self._ranks.is_main:
            for line in told(new):
                print(line, flush=True)
        damaged = self._quarantine.counts()
        tflops = flops / seconds / 1e12 / self._ranks.world_size
        finite = math.isfinite(loss) and (grad_norm is None or math.isfinite(grad_norm))
        record = {
            "step": done,
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": lr,
            "tokens_per_s": tokens / seconds,
            "tflops_per_rank": tflops,
            "mfu": tflops / self.peak_tflops if self.peak_tflops else None,
            "data_wait_share": max(waited) / seconds,
            "seconds": seconds,
            "quarantined": sum(damaged.values()),
            "finite": finite,
        }
        if self._ranks.device.type == "cuda":
            record["peak_memory_gib"] = torch.cuda.max_memory_allocated(self._ranks.device) / 2**30
        for number, family in enumerate(self._families):
            total, count = losses[2 * number : 2 * number + 2]
            if count:
                record[f"loss/{family}"] = total / count
        record |= {f"quarantined/{family}": count for family, count in damaged.items()}
        self._reset()
        return record
