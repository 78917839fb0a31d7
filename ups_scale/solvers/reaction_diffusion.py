"""A solver of PDEBench's 2D FitzHugh-Nagumo equations on [-1, 1]^2 with no flow through the edges.

Dimensions in names: b trajectory, c field (activator u, inhibitor v), x and y cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LENGTH = 2.0


def solve_reaction_diffusion(
    state_bcxy: Tensor,
    du_b: Tensor,
    dv_b: Tensor,
    k_b: Tensor,
    *,
    dt: float,
    num_frames: int,
    steps_per_frame: int,
    num_output: int,
    react: bool = True,
) -> Tensor:
    """Frames of (activator, inhibitor) averaged over blocks to `num_output`^2 cells: (B, T, 2, X, Y) float64.

    u_t = du lap(u) + u - u^3 - k - v,  v_t = dv lap(v) + u - v (arXiv 2210.07182, appendix D.4, with no-flow edges).
    Finite volumes on the input's grid: the five-point Laplacian with mirrored ghost cells, which the cosine transform
    diagonalises, so that its flow over a step is exact and separable, E u E^T. The reaction takes one RK4 step, between
    two half steps of diffusion (Strang splitting, order 2).

    Args:
        state_bcxy: (B, 2, X, X) cell averages of u and v.
        du_b, dv_b: (B,) diffusivities, length^2/s.
        k_b: (B,) source of the activator.
        dt: seconds between frames.
        react: False leaves out the reaction.
    """
    step = dt / steps_per_frame
    diffusivity_bc = torch.stack((du_b, dv_b), dim=1).double()
    half_bcxx = _heat_flow(diffusivity_bc, step / 2, state_bcxy.shape[-1])
    full_bcxx = half_bcxx @ half_bcxx
    source_bxy = k_b.double()[:, None, None]
    block = state_bcxy.shape[-1] // num_output

    def diffuse(flow_bcxx: Tensor, state: Tensor) -> Tensor:
        return flow_bcxx @ state @ flow_bcxx  # the flow is symmetric

    def output(state: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(state, block) if block > 1 else state

    state_bcxy = state_bcxy.double()
    frames = [output(state_bcxy)]
    for _ in range(num_frames - 1):
        state_bcxy = diffuse(half_bcxx, state_bcxy)
        for index in range(steps_per_frame):
            if react:
                state_bcxy = _react(state_bcxy, source_bxy, step)
            state_bcxy = diffuse(full_bcxx if index < steps_per_frame - 1 else half_bcxx, state_bcxy)
        frames.append(output(state_bcxy))
    return torch.stack(frames, dim=1)


def _heat_flow(diffusivity_bc: Tensor, step: float, num_points: int) -> Tensor:
    """exp(step * diffusivity * second difference) along one axis: (B, C, X, X)."""
    mode = torch.arange(num_points, dtype=torch.float64, device=diffusivity_bc.device)
    basis = torch.cos(math.pi * mode[:, None] * (mode + 0.5) / num_points) * math.sqrt(2 / num_points)
    basis[0] /= math.sqrt(2)
    eigenvalue = -((2 * num_points / LENGTH * torch.sin(math.pi * mode / (2 * num_points))) ** 2)
    decay_bcm = torch.exp(step * diffusivity_bc[..., None] * eigenvalue)
    return basis.T @ (decay_bcm[..., None] * basis)


def _react(state_bcxy: Tensor, source_bxy: Tensor, step: float) -> Tensor:
    """One RK4 step of u' = u - u^3 - k - v, v' = u - v in every cell."""

    def rate(state: Tensor) -> Tensor:
        u_bxy, v_bxy = state.unbind(1)
        difference = u_bxy - v_bxy
        return torch.stack((difference - u_bxy * u_bxy * u_bxy - source_bxy, difference), dim=1)

    a = rate(state_bcxy)
    b = rate(state_bcxy + (step / 2) * a)
    c = rate(state_bcxy + (step / 2) * b)
    d = rate(state_bcxy + step * c)
    return state_bcxy + (step / 6) * (a + 2 * (b + c) + d)
