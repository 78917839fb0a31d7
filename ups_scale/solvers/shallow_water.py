"""Shallow water over a flat bed, in 1 or 2 dimensions: h_t + div(h v) = 0, (h v)_t + div(h v v) + g h grad(h) = 0.

Primitive variables: height, velocity per axis. Conserved ones: height, h v per axis. Heights stay above 0: no dry bed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ShallowWater:
    """The law for `finite_volume.solve`; `gravity` in length/s^2."""

    gravity: float = 1.0
    num_scalars: int = 1

    def primitive(self, conserved_bcx: Tensor) -> Tensor:
        height = conserved_bcx[:, :1]
        return torch.cat((height, conserved_bcx[:, 1:] / height), dim=1)

    def conserved(self, primitive_bcx: Tensor) -> Tensor:
        height = primitive_bcx[:, :1]
        return torch.cat((height, primitive_bcx[:, 1:] * height), dim=1)

    def speeds(self, primitive_bcx: Tensor) -> Tensor:
        return primitive_bcx[:, 1:].abs() + (self.gravity * primitive_bcx[:, :1]).sqrt()

    def riemann(self, left_bcx: Tensor, right_bcx: Tensor, normal: int) -> Tensor:
        """HLLC with Einfeldt's wave speeds. Source: Toro, Shock-Capturing Methods for Free-Surface Shallow Flows
        (2001), chapter 10."""
        height_l, u_l = left_bcx[:, 0], left_bcx[:, normal]
        height_r, u_r = right_bcx[:, 0], right_bcx[:, normal]
        wave_l, wave_r = (self.gravity * height_l).sqrt(), (self.gravity * height_r).sqrt()
        root_l, root_r = height_l.sqrt(), height_r.sqrt()
        share = root_l / (root_l + root_r)
        mean_u, mean_wave = share * u_l + (1 - share) * u_r, (0.5 * self.gravity * (height_l + height_r)).sqrt()
        slowest = torch.minimum(u_l - wave_l, mean_u - mean_wave)
        fastest = torch.maximum(u_r + wave_r, mean_u + mean_wave)
        mass_l, mass_r = height_l * (slowest - u_l), height_r * (fastest - u_r)
        contact = (slowest * mass_r - fastest * mass_l) / (mass_r - mass_l)

        from_left = contact >= 0
        state = torch.where(from_left[:, None], left_bcx, right_bcx)
        signal = torch.where(from_left, slowest.clamp(max=0), fastest.clamp(min=0))
        bound = torch.where(from_left, slowest, fastest)
        height, u = state[:, :1], state[:, normal : normal + 1]
        velocity, signal = state[:, 1:], signal[:, None]
        discharge = height * velocity
        star_height = height * (bound[:, None] - u) / (bound - contact)[:, None]
        star_velocity = velocity.clone()
        star_velocity[:, normal - 1] = contact
        height_flux = height * u + signal * (star_height - height)
        discharge_flux = discharge * u + signal * (star_height * star_velocity - discharge)
        discharge_flux[:, normal - 1] += 0.5 * self.gravity * height[:, 0] ** 2
        return torch.cat((height_flux, discharge_flux), dim=1)
