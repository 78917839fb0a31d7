"""Rollouts from a checkpoint, or from a trivial predictor, as a stream of frames with guards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ups_scale.errors import DataError
from ups_scale.model.places import Places
from ups_scale.physics.families import FamilySpec
from ups_scale.rollout.guards import Guards

# Dimensions: b trajectory, t frame, c field, x space axes or points, p parameter.

DTYPES = (torch.float32, torch.bfloat16)


class Predictor(Protocol):
    """What a rollout needs of a `model.simulator.Simulator`, and `rollout.trivial` has too."""

    @property
    def specs(self) -> Mapping[str, FamilySpec]: ...

    @property
    def context_frames(self) -> int: ...

    def frames(
        self,
        context_btcx: Tensor,
        family: str,
        parameters_bp: Tensor,
        dt_bt: Tensor,
        horizon: int,
        mask_btcx: Tensor | None = None,
        *,
        at: Places | None = None,
        steps: Collection[int] | None = None,
        guard: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[int, Tensor]]: ...


def rollout(
    model: Predictor,
    context_btcx: Tensor,
    family: str,
    parameters_bp: Tensor,
    dt_bt: Tensor,
    horizon: int,
    *,
    mask_btcx: Tensor | None = None,
    guards: Guards | None = None,
    steps: Collection[int] | None = None,
    at: Places | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[int, Tensor]]:
    """(step, frame) one by one, each frame (B, C, *grid) float32 in physical units, on the model's device.

    Memory doesn't grow with the horizon: each frame is gone once the caller lets go of it. No gradients. The model is
    used in the mode it is in; `from_pretrained` gives it in evaluation mode.

    Args:
        context_btcx: (B, T, C, *grid) float32 given frames in physical units; finite.
        family: the model's name of it.
        parameters_bp: (B, P) float32, NaN where not stated.
        dt_bt: (B, N) float32, times from each frame to the next in s, first of the given frames. Beyond its end the
            last stated time goes on, and the family's usual one where none is stated: right for regular data.
        mask_btcx: (B, T, C, *grid) bool, where the given frames have a value; None: everywhere.
        guards: act on every frame that is decoded; a field rollout goes on from what they leave.
        steps: which of the frames 1 to `horizon` to give, in increasing order (all by default).
        at: where the fields are to be given, as of `Simulator.forward`; not together with guards.
        dtype: bfloat16 runs the model under autocast.

    Raises:
        DataError: the family or a shape isn't the model's, or the request doesn't fit; before the first frame.
    """
    if family not in model.specs:
        raise DataError(f"the model was not trained on family {family!r}; it knows {', '.join(sorted(model.specs))}")
    if dtype not in DTYPES:
        raise DataError(f"dtype {dtype}: a rollout runs in torch.float32 or torch.bfloat16")
    device = _device_of(model, context_btcx)
    context_btcx, parameters_bp, dt_bt = (given.to(device) for given in (context_btcx, parameters_bp, dt_bt))
    mask_btcx = None if mask_btcx is None else mask_btcx.to(device)
    dt_bt = continued(dt_bt, context_btcx.shape[1] + horizon - 1, model.specs[family])
    guard = None
    if guards is not None:
        last_mask_bcx = None if mask_btcx is None else mask_btcx[:, -1]
        guard = guards.start(model.specs[family], context_btcx[:, -1], last_mask_bcx)
    with torch.no_grad():
        frames = model.frames(
            context_btcx, family, parameters_bp, dt_bt, horizon, mask_btcx, at=at, steps=steps, guard=guard
        )
    return _stream(frames, device, dtype)


def continued(dt_bt: Tensor, num_times: int, spec: FamilySpec) -> Tensor:
    """(B, N) with at least `num_times` columns: the last time goes on, or the family's if there is none."""
    if dt_bt.ndim != 2 or dt_bt.shape[1] >= num_times:
        return dt_bt
    last_b1 = dt_bt[:, -1:] if dt_bt.shape[1] else dt_bt.new_full((len(dt_bt), 1), spec.dt)
    return torch.cat([dt_bt, last_b1.expand(-1, num_times - dt_bt.shape[1])], dim=1)


def _stream(
    frames: Iterator[tuple[int, Tensor]], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[int, Tensor]]:
    # The contexts are around each step alone: around a `yield` they would be the caller's too.
    while True:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = next(frames, None)
        if found is None:
            return
        yield found


def _device_of(model: Predictor, given: Tensor) -> torch.device:
    return next(model.parameters(), given).device if isinstance(model, nn.Module) else given.device
