"""Trajectories of a family, batch by batch: a trajectory depends on (seed, family, split, index) and nothing else.

Out-of-distribution splits start as the test split does, number by number, and change one thing: "ood_regime" the range
of a parameter, "ood_boundary" the kind of boundary, "ood_geometry" the shape of the obstacles, "ood_resolution" the
grid.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ups_scale.errors import DataError
from ups_scale.solvers.scattered import scatter
from ups_scale.solvers.setups import Case, Problem, Range, Setup, setup, stack_parameters
from ups_scale.solvers.setups.case import COARSEST, FINEST

CUDA_VALUES = 2**22
"""Of a batch's state: as many trajectories as fill a GPU."""
SPLITS = ("train", "valid", "test")
OOD_SPLITS = ("ood_regime", "ood_boundary", "ood_geometry", "ood_resolution")
MAX_POINTS = 2**20


@dataclass(frozen=True)
class Request:
    """What is asked of a family's setup; None takes what is usual for it.

    Attributes:
        name: of the setup.
        num_frames: of a trajectory.
        grid: points per axis of the frames; with `points` of what they are sampled from, at the least.
        boundary: kind on all sides.
        ranges: (low, high) that are drawn from, by the name of the parameter or quantity.
        points: number of scattered points at which the fields are sampled; None keeps the grid.
        stride: every so many-th frame is kept.
        seed: of everything that is drawn.
    """

    name: str
    num_frames: int | None = None
    grid: tuple[int, ...] | None = None
    boundary: str | None = None
    ranges: Mapping[str, tuple[float, float]] | None = None
    points: int | None = None
    stride: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Trajectories:
    """Some solutions of one family: `fields_btcx` (B, T, C, *grid) float32, NaN inside obstacles, or (B, T, C, P) at
    `positions_bdp` (B, D, P); `parameters` {name: (B,) float64}."""

    fields_btcx: np.ndarray
    parameters: dict[str, np.ndarray]
    positions_bdp: np.ndarray | None = None


def resolve(request: Request, split: str) -> tuple[Setup, Case]:
    """The setup, and what of it a split of the request takes.

    Raises:
        DataError: unknown family, split, boundary or parameter; a range that the solver does not resolve, a grid that
            it can't give, too few frames, or an out-of-distribution split that the family does not have.
    """
    chosen = setup(request.name)
    name = request.name
    ranges = dict(chosen.ranges)
    for quantity, (low, high) in (request.ranges or {}).items():
        ranges[quantity] = _range(chosen, quantity, low, high)
    grid = _grid(chosen, request.grid or chosen.grid)
    case = Case(
        # Points are sampled from what is solved, not from what would be shown of it.
        grid=grid if request.points is None else (max(chosen.finest, grid[0]),) * len(grid),
        num_frames=2 if chosen.family.steady else request.num_frames or chosen.num_frames,
        boundary=request.boundary or chosen.boundaries[0],
        ranges=ranges,
        shapes=chosen.shapes,
        finest=chosen.finest,
    )
    if case.boundary not in chosen.boundaries:
        raise DataError(f"{name}: boundary {case.boundary!r}; its solver has {', '.join(chosen.boundaries)}")
    if case.num_frames < 2:
        raise DataError(f"{name}: frames {case.num_frames}: must be at least 2, the first frame and one to predict")
    if request.points is not None and (chosen.family.dimensions != 2 or not 1 <= request.points <= MAX_POINTS):
        raise DataError(f"{name}: points {request.points}: 1 to {MAX_POINTS}, and of 2D families only")
    if split in SPLITS:
        return chosen, case
    others = other_cases(chosen, case, on_grid=request.points is None)
    if split not in others:
        raise DataError(f"{name}: no split {split!r}; it has {', '.join((*SPLITS, *others))}")
    if split == "ood_regime":
        for quantity, (low, high) in chosen.other_ranges.items():
            own = case.ranges[quantity]
            if own.low < high and low < own.high:
                raise DataError(
                    f"{name}: {quantity} is drawn from {own.low:g} to {own.high:g}, and for ood_regime from {low:g} to "
                    f"{high:g}, which is not out of it; leave that split out, or draw {quantity} otherwise"
                )
    return chosen, others[split]


def other_cases(chosen: Setup, case: Case, on_grid: bool = True) -> dict[str, Case]:
    """The out-of-distribution splits that a setup has, and what they take; points have no resolution."""
    found = {}
    if chosen.other_ranges:
        drawn = {
            name: replace(chosen.ranges[name], low=low, high=high) for name, (low, high) in chosen.other_ranges.items()
        }
        finest = max(chosen.finest, chosen.finest_other)
        found["ood_regime"] = replace(case, ranges={**case.ranges, **drawn}, finest=finest)
    if chosen.other_boundary and chosen.other_boundary != case.boundary:
        found["ood_boundary"] = replace(case, boundary=chosen.other_boundary)
    if chosen.other_shapes:
        found["ood_geometry"] = replace(case, shapes=chosen.other_shapes)
    if on_grid and chosen.points != "first" and case.grid[0] * 2 <= FINEST[chosen.family.dimensions]:
        found["ood_resolution"] = replace(case, grid=tuple(2 * size for size in case.grid))
    return found


