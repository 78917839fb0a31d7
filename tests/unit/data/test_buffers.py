"""Memory that is used again, and never while anybody can still see it."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ups_scale.data import buffers
from ups_scale.data.buffers import empty_windows

SHAPE = (2, 3, 4, (8, 8))
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="torch's pool of pinned memory takes its place")


@pytest.fixture(autouse=True)
def no_idle_blocks():
    gc.collect()
    buffers._idle.clear()


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_that_nobody_holds_is_used_again():
    first = empty_windows(*SHAPE)
    assert (first.shape, first.dtype) == ((2, 3, 4, 8, 8), np.float32)
    assert first.flags.c_contiguous
    assert first.flags.writeable
    place = address(first)
    del first
    assert address(empty_windows(*SHAPE)) == place
    assert address(empty_windows(2, 3, 3, (8, 8))) == place  # a somewhat smaller one too
    assert address(empty_windows(1, 1, 1, (8, 8))) != place  # a far smaller one does not hold on to it


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array[1, 2],
        lambda array: array.reshape(-1)[5:9].reshape(2, 2),
        lambda array: torch.from_numpy(array).transpose(1, 2)[0],
        lambda array: torch.from_numpy(array[1]).numpy(),
        lambda array: memoryview(array).cast("B"),
        lambda array: [array],
    ],
    ids=["row", "view of a view", "tensor", "tensor and back", "memoryview", "list"],
)
def test_memory_that_somebody_holds_is_not(keep):
    array = empty_windows(*SHAPE)
    array[:] = 1
    place, kept = address(array), keep(array)
    del array
    gc.collect()
    other = empty_windows(*SHAPE)
    other[:] = 2
    assert address(other) != place
    assert np.all(np.asarray(kept if not isinstance(kept, memoryview) else kept.cast("f")) == 1)
    del kept
    gc.collect()
    assert address(empty_windows(*SHAPE)) == place


def test_a_batch_in_a_cycle_is_freed_by_the_collector():
    array = empty_windows(*SHAPE)
    place, cycle = address(array), [array]
    cycle.append(cycle)
    del array, cycle
    gc.collect()
    assert address(empty_windows(*SHAPE)) == place


def test_few_blocks_wait():
    kept = [empty_windows(*SHAPE) for _ in range(3 * buffers.MAX_IDLE)]
    assert len({address(array) for array in kept}) == len(kept)
    kept.clear()
    gc.collect()
    assert len(buffers._idle) == buffers.MAX_IDLE


def test_no_windows_need_no_memory():
    assert empty_windows(0, 3, 4, (8, 8)).shape == (0, 3, 4, 8, 8)


def test_threads_never_share_memory():
    start = threading.Barrier(8)

    def take(number):
        rng, held = np.random.default_rng(number), []
        start.wait(10)
        for turn in range(300):
            array = empty_windows(int(rng.integers(1, 4)), 3, 4, (8, 8))
            array[:] = mark = 1000 * number + turn
            held.append((torch.from_numpy(array), mark))
            if len(held) > 3:
                tensor, expected = held.pop(int(rng.integers(len(held))))
                if not bool((tensor == expected).all()):
                    return False
        return all(bool((tensor == expected).all()) for tensor, expected in held)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(take, range(8)))
