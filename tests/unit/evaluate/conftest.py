"""Two small families, a reader of them, and modules with a simulator's signature."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from ups_scale.data.batch import FieldBatch
from ups_scale.evaluate.report import Subject
from ups_scale.evaluate.run import open_accelerator
from ups_scale.evaluate.suites import SUITES, settings
from ups_scale.evaluate.testset import TestSet
from ups_scale.physics.families import FamilySpec

NUM_FRAMES = 8


class Tensors:
    """Trajectories held in memory, (N, T, C, *X), with their masks; a steady family's two frames as a reader gives
    them."""

    def __init__(self, family, u_ntcx, mask_ntcx=None, steady=False):
        self.family, self.u_ntcx, self.mask_ntcx, self.steady = family, u_ntcx, mask_ntcx, steady

    @property
    def num_trajectories(self):
        return len(self.u_ntcx)

    def read(self, indices, first_frames, num_frames):
        frames = [
            [0] * (num_frames - 1) + [1] if self.steady else list(range(first, first + num_frames))
            for first in first_frames
        ]
        u, mask = (
            None if of is None else torch.stack([of[i][window] for i, window in zip(indices, frames, strict=True)])
            for of in (self.u_ntcx, self.mask_ntcx)
        )
        size = len(indices)
        keys = tuple(f"{self.family}-{i:06d}" for i in indices)
        dt = torch.full((size, num_frames - 1), math.nan if self.steady else 0.1)
        return FieldBatch(self.family, u, torch.zeros(size, 1), dt, keys, mask)

    def times_between(self, indices, num_frames):
        return torch.full((len(indices), num_frames - 1), math.nan if self.steady else 0.1)


class Stub:
    """A predictor with a simulator's interface: `predict` gives all frames at once."""

    context_frames = 2
    latent = False
    patches: ClassVar = {}
    moving_patches = frozenset()

    def __init__(self):
        self.specs = {}

    def frames(
        self, context_btcx, family, parameters_bp, dt_bt, horizon, mask_btcx=None, *, at=None, steps=None, guard=None
    ):
        assert at is None
        predicted_bhcx = self.predict(context_btcx, family, dt_bt, horizon, mask_btcx)
        for k in range(1, horizon + 1):
            if steps is None or k in steps:
                yield k, predicted_bhcx[:, k - 1] if guard is None else guard(predicted_bhcx[:, k - 1])

    def predict(self, context_btcx, family, dt_bt, horizon, mask_btcx):
        """Repeats the last given frame."""
        return context_btcx[:, -1:].repeat(1, horizon, *[1] * (context_btcx.dim() - 2))


class Linear(Stub):
    """Goes on with the last change, half of it: better than persistence on slow waves."""

    def predict(self, context_btcx, family, dt_bt, horizon, mask_btcx):
        steps = torch.arange(1, horizon + 1).reshape(1, -1, *[1] * (context_btcx.dim() - 2))
        return context_btcx[:, -1:] + 0.5 * steps * (context_btcx[:, -1:] - context_btcx[:, -2:-1])


class Halfway(Linear):
    """Goes half of the way from nothing to the solution of a steady family; elsewhere as `Linear`."""

    def predict(self, context_btcx, family, dt_bt, horizon, mask_btcx):
        if family != "darcy_2d":
            return super().predict(context_btcx, family, dt_bt, horizon, mask_btcx)
        assert horizon == 1
        assert dt_bt.isnan().all()
        given = context_btcx[:, -1:]
        return torch.stack([given[:, :, 0], (given[:, :, 0] + 1) / 2], dim=2)


class Diverging(Linear):
    """NaN from the third step on, for the waves that start high, and infinite once."""

    def predict(self, context_btcx, family, dt_bt, horizon, mask_btcx):
        u = super().predict(context_btcx, family, dt_bt, horizon, mask_btcx)
        if family == "advection_1d":
            u[1:, 2:] = math.nan
            u[0, 3:] = math.inf
        return u