def _range(chosen: Setup, quantity: str, low: float, high: float) -> Range:
    if quantity not in chosen.ranges:
        raise DataError(
            f"{chosen.name}: nothing called {quantity!r} is drawn; can be set: {', '.join(chosen.ranges) or 'nothing'}"
        )
    least, most = chosen.limits[quantity]
    usual = chosen.ranges[quantity]
    if high < low:
        raise DataError(f"{chosen.name}: {quantity} from {low:g} to {high:g}: the low is above the high")
    if not least <= low <= high <= most:
        raise DataError(
            f"{chosen.name}: {quantity} from {low:g} to {high:g}; its solver is stable and resolves the solution for "
            f"{quantity} from {least:g} to {most:g}" + (" (of either sign)" if usual.scale == "signed" else "")
        )
    if usual.scale == "log" and low <= 0 and low < high:
        raise DataError(
            f"{chosen.name}: {quantity} from {low:g} to {high:g} is drawn by its logarithm; give a low above 0, or one "
            "value"
        )
    return replace(usual, low=low, high=high)


def _grid(chosen: Setup, grid: Sequence[int]) -> tuple[int, ...]:
    dimensions = chosen.family.dimensions
    most = chosen.finest if chosen.points == "first" else FINEST[dimensions]
    if len(grid) != dimensions or len(set(grid)) > 1 or not COARSEST <= grid[0] <= most or grid[0] & (grid[0] - 1):
        usual = " ".join(map(str, chosen.grid))
        raise DataError(
            f"{chosen.name}: grid {' '.join(map(str, grid))}; give {dimensions} equal numbers, a power of two from "
            f"{COARSEST} to {most} (usual: {usual})"
        )
    return tuple(grid)


def generate_family(
    name: str | Request,
    num_trajectories: int,
    *,
    split: str = "train",
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    first: int = 0,
) -> Trajectories:
    """Trajectories `first` .. `first` + `num_trajectories` - 1 of a split at once; arguments as `generate_batches`."""
    batches = list(
        generate_batches(name, num_trajectories, split=split, device=device, batch_size=batch_size, first=first)
    )
    positions = [batch.positions_bdp for batch in batches if batch.positions_bdp is not None]
    return Trajectories(
        fields_btcx=np.concatenate([batch.fields_btcx for batch in batches]),
        parameters={key: np.concatenate([batch.parameters[key] for batch in batches]) for key in batches[0].parameters},
        positions_bdp=np.concatenate(positions) if positions else None,
    )


def generate_batches(
    name: str | Request,
    num_trajectories: int,
    *,
    split: str = "train",
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    first: int = 0,
) -> Iterator[Trajectories]:
    """The trajectories in order, `batch_size` at a time (default: what suits the family and device).

    Solved in float64, given in float32. Small batches and one thread are fastest on a CPU.

    Raises:
        DataError: as `resolve`; fewer than 1 trajectory, a negative seed, a CUDA device where there is none, or a
            solution that is not finite.
    """
    request = Request(name) if isinstance(name, str) else name
    check_request(num_trajectories, request.seed, device)
    chosen, case = resolve(request, split)
    size = batch_size or (chosen.cpu_batch if torch.device(device).type == "cpu" else _cuda_batch(chosen, case))
    return _batches(request, chosen, case, split, range(first, first + num_trajectories), device, size)


def _cuda_batch(chosen: Setup, case: Case) -> int:
    return max(1, CUDA_VALUES // (len(chosen.family.fields) * chosen.internal(case) ** chosen.family.dimensions))


def _batches(
    request: Request,
    chosen: Setup,
    case: Case,
    split: str,
    wanted: range,
    device: torch.device | str,
    size: int,
) -> Iterator[Trajectories]:
    stream = "test" if split in OOD_SPLITS else split
    stride = 1 if chosen.family.steady else request.stride
    for begin in range(wanted.start, wanted.stop, size):
        indices = range(begin, min(begin + size, wanted.stop))
        generators = [generator(request.seed, request.name, stream, index) for index in indices]
        drawn = [chosen.draw(rng, case, chosen.internal(case)) for rng in generators]
        solids = [one.solid_x for one in drawn if one.solid_x is not None]
        problem = Problem(
            replace(case, num_frames=(case.num_frames - 1) * stride + 1),
            stack_parameters([one.parameters for one in drawn], device),
            torch.as_tensor(np.stack([one.initial_cx for one in drawn]), device=device),
            torch.as_tensor(np.stack(solids), device=device) if solids else None,
        )
        try:
            fields_btcx = chosen.solve(problem)[:, ::stride]
        except ArithmeticError as error:
            raise DataError(_unsolved(request, split, indices[0], str(error))) from error
        finite_b = fields_btcx.isfinite().flatten(1).all(1)
        if not finite_b.all():
            raise DataError(_unsolved(request, split, indices[int(finite_b.int().argmin())], "it is not finite"))
        if problem.solid_bx is not None:
            fields_btcx = fields_btcx.masked_fill(problem.solid_bx[:, None, None], torch.nan)
        fields, positions = fields_btcx.float().cpu().numpy(), None
        if request.points is not None:
            fields, positions = scatter(fields, chosen, case, request.points, generators)
        yield Trajectories(fields, {key: value.cpu().numpy() for key, value in problem.parameters.items()}, positions)


def _unsolved(request: Request, split: str, index: int, what: str) -> str:
    return (
        f"{request.name}: the solution of {split} trajectory {index}, seed {request.seed}, was not found ({what}); try "
        "another --seed, and report this one"
    )


def generator(seed: int, family: str, split: str, index: int) -> np.random.Generator:
    """The random numbers of one trajectory."""
    return np.random.default_rng([seed, zlib.crc32(family.encode()), zlib.crc32(split.encode()), index])


def check_request(num_trajectories: int, seed: int, device: torch.device | str) -> None:
    """Raises `DataError` for counts, seeds and devices that can't be served."""
    if num_trajectories < 1:
        raise DataError(f"--trajectories {num_trajectories}: must be at least 1")
    if seed < 0:
        raise DataError(f"--seed {seed}: must be 0 or more")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: this torch sees no CUDA device; use --device cpu")
