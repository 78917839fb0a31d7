"""Small simulators of three families, and inputs for them."""

from __future__ import annotations

import torch

from ups_scale.model.simulator import Simulator
from ups_scale.physics.families import FamilySpec

MODEL = {
    "encoder": "grid",
    "operator": "stacked",
    "decoder": "patch",
    "depth": 2,
    "model_dim": 32,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "qk_rmsnorm": True,
    "latent_tokens": 16,
    "latent_dim": 24,
    "patch_size": 4,
    "context_frames": 1,
    "drop_path": 0.0,
}
CONDITIONING = {
    "family": True,
    "parameters": True,
    "dt": True,
    "boundary": True,
    "extents": True,
    "scale": True,
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
)
SPECS = (LINE, PLANE, TORUS)


def make(
    seed: int = 0, trained: bool = False, std: float = 0.2, conditioning: dict | None = None, **changes: object
) -> Simulator:
    """A small simulator of three families; `trained` fills its zero weights, as training would."""
    torch.manual_seed(seed)
    model = Simulator(SPECS, {**MODEL, **changes}, {**CONDITIONING, **(conditioning or {})})
    if trained:
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=std)
    return model


def inputs(
    spec: FamilySpec, batch: int = 3, frames: int = 1, seed: int = 0
) -> tuple[torch.Tensor, str, torch.Tensor, torch.Tensor]:
    """(context, family, parameters, dt) for `Simulator.forward`, at the family's own scale."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, frames, len(spec.fields), *spec.grid, generator=generator)
    u = u * torch.tensor(spec.u_rms).reshape(-1, *(1,) * spec.dimensions)
    return u, spec.name, torch.rand(batch, len(spec.parameters), generator=generator) + 0.1, torch.full((batch,), 0.05)
