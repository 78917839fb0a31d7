"""Two small families, a reader of them, and modules with a simulator's signature."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ups_scale.data.batch import FieldBatch
from ups_scale.evaluate.report import Subject
from ups_scale.evaluate.run import open_accelerator
from ups_scale.evaluate.suite import TestSet
from ups_scale.physics.families import FamilySpec

NUM_FRAMES = 8


class Tensors:
    """Trajectories held in memory, (N, T, C, *X)."""

    def __init__(self, family, u_ntcx):
        self.family, self.u_ntcx = family, u_ntcx

    @property
    def num_trajectories(self):
        return len(self.u_ntcx)

    def read(self, indices, first_frames, num_frames):
        windows = [self.u_ntcx[i, f : f + num_frames] for i, f in zip(indices, first_frames, strict=True)]
        size = len(indices)
        keys = tuple(f"{self.family}-{i:06d}" for i in indices)
        return FieldBatch(self.family, torch.stack(windows), torch.zeros(size, 1), torch.full((size,), 0.1), keys)


class Persistence(nn.Module):
    """Repeats the last given frame."""

    context_frames = 2

    def forward(self, context_btcx, family, parameters_bp, dt_b, horizon):
        return context_btcx[:, -1:].repeat(1, horizon, *[1] * (context_btcx.dim() - 2))


class Linear(Persistence):
    """Goes on with the last change, half of it: better than persistence on slow waves."""

    def forward(self, context_btcx, family, parameters_bp, dt_b, horizon):
        steps = torch.arange(1, horizon + 1).reshape(1, -1, *[1] * (context_btcx.dim() - 2))
        return context_btcx[:, -1:] + 0.5 * steps * (context_btcx[:, -1:] - context_btcx[:, -2:-1])


class Diverging(Linear):
    """NaN from the third step on, for the waves that start high, and infinite once."""

    def forward(self, context_btcx, family, parameters_bp, dt_b, horizon):
        u = super().forward(context_btcx, family, parameters_bp, dt_b, horizon)
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
            0.1,
            NUM_FRAMES,
            Tensors("advection_1d", torch.stack(waves)[:, :, None]),
        ),
        "reaction_diffusion_2d": TestSet(
            make_spec("reaction_diffusion_2d", ("activator", "inhibitor"), (8, 8), "neumann"),
            0.1,
            NUM_FRAMES,
            Tensors("reaction_diffusion_2d", torch.stack([torch.stack(growing)] * 3)),
        ),
    }


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
    return SimpleNamespace(persistence=Persistence(), linear=Linear(), diverging=Diverging())


@pytest.fixture(scope="session")
def subject():
    return Subject(
        checkpoint="runs/t-00000000/checkpoints/step-10",
        checkpoint_sha256="ab" * 32,
        manifest="data/manifest.json",
        manifest_digest="cd" * 32,
        suite="small",
        horizons=(1, 4),
        run="t-00000000",
        step=10,
        params_m=0.5,
        context_frames=2,
    )
