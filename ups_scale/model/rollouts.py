"""Rollouts as streams: one frame after another, of which only what the next one needs is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ups_scale.model import geometry as geometries
from ups_scale.model.places import Asked
from ups_scale.model.points import Graph
from ups_scale.model.queries import Queries
from ups_scale.model.scales import changed, per_field, renewed, replaced, scales
from ups_scale.model.window import Window
from ups_scale.physics.families import FamilySpec

if TYPE_CHECKING:
    from ups_scale.model.simulator import Simulator

# Dimensions: b sample, t context frame, c field, x space axes or points, p parameter, q asked point, s stream, l token,
# d width of a token or a condition.

Guard = Callable[[Tensor], Tensor]
"""Takes a predicted frame, (B, C, *X) in physical units, and returns the one to put in its place."""
Following = Callable[[Tensor, Tensor, Tensor, FamilySpec, Tensor | None], Tensor]
"""The frame after one: `scales.changed` or `scales.renewed`."""
Shift = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets in grid points, and the space axes, counted from 0, that fields are rolled along by them."""
RECONSTRUCTION = 0  # the step under which a latent rollout gives what the last context frame is reconstructed as


@dataclass(frozen=True)
class Rollout:
    """What a rollout keeps from its first frame to its last."""

    spec: FamilySpec
    parameters_bp: Tensor
    geometry: geometries.Geometry | None
    graph: Graph | None
    """Which points are near which, for the point encoder."""
    own: Queries | None
    """The input's own points, for the any-point decoder."""
    asked: Asked | None
    """Where else the fields are asked for."""

    def shown(self, u_bcx: Tensor) -> Tensor:
        """Fields as they are given to the caller: NaN where places asked for have no value."""
        if self.asked is None or self.asked.there is None:
            return u_bcx
        return torch.where(self.asked.there, u_bcx, math.nan)


def field_frames(
    model: Simulator,
    rollout: Rollout,
    window: Window,
    dt_bt: Tensor,
    horizon: int,
    wanted: Collection[int],
    detach_between: bool = False,
    guard: Guard | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """(step, frame) of the steps that are wanted, each frame from the fields of the `context_frames` frames before it:
    predicted ones, as the guard leaves them, included."""
    spec, context = rollout.spec, model.context_frames
    for step in range(1, horizon + 1):
        # The times between the frames of this step's window, and from the last of them to the next frame.
        times_bt = dt_bt[:, step - 1 : step - 1 + context]
        rms_bc, size_bc = scales(window.context_btcx, spec, times_bt, window.counted_btcx)
        following: Following = changed
        sizes = size_bc
        if model.target == "absolute":  # a solution is not of the size of the guess it starts from
            following, sizes = renewed, size_bc if spec.steady else rms_bc
        condition_bd = model._condition(rollout, times_bt[:, -1], rms_bc)
        shift = model._next_patches(spec, step) if rollout.asked is None else None
        moved = window if shift is None else window.rolled(*shift)
        z_bsld = model._advance(model._encode(rollout, moved, rms_bc), condition_bd, spec)
        change_bcx = model._decode(z_bsld, condition_bd, spec, rollout.own)
        if shift is not None:
            change_bcx = rolled_back(change_bcx, shift, axis=2)
        next_bcx = following(window.last_bcx, change_bcx, sizes, spec, window.last_mask_bcx)
        if guard is not None:
            next_bcx = guard(next_bcx)
        frame = next_bcx
        if step in wanted and rollout.asked is not None:
            change_bcq = model._decode(z_bsld, condition_bd, spec, rollout.asked.queries)
            frame = following(rollout.asked.interpolate(window.last_bcx), change_bcq, sizes, spec, None)
        window = window.slid(next_bcx.detach() if detach_between else next_bcx)
        if step in wanted:
            yield step, rollout.shown(frame)


def van_der_corput(number: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, ...: numbers in [0, 1), each far from those just before it."""
    found, part = 0.0, 0.5
    while number:
        found, part, number = found + part * (number & 1), part / 2, number >> 1
    return found


def rolled_back(u: Tensor, shift: Shift, axis: int) -> Tensor:
    """Undoes a roll of fields whose space begins at the dimension `axis`."""
    offsets, axes = shift
    return u.roll(tuple(-offset for offset in offsets), tuple(axis + number for number in axes))


def latent_frames(
    model: Simulator,
    rollout: Rollout,
    window: Window,
    dt_bt: Tensor,
    horizon: int,
    wanted: Collection[int],
    detach_between: bool = False,
    guard: Guard | None = None,
    reconstruct: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """(step, frame) of the steps that are wanted: encodes once, advances the latent state, decodes where asked, and
    guards what is decoded: frame k is u_0 + D(z_k) - D(z_0). If `reconstruct`, (RECONSTRUCTION, D(z_0) in the fields'
    units) comes last."""
    spec, context = rollout.spec, model.context_frames
    rms_bc, size_bc = scales(window.context_btcx, spec, dt_bt[:, :context], window.counted_btcx)
    if not spec.steady:  # a solution is not of the size of the guess it starts from
        size_bc = rms_bc
    last_bcx, mask_bcx = window.last_bcx, window.last_mask_bcx
    where = rollout.own
    if rollout.asked is not None:
        last_bcx, mask_bcx, where = rollout.asked.interpolate(last_bcx), None, rollout.asked.queries
    z_bsld = model._encode(rollout, window, rms_bc)
    # What the fields decode to does not depend on the step: conditions without a time to the next frame.
    still_bd = model._condition(rollout, torch.full_like(dt_bt[:, 0], math.nan), rms_bc)
    anchor_bcx = model._decode(z_bsld, still_bd, spec, where)
    for step in range(1, horizon + 1):
        condition_bd = model._condition(rollout, dt_bt[:, context - 2 + step], rms_bc)
        z_bsld = z_bsld + model._advance(z_bsld, condition_bd, spec)
        if step in wanted:
            change_bcx = model._decode(z_bsld, still_bd, spec, where) - anchor_bcx
            frame = changed(last_bcx, change_bcx, size_bc, spec, mask_bcx)
            yield step, rollout.shown(frame if guard is None else guard(frame))
        if detach_between:
            z_bsld = z_bsld.detach()
    if reconstruct:
        reconstruction_bcx = replaced(last_bcx, anchor_bcx * per_field(size_bc, spec, anchor_bcx), spec)
        if horizon == 0:  # the operator takes part in every backward pass (see `idle_share`)
            reconstruction_bcx = reconstruction_bcx + 0.0 * model._advance(z_bsld, still_bd, spec).sum()
        yield RECONSTRUCTION, rollout.shown(reconstruction_bcx)
