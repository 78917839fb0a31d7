"""Floating-point operations of the model, counted by running it on the meta device, and what devices can do."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from ups_scale.model.simulator import Simulator

BACKWARD_FACTOR = 2  # the gradients of a matrix product are two matrix products

# Dense bf16 peak in TFLOP/s by the start of the name that torch reports, from the vendors' data sheets (SXM parts).
PEAK_BF16_TFLOPS = {
    "NVIDIA H200": 989.0,
    "NVIDIA H100": 989.0,
    "NVIDIA A100": 312.0,
}


def forward_flops(meta_model: Simulator, family: str) -> int:
    """FLOPs (a multiply-add counts two) of predicting one frame of one sample of `family`.

    `meta_model` lies on the meta device, so nothing is computed or allocated.
    """
    spec = meta_model.specs[family]
    with torch.device("meta"):
        context = torch.empty(1, meta_model.context_frames, len(spec.fields), *spec.grid)
        parameters, dt_bt = torch.empty(1, len(spec.parameters)), torch.empty(1, meta_model.context_frames)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta_model(context, family, parameters, dt_bt, 1)
    return counter.get_total_flops()


def training_flops(meta_model: Simulator, family: str) -> int:
    """FLOPs of the forward and backward pass over one predicted frame of one sample; recomputation is not counted, as
    is usual for model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B)."""
    return (1 + BACKWARD_FACTOR) * forward_flops(meta_model, family)


def peak_tflops(device: torch.device) -> float | None:
    """The peak that MFU is measured against; None where none is known (CPUs, other GPUs): then there is no MFU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    matches = [peak for known, peak in PEAK_BF16_TFLOPS.items() if name.startswith(known)]
    return matches[0] if matches else None
