"""`FieldBatch`: what flows from the reader to the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ups_scale.errors import DataError

# Dimensions: b sample, t frame, c field, x all space axes of the grid, p parameter.


@dataclass(frozen=True)
class FieldBatch:
    """Windows of trajectories of one family, in physical units.

    Attributes:
        family: name of the family; all samples share it, and so its fields and grid.
        u_btcx: (B, T, C, *grid) float32, the fields' values, each field in its own unit; finite.
        parameters_bp: (B, P) float32, the family's parameters in the order of its `FamilySpec`; NaN where not stated.
        dt_bt: (B, T - 1) float32, time from each frame to the next in s; NaN if the family is steady.
        keys: (B,) names of the trajectories.
        mask_btcx: (B, T, C, *grid) bool, True where there is a value (elsewhere u_btcx is the field's mean over the
            training data); None where there is one everywhere.
    """

    family: str
    u_btcx: Tensor
    parameters_bp: Tensor
    dt_bt: Tensor
    keys: tuple[str, ...]
    mask_btcx: Tensor | None = None

    def __post_init__(self) -> None:
        if self.u_btcx.ndim < 4:
            raise DataError(
                f"batch of {self.family}: u_btcx needs axes (b, t, c, x...), has {tuple(self.u_btcx.shape)}"
            )
        batch = self.u_btcx.shape[0]
        for name, size in (
            ("parameters_bp", self.parameters_bp.shape[0]),
            ("dt_bt", self.dt_bt.shape[0]),
            ("keys", len(self.keys)),
        ):
            if size != batch:
                raise DataError(f"batch of {self.family}: u_btcx has {batch} samples but {name} has {size}")
        if self.dt_bt.ndim != 2 or self.dt_bt.shape[1] != self.u_btcx.shape[1] - 1:
            raise DataError(
                f"batch of {self.family}: dt_bt has shape {tuple(self.dt_bt.shape)}; u_btcx of {self.u_btcx.shape[1]} "
                f"frames needs ({batch}, {self.u_btcx.shape[1] - 1})"
            )
        if self.mask_btcx is not None and self.mask_btcx.shape != self.u_btcx.shape:
            raise DataError(
                f"batch of {self.family}: mask_btcx has shape {tuple(self.mask_btcx.shape)}, u_btcx "
                f"{tuple(self.u_btcx.shape)}"
            )

    def to(self, device: torch.device | str) -> FieldBatch:
        """The same batch with its tensors on `device`; asynchronous where they lie in pinned memory."""
        return replace(
            self,
            u_btcx=self.u_btcx.to(device, non_blocking=True),
            parameters_bp=self.parameters_bp.to(device, non_blocking=True),
            dt_bt=self.dt_bt.to(device, non_blocking=True),
            mask_btcx=None if self.mask_btcx is None else self.mask_btcx.to(device, non_blocking=True),
        )
