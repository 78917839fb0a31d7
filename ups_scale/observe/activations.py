"""Activation memory: the bytes that autograd keeps for the backward pass, counted on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ups_scale.engine.remat import KEPT, block_runner
from ups_scale.model.simulator import Simulator
from ups_scale.model.windows import Windows
from ups_scale.observe.flops import block_kind, blocks_run_by, meta_inputs


@dataclass(frozen=True)
class Activations:
    """Bytes kept for the backward pass of one predicted frame of B samples: B * per_sample + shared.

    `shared` is what does not grow with the batch: mostly the float32 copies of bf16 weights of layers that compute in
    float32.
    """

    per_sample: int
    shared: int


@dataclass(frozen=True)
class _Block:
    """What a block of a kind keeps: bytes of its own, and which of its inputs."""

    own_bytes: int
    inputs: tuple[int, ...]


class Kept:
    """Storages that are kept, each counted once; those of `besides` are not."""

    def __init__(self, besides: Collection[Tensor] = ()) -> None:
        # Held, so that no other storage takes the place of one that was counted.
        self._besides = dict(map(_storage, besides))
        self._storages: dict[int, torch.UntypedStorage] = {}
        self.more_bytes = 0
        """Of storages that were counted elsewhere."""

    def add(self, tensor: Tensor) -> None:
        key, storage = _storage(tensor)
        if key not in self._besides:
            self._storages[key] = storage

    def drop(self, tensors: Collection[Tensor]) -> None:
        for tensor in tensors:
            self._storages.pop(_storage(tensor)[0], None)

    def __contains__(self, tensor: Tensor) -> bool:
        return _storage(tensor)[0] in self._storages

    @property
    def num_bytes(self) -> int:
        return self.more_bytes + sum(storage.nbytes() for storage in self._storages.values())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, what autograd saves is added."""

        def pack(tensor: Tensor) -> Tensor:
            self.add(tensor)
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


def activations(
    meta_model: Simulator, family: str, checkpointing: str, known: dict[Hashable, _Block] | None = None
) -> Activations:
    """What is kept for one predicted frame of `family` under `engine.activation_checkpointing`, in training.

    `meta_model` lies on the meta device with weights of the type that it trains in. Attention is counted as the fused
    kernels of GPUs keep it, without the matrix of weights. Weights, gradients and what only lives for a moment are not
    counted. One block of each kind is run; `known` keeps what they keep for further families of the same model and
    the same checkpointing.
    """
    known = {} if known is None else known
    # One sample alone is a case of its own: what all samples share may then have no copies.
    two, three = (_num_bytes(meta_model, family, checkpointing, batch, known) for batch in (2, 3))
    return Activations(three - two, 3 * two - 2 * three)


def _num_bytes(model: Simulator, family: str, checkpointing: str, batch: int, known: dict[Hashable, _Block]) -> int:
    weights = list(model.parameters())
    kept = Kept(weights)
    runner = block_runner(checkpointing)

    def run(block: nn.Module, x_bsld: Tensor, condition_bd: Tensor, windows: Windows) -> Tensor:
        inputs = [x_bsld, condition_bd, windows.cos, windows.sin, *([] if windows.mask is None else [windows.mask])]
        kind = block_kind(block, x_bsld, windows)
        found, out_bsld = known.get(kind), None
        if found is None:
            found, out_bsld = _measured(runner, block, (x_bsld, condition_bd, windows), inputs, checkpointing)
            known[kind] = found
        kept.more_bytes += found.own_bytes
        for number in found.inputs:
            kept.add(inputs[number])
        return _StandIn.apply(x_bsld) if out_bsld is None else out_bsld

    training = model.training
    model.train()
    try:
        with blocks_run_by(model, runner if model.baseline else run), FusedAttention(), kept.listening():
            result = model(*meta_inputs(model, family, batch))
    finally:
        model.train(training)
    assert result.requires_grad
    return kept.num_bytes


def _measured(
    runner: Callable[..., Tensor], block: nn.Module, arguments: tuple, inputs: list[Tensor], checkpointing: str
) -> tuple[_Block, Tensor]:
    kept = Kept(list(block.parameters()))
    # Selective checkpointing keeps results where autograd's hooks don't see them.
    results = _Results(kept) if checkpointing == "selective" else nullcontext()
    with kept.listening(), results:
        out_bsld = runner(block, *arguments)
    numbers = tuple(number for number, tensor in enumerate(inputs) if tensor in kept)
    kept.drop(inputs)
    return _Block(kept.num_bytes, numbers), out_bsld


def _storage(tensor: Tensor) -> tuple[int, torch.UntypedStorage]:
    storage = tensor.untyped_storage()
    return storage._cdata, storage


class _StandIn(torch.autograd.Function):
    """What a block gives, without running it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.empty_like(x)


class _Results(TorchDispatchMode):
    """Adds the results of the operations that selective checkpointing keeps."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self._kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in KEPT:
            for tensor in [out] if isinstance(out, Tensor) else out:
                if isinstance(tensor, Tensor):
                    self._kept.add(tensor)
        return out


class FusedAttention(TorchFunctionMode):
    """Within it, attention on the meta device is a GPU's fused kernel; else it would be a chain of simple operations,
    which keep the matrix of attention weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _fused(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    # The kernel adds the mask to the logits, in their type.
    bias = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
    bias = bias.expand(*q.shape[:-1], k.shape[-2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, compute_log_sumexp=True)[0]
