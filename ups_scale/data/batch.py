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
        u_btcx: (B, T, C, *grid) float32, the fields' values, each field in its own unit.
        parameters_bp: (B, P) float32, the family's parameters in the order of its `FamilySpec`; NaN where not stated.
        dt_b: (B,) float32, time between frames in s.
        keys: (B,) names of the trajectories.
    """

    family: str
    u_btcx: Tensor
    parameters_bp: Tensor
    dt_b: Tensor
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.u_btcx.ndim < 4:
            raise DataError(
                f"batch of {self.family}: u_btcx needs axes (b, t, c, x...), has {tuple(self.u_btcx.shape)}"
            )
        batch = self.u_btcx.shape[0]
        for name, size in (
            ("parameters_bp", self.parameters_bp.shape[0]),
            ("dt_b", self.dt_b.shape[0]),
            ("keys", len(self.keys)),
        ):
            if size != batch:
                raise DataError(f"batch of {self.family}: u_btcx has {batch} samples but {name} has {size}")

    def to(self, device: torch.device | str) -> FieldBatch:
        """The same batch with its tensors on `device`; asynchronous where they lie in pinned memory."""
        return replace(
            self,
            u_btcx=self.u_btcx.to(device, non_blocking=True),
            parameters_bp=self.parameters_bp.to(device, non_blocking=True),
            dt_b=self.dt_b.to(device, non_blocking=True),
        )
