"""Sound in a medium at rest, in 1 to 3 dimensions: p_t + rho c^2 div(v) = 0, v_t + grad(p) / rho = 0.

Density rho and sound speed c vary in space; obstacles are rigid. Dimensions in names: b trajectory, x every axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

KINDS = ("periodic", "wall", "open")


def solve_acoustics(
    pressure_bx: Tensor,
    density_bx: Tensor,
    sound_speed_bx: Tensor,
    *,
    dx: Sequence[float],
    sides: Sequence[tuple[str, str]],
    dt: float,
    num_frames: int,
    steps_per_frame: int,
    solid_bx: Tensor | None = None,
) -> Tensor:
    """Frames of pressure and velocity per axis at cell centres, starting at rest: (B, T, 1 + D, *grid) float64.

    Staggered leapfrog, order 2: pressure in cells at whole steps, normal velocities on faces half a step off (Yee, IEEE
    Trans. Antennas Propag. 14 (1966) 302). A frame's velocity is the mean of the half steps around it, and of a
    cell's two faces.

    Args:
        pressure_bx, density_bx, sound_speed_bx: (B, *grid).
        dx: cell width per axis.
        sides: (low, high) per axis: periodic, wall (rigid), or open (waves that meet it head-on leave).
        dt: seconds between frames.
        solid_bx: (B, *grid) bool, rigid cells; their pressure stays as it is.

    Raises:
        ValueError: the step is too long for the fastest sound: num(steps_per_frame) says how many are needed.
    """
    step = dt / steps_per_frame
    crossing = step * float(sound_speed_bx.max()) * sum(width**-2 for width in dx) ** 0.5
    if crossing >= 1:
        raise ValueError(f"{steps_per_frame} steps per frame: stable above {steps_per_frame * crossing:.1f}")
    pressure = pressure_bx.double()
    density, sound_speed = density_bx.double(), sound_speed_bx.double()
    stiffness = density * sound_speed**2
    num_axes = len(dx)
    # Per axis, face values along the last axis: N of a periodic one (face i is left of cell i), else N + 1.
    velocity, factor = [], []
    for axis, (width, kinds) in enumerate(zip(dx, sides, strict=True)):
        along = density.movedim(1 + axis, -1)
        if kinds == ("periodic", "periodic"):
            inner = step / (width * 0.5 * (along + along.roll(1, -1)))
        else:
            edge = torch.zeros_like(along[..., :1])
            inner = torch.cat((edge, step / (width * 0.5 * (along[..., 1:] + along[..., :-1])), edge), dim=-1)
        if solid_bx is not None:
            solid = solid_bx.movedim(1 + axis, -1)
            if kinds == ("periodic", "periodic"):
                shut = solid | solid.roll(1, -1)
            else:
                none = torch.zeros_like(solid[..., :1])
                shut = torch.cat((none, solid), -1) | torch.cat((solid, none), -1)
            inner = inner.masked_fill(shut, 0)
        factor.append(inner)
        velocity.append(torch.zeros_like(inner))

    def kick(share: float) -> None:
        """Velocities `share` of a step later."""
        for axis, kinds in enumerate(sides):
            along = pressure.movedim(1 + axis, -1)
            if kinds == ("periodic", "periodic"):
                velocity[axis] = velocity[axis] - share * factor[axis] * (along - along.roll(1, -1))
            else:
                inner = velocity[axis][..., 1:-1] - share * factor[axis][..., 1:-1] * along.diff(dim=-1)
                low, high = velocity[axis][..., :1], velocity[axis][..., -1:]
                impedance = (density * sound_speed).movedim(1 + axis, -1)
                if kinds[0] == "open":
                    low = -along[..., :1] / impedance[..., :1]
                if kinds[1] == "open":
                    high = along[..., -1:] / impedance[..., -1:]
                velocity[axis] = torch.cat((low, inner, high), dim=-1)

    def divergence() -> Tensor:
        total = torch.zeros_like(pressure)
        for axis, (width, kinds) in enumerate(zip(dx, sides, strict=True)):
            faces = velocity[axis]
            change = faces.roll(-1, -1) - faces if kinds == ("periodic", "periodic") else faces.diff(dim=-1)
            total = total + (change / width).movedim(-1, 1 + axis)
        return total

    def output(before: list[Tensor], after: list[Tensor]) -> Tensor:
        fields = [pressure]
        for axis in range(num_axes):
            faces = 0.5 * (before[axis] + after[axis])
            if sides[axis] == ("periodic", "periodic"):
                centres = 0.5 * (faces + faces.roll(-1, -1))
            else:
                centres = 0.5 * (faces[..., 1:] + faces[..., :-1])
            fields.append(centres.movedim(-1, 1 + axis))
        return torch.stack(fields, dim=1)

    frames = [output(velocity, velocity)]
    kick(0.5)
    for _ in range(num_frames - 1):
        for _ in range(steps_per_frame):
            change = step * stiffness * divergence()
            pressure = pressure - (change if solid_bx is None else change.masked_fill(solid_bx, 0))
            before = list(velocity)
            kick(1.0)
        frames.append(output(before, velocity))
    return torch.stack(frames, dim=1)
