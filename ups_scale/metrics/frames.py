"""Figures that need whole frames: largest errors, boundary cells, bands of wavenumbers, fronts, and what physics asks.

Computed at the horizons and kept, (B, C, P) each, until the rollout ends; conservation gaps at every step.

Dimensions: b trajectory, c predicted field, p predictor with the truth behind the last, x space, n all its points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ups_scale.metrics import physics, spectra
from ups_scale.metrics.accumulate import Figures
from ups_scale.metrics.shocks import shock_overlap
from ups_scale.physics.families import FamilySpec, divergence_free, has_shocks
from ups_scale.physics.invariants import fields_of, quantities

TRUTH = "truth"
"""The predictor under which the truth's own floor stands: discrete data miss what holds for the equation."""
EMPTY_BAND = 1e-12
"""A band with less than this share of the truth's power has no error relative to it."""
GAP = "conservation_gap"


class Frames:
    """What a batch's frames leave behind; see `RolloutMeasure`, which asks for it."""

    def __init__(self, spec: FamilySpec, last_bcx: Tensor, predictors: Sequence[str], full: bool) -> None:
        self._spec, self._predictors, self._full = spec, tuple(predictors), full
        self._fields = tuple(spec.fields[number] for number in spec.dynamic)
        self._start = {name: u_bx[:, None].double() for name, u_bx in fields_of(last_bcx, spec).items()}
        self._budgets = [physics.Budget(one, self._start, spec) for one in quantities(spec)]
        self._gaps: dict[int, Tensor] = {}
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._spectrum: Tensor | None = None
        self._stated: tuple[int, ...] = ()
        self._space = tuple(last_bcx.shape[2:])
        self._on_grid = spec.geometry == "grid"
        self._edge_n = _edge(spec, last_bcx.device) if self._on_grid and full else None

    def step(
        self,
        k: int,
        u_bcpn: Tensor,
        error_bcpn: Tensor,
        mask_bcn: Tensor | None,
        weights_n: Tensor | None,
        is_horizon: bool,
    ) -> None:
        """Takes a step's predictions with the truth behind them, and their errors; zero where nothing counts."""
        space = self._space
        if self._full or is_horizon:
            self._step_gaps(k, u_bcpn.unflatten(-1, space))
        if not is_horizon:
            return
        kept = self._kept[k] = {"max_error": torch.linalg.vector_norm(error_bcpn, torch.inf, dim=-1)}
        weighted = error_bcpn if weights_n is None else error_bcpn * weights_n
        kept["absolute"] = torch.linalg.vector_norm(weighted, 1, dim=-1)
        if not self._full:
            return
        if self._edge_n is not None:
            square = error_bcpn[..., self._edge_n].square()
            if mask_bcn is None:
                kept["brmse"] = square.mean(-1)
            else:
                counted = mask_bcn[..., self._edge_n].sum(-1)
                kept["brmse"], kept["edge"] = square.sum(-1) / counted[..., None], (counted > 0)[..., None]
        if self._on_grid and not self._spec.masked:
            self._whole(kept, u_bcpn.unflatten(-1, space), error_bcpn.unflatten(-1, space))

    def _step_gaps(self, k: int, u_bcpx: Tensor) -> None:
        if not self._budgets:
            return
        fields = self._start | dict(zip(self._fields, u_bcpx.unbind(1), strict=True))
        truth = self._start | {name: fields[name][:, -1:] for name in self._fields}
        self._gaps[k] = torch.stack(
            [budget.gap(fields, None if budget.quantity.is_closed else truth) for budget in self._budgets], dim=1
        )

    def _whole(self, kept: dict[str, Tensor], u_bcpx: Tensor, error_bcpx: Tensor) -> None:
        """What holes in the fields would spoil."""
        spec, axes = self._spec, tuple(range(-self._spec.dimensions, 0))
        error = torch.fft.rfftn(error_bcpx, dim=axes, norm="forward")
        truth = torch.fft.rfftn(u_bcpx[:, :, -1:], dim=axes, norm="forward")
        if all(spec.periodic):
            self._spectrum = spectra.binned(torch.cat([error + truth, truth], dim=2), spec)
        else:
            self._spectrum = spectra.power_spectrum(u_bcpx, spec)
        kept["spectral_error"] = spectra.spectral_error(self._spectrum[:, :, :-1], self._spectrum[:, :, -1:])
        kept["bands"], kept["truth_bands"] = (spectra.band_power(of, spec.grid) for of in (error, truth))
        kept["quadrant"] = spectra.quadrant_power(error, spec.grid)
        if velocity := [spec.dynamic.index(number) for number in divergence_free(spec)]:
            kept["divergence"] = physics.divergence(u_bcpx[:, velocity], spec)
        if has_shocks(spec):
            found = shock_overlap(u_bcpx[:, :, :-1], u_bcpx[:, :, -1], spec)
            kept["shock_iou"], kept["shock_precision"], kept["has_shock"] = found
        self._stated, kept["missed"] = physics.bc_missed(u_bcpx, spec)

    def add(
        self, k: int, figures: Figures, exists: Tensor, defined: Tensor, weight_bc: Tensor, truth_rms_bc: Tensor
    ) -> None:
        """Adds the figures of step k: `exists` and `defined` (B, C, 1) say where a field has a point, and a truth that
        is not zero, of root mean square `truth_rms_bc`; `weight_bc` is the weight of all points."""
        kept, everyone = self._kept.pop(k), (*self._predictors, TRUTH)
        errors = {"mae": kept["absolute"] / weight_bc[..., None], "max_error": kept["max_error"]}
        for metric, values in errors.items():
            figures.add(f"{metric}@{k}", values, where=exists, over_fields=figures.same_units)
        self._add_gaps(k, figures, everyone)
        if "brmse" in kept:
            edge = kept.get("edge", exists)
            figures.add(f"brmse@{k}", kept["brmse"], where=edge, over_fields=figures.same_units)
        if "bands" not in kept:
            return
        figures.add(f"spectral_error@{k}", kept["spectral_error"], where=defined)
        power = kept["truth_bands"].sum(-1)
        for number, band in enumerate(spectra.BANDS):
            error, truth = kept["bands"][..., number], kept["truth_bands"][..., number]
            figures.add(f"frmse_{band}@{k}", error, over_fields=figures.same_units)
            figures.add(f"band_error_{band}@{k}", (error / truth).sqrt(), where=defined & (truth > EMPTY_BAND * power))
        self._add_quadrant(k, figures, kept["quadrant"])
        if self._stated:
            stated, names = list(self._stated), [self._fields[c] for c in self._stated]
            violation = kept["missed"] / truth_rms_bc[:, stated, None]
            where = defined[:, stated]
            figures.add(f"bc_violation@{k}", violation, where=where, fields=names, predictors=everyone)
        if "divergence" in kept:
            figures.add_joint(f"divergence@{k}", kept["divergence"], predictors=everyone)
        if "shock_iou" in kept:
            for metric in ("shock_iou", "shock_precision"):
                figures.add(f"{metric}@{k}", kept[metric], where=kept["has_shock"][..., None])

    def _add_gaps(self, k: int, figures: Figures, everyone: Sequence[str]) -> None:
        """One per field where each field has its own, else one per quantity; and the mean over all of them."""
        if not self._budgets:
            return
        gaps, who = self._gaps[k], everyone
        if not self._full:
            gaps, who = gaps[..., :-1], self._predictors
        fields = [budget.quantity.field for budget in self._budgets]
        if all(fields):
            figures.add(f"{GAP}@{k}", gaps, fields=fields, predictors=who)
            return
        figures.add_joint(f"{GAP}@{k}", gaps.mean(1), predictors=who)
        for number, budget in enumerate(self._budgets):
            figures.add_joint(f"{GAP}_{budget.quantity.name}@{k}", gaps[:, number], predictors=who)

    def _add_quadrant(self, k: int, figures: Figures, power_bcpk: Tensor) -> None:
        bands = spectra.quadrant_bands(power_bcpk.shape[-1])
        parts = [(f"frmse_pdebench_{band}@{k}", shell) for band, shells in bands.items() for shell in shells]
        figures.add_parts(parts, power_bcpk[..., [shell for _, shell in parts]], over_fields=figures.same_units)

    def gaps(self) -> dict[str, dict[str, Tensor]]:
        """By quantity and predictor, the truth too, (B, H): the mean over fields, where each has its own."""
        if not self._gaps:
            return {}
        names = [budget.quantity.name for budget in self._budgets]
        gaps_hbqp = torch.stack(list(self._gaps.values()))
        found: dict[str, dict[str, Tensor]] = {}
        for name in dict.fromkeys(names):
            of = gaps_hbqp[:, :, [number for number, other in enumerate(names) if other == name]].mean(2)
            found[name] = {who: of[..., p].T for p, who in enumerate((*self._predictors, TRUTH))}
        return found

    def spectra(self) -> dict[str, Tensor]:
        """By predictor, the truth too, (B, C, K): power at the last of the horizons."""
        if self._spectrum is None:
            return {}
        return {who: self._spectrum[:, :, p] for p, who in enumerate((*self._predictors, TRUTH))}


def _edge(spec: FamilySpec, device: torch.device) -> Tensor:
    """The numbers of the first and last cells along every axis, each once."""
    is_edge = torch.zeros(spec.grid, dtype=torch.bool)
    for axis in range(spec.dimensions):
        along = is_edge.movedim(axis, 0)
        along[0] = along[-1] = True
    return is_edge.flatten().nonzero()[:, 0].to(device)