def make_spec(name, fields, grid, kind):
    return FamilySpec(
        name=name,
        fields=fields,
        units=("1",) * len(fields),
        parameters=("p",),
        grid=grid,
        extents=((0.0, 1.0),) * len(grid),
        boundaries=((kind, kind),) * len(grid),
        u_rms=(1.0,) * len(fields),
        delta_rms=(0.1,) * len(fields),
        dt=0.1,
    )


def two_families(num=5):
    x, t = torch.arange(16) / 16, torch.arange(NUM_FRAMES)[:, None]
    waves = [(1 + i) * torch.sin(2 * math.pi * (x - 0.004 * (i + 1) * t)) for i in range(num)]
    y = torch.arange(8) / 8
    plane = torch.sin(2 * math.pi * (y[:, None] + 2 * y[None, :]))
    growing = [torch.stack([plane * (1 + 0.05 * k), plane + 0.1 * k]) for k in range(NUM_FRAMES)]
    return {
        "advection_1d": TestSet(
            make_spec("advection_1d", ("u",), (16,), "periodic"),
            NUM_FRAMES,
            Tensors("advection_1d", torch.stack(waves)[:, :, None]),
        ),
        "reaction_diffusion_2d": TestSet(
            make_spec("reaction_diffusion_2d", ("activator", "inhibitor"), (8, 8), "neumann"),
            NUM_FRAMES,
            Tensors("reaction_diffusion_2d", torch.stack([torch.stack(growing)] * 3)),
        ),
    }


def other_kinds(num=4):
    """A masked family with a static field and irregular times, and a steady one."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(8) / 8
    plane = torch.sin(2 * math.pi * (y[:, None] + y[None, :])) + 0.5
    ocean = torch.stack([torch.stack([plane * (1 + 0.05 * k), plane.T**2]) for k in range(NUM_FRAMES)])
    ocean = ocean * (1 + torch.rand(num, 1, 1, 1, 1, generator=generator))
    mask = torch.ones_like(ocean, dtype=torch.bool)
    mask[..., :3, :2] = False
    given = torch.rand(num, 8, 8, generator=generator)
    solution = given + 1
    frames = torch.stack([torch.stack([given, 0 * given], 1), torch.stack([given, solution], 1)], 1)
    ocean_spec = replace(make_spec("ocean", ("sst", "depth"), (8, 8), "wall"), static=("depth",), masked=True)
    steady_spec = replace(
        make_spec("darcy_2d", ("permeability", "u"), (8, 8), "dirichlet"),
        static=("permeability",),
        steady=True,
        dt=math.nan,
    )
    return {
        "ocean": TestSet(ocean_spec, NUM_FRAMES, Tensors("ocean", torch.where(mask, ocean, 0.4), mask), regular=False),
        "darcy_2d": TestSet(steady_spec, 2, Tensors("darcy_2d", frames, steady=True)),
    }


@pytest.fixture
def kinds():
    return other_kinds()


@pytest.fixture(scope="session")
def accelerator():
    return open_accelerator("cpu")


@pytest.fixture(scope="session")
def make_tests():
    return two_families


@pytest.fixture
def tests():
    return two_families()


@pytest.fixture(scope="session")
def models():
    return SimpleNamespace(persistence=Stub(), linear=Linear(), diverging=Diverging(), halfway=Halfway())


@pytest.fixture(scope="session")
def subject():
    checkpoint = {
        "checkpoint": "runs/t-00000000/checkpoints/step-10",
        "checkpoint_sha256": "ab" * 32,
        "run": "t-00000000",
        "step": 10,
        "params_m": 0.5,
    }
    return Subject(
        checkpoint=checkpoint,
        config_hash="00000000",
        manifest="data/manifest.json",
        manifest_digest="cd" * 32,
        suite="small",
        suite_hash="0123456789ab",
        suite_settings=settings(SUITES["small"], (1, 4), 2, ()),
        horizons=(1, 4),
        context_frames=2,
    )
