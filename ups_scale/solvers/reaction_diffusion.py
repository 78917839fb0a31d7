"""Reaction and diffusion of one or several species in 1 or 2 dimensions: PDEBench's FitzHugh-Nagumo and Fisher-KPP
equations, and Gray and Scott's.

Dimensions in names: b trajectory, c species, x every axis of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Reaction = Callable[[Tensor, float], Tensor]


def solve_reaction_diffusion(
    state_bcx: Tensor,
    diffusivity_bc: Tensor,
    react: Reaction | None,
    *,
    edges: str,
    length: float,
    dt: float,
    num_frames: int,
    steps_per_frame: int,
    num_output: int,
    spectral: bool = False,
) -> Tensor:
    """Frames averaged over blocks to `num_output` cells per axis: (B, T, C, *grid) float64.

    Finite volumes on the input's grid: the second difference with mirrored ("neumann") or periodic ghost cells, which
    the cosine or Fourier transform diagonalises, so that its flow over a step is exact and separable. With `spectral`
    the modes decay as those of the equation, not of the differences. The reaction takes one step between two half
    steps of diffusion (Strang splitting, order 2).

    Args:
        state_bcx: (B, C, X) or (B, C, X, X) cell averages.
        diffusivity_bc: (B, C) length^2/s.
        react: maps a state and a step in s to the state after it without diffusion; None for diffusion alone.
        edges: "neumann" (no flow) or "periodic".
        length: of the domain's edge.
        dt: seconds between frames.
    """
    step = dt / steps_per_frame
    size = state_bcx.shape[-1]
    half_bcxx = _heat_flow(diffusivity_bc.double(), step / 2, size, length, edges, spectral)
    full_bcxx = half_bcxx @ half_bcxx
    block = size // num_output
    two_axes = state_bcx.ndim == 4

    def diffuse(flow_bcxx: Tensor, state: Tensor) -> Tensor:
        # The flow is symmetric.
        return flow_bcxx @ state @ flow_bcxx if two_axes else (flow_bcxx @ state[..., None])[..., 0]

    def output(state: Tensor) -> Tensor:
        pool = torch.nn.functional.avg_pool2d if two_axes else torch.nn.functional.avg_pool1d
        return pool(state, block) if block > 1 else state

    state_bcx = state_bcx.double()
    frames = [output(state_bcx)]
    for _ in range(num_frames - 1):
        state_bcx = diffuse(half_bcxx, state_bcx)
        for index in range(steps_per_frame):
            if react:
                state_bcx = react(state_bcx, step)
            state_bcx = diffuse(full_bcxx if index < steps_per_frame - 1 else half_bcxx, state_bcx)
        frames.append(output(state_bcx))
    return torch.stack(frames, dim=1)


def _heat_flow(
    diffusivity_bc: Tensor, step: float, num_points: int, length: float, edges: str, spectral: bool
) -> Tensor:
    """exp(step * diffusivity * second difference, or derivative) along one axis: (B, C, X, X)."""
    mode = torch.arange(num_points, dtype=torch.float64, device=diffusivity_bc.device)
    if edges == "neumann":
        basis = torch.cos(math.pi * mode[:, None] * (mode + 0.5) / num_points) * math.sqrt(2 / num_points)
        basis[0] /= math.sqrt(2)
        angle = math.pi * mode / (2 * num_points)
    elif edges == "periodic":
        # Hartley's: real, symmetric, orthonormal; even circulant matrices are diagonal in it as in Fourier's.
        turn = 2 * math.pi * mode[:, None] * mode / num_points
        basis = (torch.cos(turn) + torch.sin(turn)) / math.sqrt(num_points)
        angle = math.pi * mode / num_points
    else:
        raise ValueError(f"edges {edges!r}: neumann or periodic")
    if spectral:
        eigenvalue = -((2 * num_points / length * torch.minimum(angle, math.pi - angle)) ** 2)
    else:
        eigenvalue = -((2 * num_points / length * torch.sin(angle)) ** 2)
    decay_bcm = torch.exp(step * diffusivity_bc[..., None] * eigenvalue)
    return basis.T @ (decay_bcm[..., None] * basis)


def fitzhugh_nagumo(k_b: Tensor) -> Reaction:
    """u' = u - u^3 - k - v, v' = u - v (arXiv 2210.07182, appendix D.4); `k_b`: (B,) source of the activator."""

    def rate(state: Tensor) -> Tensor:
        u, v = state.unbind(1)
        source = k_b.double().view(-1, *(1 for _ in u.shape[1:]))
        difference = u - v
        return torch.stack((difference - u * u * u - source, difference), dim=1)

    return _runge_kutta(rate)


def gray_scott(feed_b: Tensor, kill_b: Tensor) -> Reaction:
    """u' = -u v^2 + feed (1 - u), v' = u v^2 - (feed + kill) v. Source: Pearson, Science 261 (1993) 189."""

    def rate(state: Tensor) -> Tensor:
        u, v = state.unbind(1)
        shape = (-1, *(1 for _ in u.shape[1:]))
        feed, kill = feed_b.double().view(shape), kill_b.double().view(shape)
        eaten = u * v * v
        return torch.stack((feed * (1 - u) - eaten, eaten - (feed + kill) * v), dim=1)

    return _runge_kutta(rate)


def logistic(rho_b: Tensor) -> Reaction:
    """u' = rho u (1 - u), exactly; `rho_b`: (B,) 1/s (arXiv 2210.07182, appendix D.3)."""

    def react(state: Tensor, step: float) -> Tensor:
        growth = torch.exp(rho_b.double() * step).view(-1, *(1 for _ in state.shape[1:]))
        return state * growth / (1 + state * (growth - 1))

    return react


def _runge_kutta(rate: Callable[[Tensor], Tensor]) -> Reaction:
    """One step of order 4."""

    def react(state: Tensor, step: float) -> Tensor:
        a = rate(state)
        b = rate(state + (step / 2) * a)
        c = rate(state + (step / 2) * b)
        d = rate(state + step * c)
        return state + (step / 6) * (a + 2 * (b + c) + d)

    return react
