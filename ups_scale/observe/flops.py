"""Floating-point operations of the model, counted by running it on the meta device, and what devices can do."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ups_scale.model.simulator import Simulator
from ups_scale.model.windows import Windows

BACKWARD_FACTOR = 2  # the gradients of a matrix product are two matrix products

# Dense bf16 peak in TFLOP/s by the start of the name that torch reports, from the vendors' data sheets (SXM parts).
PEAK_BF16_TFLOPS = {
    "NVIDIA H200": 989.0,
    "NVIDIA H100": 989.0,
    "NVIDIA A100": 312.0,
}


def _transform_flops(x: Tensor, axes: Sequence[int], *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """The usual count for a Fourier transform of n values: 5 n log2(n), half of it where one side is real."""
    larger = x if x.numel() >= out_val.numel() else out_val
    length = math.prod(larger.shape[axis] for axis in axes)
    real = not (x.is_complex() and out_val.is_complex())
    return int(5 * larger.numel() * math.log2(max(length, 2)) / (2 if real else 1))


def _product_flops(x: Tensor, y: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """A complex multiply-add is four real ones."""
    return 2 * out_val.numel() * x.shape[-1] * (4 if x.is_complex() else 1)


for _count in (_transform_flops, _product_flops):
    setattr(_count, "_get_raw", True)  # noqa: B010  # torch then hands over tensors, not shapes
COMPLEX_FLOPS = {
    torch.ops.aten._fft_r2c: _transform_flops,
    torch.ops.aten._fft_c2r: _transform_flops,
    torch.ops.aten._fft_c2c: _transform_flops,
    torch.ops.aten.bmm: _product_flops,
    torch.ops.aten.mm: _product_flops,
}


def forward_flops(meta_model: Simulator, family: str, known: dict[Hashable, int] | None = None) -> int:
    """FLOPs (a multiply-add counts two) of predicting one frame of one sample of `family`.

    `meta_model` lies on the meta device, so nothing is computed or allocated. Blocks of a kind cost the same, so one of
    each is run; `known` keeps what they cost for further families of the same model.
    """
    known = {} if known is None else known
    repeated = 0

    def run(block: nn.Module, x_bsld: Tensor, condition_bd: Tensor, windows: Windows) -> Tensor:
        nonlocal repeated
        kind = block_kind(block, x_bsld, windows)
        if kind in known:
            repeated += known[kind]
            return torch.empty_like(x_bsld)
        before = counter.get_total_flops()
        out_bsld = block(x_bsld, condition_bd, windows)
        known[kind] = counter.get_total_flops() - before
        return out_bsld

    # A network of other people's is run whole.
    runner = nullcontext() if meta_model.baseline else blocks_run_by(meta_model, run)
    with torch.no_grad(), runner, FlopCounterMode(display=False, custom_mapping=COMPLEX_FLOPS) as counter:
        meta_model(*meta_inputs(meta_model, family, 1))
    return counter.get_total_flops() + repeated


def training_flops(meta_model: Simulator, family: str, known: dict[Hashable, int] | None = None) -> int:
    """FLOPs of the forward and backward pass over one predicted frame of one sample; recomputation is not counted, as
    is usual for model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B)."""
    return (1 + BACKWARD_FACTOR) * forward_flops(meta_model, family, known)


def meta_inputs(meta_model: Simulator, family: str, batch: int) -> tuple[Any, ...]:
    """What `Simulator.forward` takes, for `batch` samples of `family` and one frame to predict, on the meta device."""
    spec, frames = meta_model.specs[family], meta_model.context_frames
    with torch.device("meta"):
        context_btcx = torch.empty(batch, frames, len(spec.fields), *spec.grid)
        parameters_bp, dt_bt = torch.empty(batch, len(spec.parameters)), torch.empty(batch, frames)
        mask_btcx = torch.empty_like(context_btcx, dtype=torch.bool) if spec.masked else None
    return context_btcx, family, parameters_bp, dt_bt, 1, False, mask_btcx


def block_kind(block: nn.Module, x_bsld: Tensor, windows: Windows) -> Hashable:
    """What a block's cost depends on; the same for blocks that cost the same."""
    shapes = tuple(parameter.shape for parameter in block.parameters())
    return shapes, block.attention.num_heads, block.drop_path > 0, x_bsld.shape, windows  # type: ignore[union-attr, operator]


@contextmanager
def blocks_run_by(model: Simulator, run: Callable[..., Tensor]) -> Iterator[None]:
    """Within it, the operator calls `run(block, *inputs)` for each of its blocks."""
    before = model.operator.run_block
    model.operator.run_block = run
    try:
        yield
    finally:
        model.operator.run_block = before


def peak_tflops(device: torch.device) -> float | None:
    """The peak that MFU is measured against; None where none is known (CPUs, other GPUs): then there is no MFU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    matches = [peak for known, peak in PEAK_BF16_TFLOPS.items() if name.startswith(known)]
    return matches[0] if matches else None
