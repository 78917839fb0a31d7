"""Small simulators of three families, and inputs for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ups_scale.model.simulator import Simulator
from ups_scale.physics.families import FamilySpec

MODEL = {
    "encoder": "grid",
    "operator": "stacked",
    "decoder": "patch",
    "prediction": "field",
    "target": "change",
    "depth": 2,
    "model_dim": 32,
    "num_heads": 2,
    "modes": None,
    "mlp_ratio": 2.0,
    "qk_rmsnorm": True,
    "channel_separated": False,
    "accept_stacked_separated": False,
    "window_size": 2,
    "u_stages": [1, 2],
    "u_depths": None,
    "u_growth": 1,
    "latent_tokens": 16,
    "latent_dim": 24,
    "patch_size": 4,
    "context_frames": 1,
    "frame_dropout": 0.0,
    "patch_jitter": False,
    "supernodes": 64,
    "supernode_radius": 1.5,
    "neighbours": 8,
    "decoder_reach": 1,
    "log_clamp": None,
    "drop_path": 0.0,
}
CONDITIONING = {
    "family": True,
    "parameters": True,
    "dt": True,
    "boundary": True,
    "extents": True,
    "scale": True,
    "geometry": True,
    "geometry_hash": False,
    "dropout": 0.0,
}

LINE = FamilySpec(
    name="advection_1d",
    fields=("u",),
    units=("1",),
    parameters=("beta",),
    grid=(32,),
    extents=((0.0, 1.0),),
    boundaries=(("periodic", "periodic"),),
    u_rms=(0.8,),
    delta_rms=(0.2,),
    dt=0.05,
)
PLANE = FamilySpec(
    name="reaction_diffusion_2d",
    fields=("activator", "inhibitor"),
    units=("1", "1"),
    parameters=("du", "dv", "k"),
    grid=(16, 8),
    extents=((-1.0, 1.0), (-1.0, 0.0)),
    boundaries=(("neumann", "neumann"), ("neumann", "neumann")),
    u_rms=(0.5, 2.0),
    delta_rms=(0.1, 0.3),
    dt=0.05,
)
TORUS = FamilySpec(
    name="navier_stokes_2d",
    fields=("vorticity",),
    units=("1/s",),
    parameters=("nu",),
    grid=(16, 8),
    extents=((0.0, 1.0), (0.0, 0.5)),
    boundaries=(("periodic", "periodic"), ("periodic", "periodic")),
    u_rms=(3.0,),
    delta_rms=(0.5,),
    dt=0.05,
)
SPECS = (LINE, PLANE, TORUS)

STEADY = FamilySpec(
    name="darcy_2d",
    fields=("permeability", "u"),
    units=("1", "1"),
    parameters=("beta",),
    grid=(8, 8),
    extents=((0.0, 1.0), (0.0, 1.0)),
    boundaries=(("dirichlet", "dirichlet"),) * 2,
    u_rms=(0.7, 0.2),
    delta_rms=(0.0, 0.3),
    dt=math.nan,
    static=("permeability",),
    steady=True,
)
FORCED = FamilySpec(
    name="incompressible_ns_2d",
    fields=("velocity_x", "force_x"),
    units=("1", "1"),
    parameters=("nu",),
    grid=(16, 8),
    extents=((0.0, 1.0), (0.0, 0.5)),
    boundaries=(("robin", "open"), ("dirichlet", "dirichlet")),
    u_rms=(1.0, 0.5),
    delta_rms=(0.2, 0.0),
    dt=0.05,
    static=("force_x",),
    masked=True,
)
BOX = FamilySpec(
    name="compressible_flow_3d",
    fields=("density", "pressure", "velocity_x", "velocity_y", "velocity_z"),
    units=("1",) * 5,
    parameters=("M", "eta", "zeta"),
    grid=(8, 8, 8),
    extents=((0.0, 1.0),) * 3,
    boundaries=(("periodic", "periodic"),) * 3,
    u_rms=(1.0, 2.0, 0.5, 0.5, 0.5),
    delta_rms=(0.1, 0.1, 0.1, 0.1, 0.1),
    dt=0.05,
)
POINTS = FamilySpec(
    name="shallow_water_2d-points40",
    fields=("x", "y", "height"),
    units=("m", "m", "m"),
    parameters=(),
    grid=(40,),
    extents=((-1.0, 1.0), (0.0, 1.0)),
    boundaries=(("neumann", "neumann"), ("periodic", "periodic")),
    u_rms=(0.6, 0.6, 1.0),
    delta_rms=(0.0, 0.0, 0.1),
    dt=0.05,
    static=("x", "y"),
    geometry="points",
    coordinates=("x", "y"),
)

FLOW = FamilySpec(
    name="compressible_flow_2d",
    fields=("density", "pressure", "velocity_x", "velocity_y"),
    units=("1",) * 4,
    parameters=("eta", "zeta"),
    grid=(128, 128),
    extents=((0.0, 1.0),) * 2,
    boundaries=(("periodic", "periodic"),) * 2,
    u_rms=(1.0,) * 4,
    delta_rms=(0.1,) * 4,
    dt=0.05,
)


def make(
    seed: int = 0,
    trained: bool = False,
    std: float = 0.2,
    conditioning: dict | None = None,
    specs: Sequence[FamilySpec] = SPECS,
    **changes: object,
) -> Simulator:
    """A small simulator, of three families by default; `trained` fills its zero weights, as training would."""
    torch.manual_seed(seed)
    model = Simulator(specs, {**MODEL, **changes}, {**CONDITIONING, **(conditioning or {})})
    if trained:
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=std)
    return model


def inputs(
    spec: FamilySpec, batch: int = 3, frames: int = 1, seed: int = 0
) -> tuple[torch.Tensor, str, torch.Tensor, torch.Tensor]:
    """(context, family, parameters, dt) for `Simulator.forward` over up to 8 steps, at the family's own scale."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, frames, len(spec.fields), *spec.grid, generator=generator)
    u = u * torch.tensor(spec.u_rms).reshape(-1, *(1,) * len(spec.grid))
    for name, (low, high) in zip(spec.coordinates, spec.extents, strict=False):  # a point set's places stay the same
        places = low + (high - low) * torch.rand(batch, 1, *spec.grid, generator=generator)
        u[:, :, spec.fields.index(name)] = places
    parameters = torch.rand(batch, len(spec.parameters), generator=generator) + 0.1
    return u, spec.name, parameters, torch.full((batch, frames + 7), spec.dt)
