"""Compressible flow of an ideal gas, inviscid (Euler) or with PDEBench's viscous terms, in 1 to 3 dimensions.

rho_t + div(rho v) = 0;  (rho v)_t + div(rho v v) + grad(p) = div(sigma);  E_t + div((E + p) v) = div(v . sigma), with
E = p / (gamma - 1) + rho |v|^2 / 2 and sigma = eta (grad v + grad v^T - 2/3 div v) + zeta div v (arXiv 2210.07182,
appendix D.5: viscosities, no conduction of heat).

Primitive variables: density, pressure, velocity per axis. Conserved ones: density, energy, momentum per axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GAMMA = 5 / 3


@dataclass(frozen=True)
class Gas:
    """The law for `finite_volume.solve`.

    Attributes:
        gamma: ratio of specific heats.
        eta_b, zeta_b: (B,) shear and bulk viscosity; None without viscosity.
    """

    gamma: float = GAMMA
    eta_b: Tensor | None = None
    zeta_b: Tensor | None = None
    num_scalars: int = 2

    def primitive(self, conserved_bcx: Tensor) -> Tensor:
        density, energy, momentum = conserved_bcx[:, :1], conserved_bcx[:, 1:2], conserved_bcx[:, 2:]
        velocity = momentum / density
        pressure = (self.gamma - 1) * (energy - 0.5 * (momentum * velocity).sum(1, keepdim=True))
        return torch.cat((density, pressure, velocity), dim=1)

    def conserved(self, primitive_bcx: Tensor) -> Tensor:
        density, pressure, velocity = primitive_bcx[:, :1], primitive_bcx[:, 1:2], primitive_bcx[:, 2:]
        momentum = density * velocity
        return torch.cat((density, self._energy(pressure, momentum, velocity), momentum), dim=1)

    def _energy(self, pressure: Tensor, momentum: Tensor, velocity: Tensor) -> Tensor:
        return pressure / (self.gamma - 1) + 0.5 * (momentum * velocity).sum(1, keepdim=True)

    def speeds(self, primitive_bcx: Tensor) -> Tensor:
        sound = (self.gamma * primitive_bcx[:, 1:2] / primitive_bcx[:, :1]).sqrt()
        return primitive_bcx[:, 2:].abs() + sound

    def diffusion(self, primitive_bcx: Tensor) -> Tensor | None:
        if self.eta_b is None or self.zeta_b is None:
            return None
        return (4 / 3 * self.eta_b + self.zeta_b) / primitive_bcx[:, 0].flatten(1).amin(1)

    def riemann(self, left_bcx: Tensor, right_bcx: Tensor, normal: int) -> Tensor:
        """HLLC with Einfeldt's wave speeds. Source: Batten et al., SIAM J. Sci. Comput. 18 (1997) 1553."""
        density_l, pressure_l, u_l = left_bcx[:, 0], left_bcx[:, 1], left_bcx[:, normal]
        density_r, pressure_r, u_r = right_bcx[:, 0], right_bcx[:, 1], right_bcx[:, normal]
        sound_l, sound_r = (self.gamma * pressure_l / density_l).sqrt(), (self.gamma * pressure_r / density_r).sqrt()
        root_l, root_r = density_l.sqrt(), density_r.sqrt()
        share = root_l / (root_l + root_r)
        mean_u = share * u_l + (1 - share) * u_r
        spread = share * (1 - share) * (u_r - u_l) ** 2
        mean_sound = (share * sound_l**2 + (1 - share) * sound_r**2 + 0.5 * (self.gamma - 1) * spread).sqrt()
        slowest = torch.minimum(u_l - sound_l, mean_u - mean_sound)
        fastest = torch.maximum(u_r + sound_r, mean_u + mean_sound)
        mass_l, mass_r = density_l * (slowest - u_l), density_r * (fastest - u_r)
        contact = (pressure_r - pressure_l + mass_l * u_l - mass_r * u_r) / (mass_l - mass_r)

        from_left = contact >= 0
        state = torch.where(from_left[:, None], left_bcx, right_bcx)
        signal = torch.where(from_left, slowest.clamp(max=0), fastest.clamp(min=0))
        bound = torch.where(from_left, slowest, fastest)
        density, pressure, u = state[:, 0], state[:, 1], state[:, normal]
        velocity = state[:, 2:]
        momentum = density[:, None] * velocity
        energy = self._energy(pressure[:, None], momentum, velocity)[:, 0]
        # Between the bounding wave and the contact:
        star_density = density * (bound - u) / (bound - contact)
        star_velocity = velocity.clone()
        star_velocity[:, normal - 2] = contact
        star_energy = star_density * (energy / density + (contact - u) * (contact + pressure / (density * (bound - u))))
        mass_flux = density * u + signal * (star_density - density)
        energy_flux = (energy + pressure) * u + signal * (star_energy - energy)
        momentum_flux = momentum * u[:, None] + signal[:, None] * (star_density[:, None] * star_velocity - momentum)
        momentum_flux[:, normal - 2] += pressure
        return torch.cat((mass_flux[:, None], energy_flux[:, None], momentum_flux), dim=1)

    def viscous(self, primitive_bcx: Tensor, gradient_bdcx: Tensor, axis: int) -> Tensor:
        assert self.eta_b is not None
        assert self.zeta_b is not None
        num_axes = gradient_bdcx.shape[1]
        shape = (-1, *(1 for _ in range(num_axes)))
        eta, zeta = self.eta_b.view(shape), self.zeta_b.view(shape)
        slope = gradient_bdcx[:, :, 2:]  # slope[:, d, c]: derivative along d of velocity c
        divergence = sum(slope[:, d, d] for d in range(num_axes))
        stress = [eta * (slope[:, axis, c] + slope[:, c, axis]) for c in range(num_axes)]
        stress[axis] = stress[axis] + (zeta - 2 / 3 * eta) * divergence
        stress_bcx = torch.stack(stress, dim=1)
        work = (primitive_bcx[:, 2:] * stress_bcx).sum(1, keepdim=True)
        return torch.cat((torch.zeros_like(work), work, stress_bcx), dim=1)
