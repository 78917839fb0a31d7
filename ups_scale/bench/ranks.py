"""Whether two processes together do twice what one does."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ups_scale.bench.peers import Method
from ups_scale.bench.rounds import Figure, figure

SECONDS = 0.5
WAIT_S = 300


def together(make: Callable[..., Method], arguments: tuple[Any, ...], rounds: int) -> Figure:
    """Items per second of two processes at once / those of one alone, in turns.

    `make(*arguments)`, called in each process, gives the method that does some work and returns how much.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for _ in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, make, arguments), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for pipe in pipes:
            _receive(pipe)
        ratios = []
        for number in range(rounds):
            alone = _rates([pipes[number % 2]])
            both = _rates(pipes)
            ratios.append(sum(both) / alone[0])
        return figure(ratios)
    finally:
        for pipe in pipes:
            pipe.close()  # ends its process
        for process in processes:
            process.join(10)


def _rates(pipes: list[Connection]) -> list[float]:
    for pipe in pipes:
        pipe.send(SECONDS)
    return [_receive(pipe) for pipe in pipes]


def _receive(pipe: Connection) -> float:
    if not pipe.poll(WAIT_S):
        raise TimeoutError(f"a process gave no figure in {WAIT_S} s")
    return float(pipe.recv())


def _work(pipe: Connection, make: Callable[..., Method], arguments: tuple[Any, ...]) -> None:
    method = make(*arguments)
    method()
    pipe.send(0.0)
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        method()  # the caches are this one's again
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            count += method()
        pipe.send(count / (time.perf_counter() - start))
