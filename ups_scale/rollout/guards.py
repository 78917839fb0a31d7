"""Guards: known physics that every predicted frame is made to keep, the same for every model that is compared.

    helmholtz        incompressible flows: the nearest velocity without divergence (physics/projections.py)
    positivity       fields the registry calls positive: no value below zero
    interface_flux   no jump of the predicted change at the faces between a model's patches
    conservation     the integral of each conserved field is that of the last given frame

A guard that a family doesn't grant is left out of it, with the reason.

Dimensions: b trajectory, c field, x space axes or points.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from ups_scale.errors import UserError
from ups_scale.model.constants import constant
from ups_scale.model.lattice import Tiling
from ups_scale.physics.families import FamilySpec, divergence_free, has_shocks, positive
from ups_scale.physics.invariants import INTEGRAL, quantities
from ups_scale.physics.projections import divergence_free as projected
from ups_scale.rollout.corrections import MIN_PATCH, continuous_at_faces, face_axes, non_negative, shifted

GUARDS = ("interface_flux", "helmholtz", "conservation", "positivity")
"""In the order in which they act. The last ones hold exactly; a projection may bring back a little of a jump."""
FIELD_OF = {"mass": "density", "water": "height"}
"""The conserved quantities that are the integral of one field."""


@dataclass(frozen=True)
class Guards:
    """Guards by name, and what becomes of them in a number of families.

    Args:
        names: of the guards, some of `GUARDS`.
        specs: the families to tell of in `applied` and `left_out`.
        tilings: the patches of the model that is judged, by family (`Simulator.tilings`), whose faces `interface_flux`
            looks at: those of the same grid. Give the same ones for all models that are compared with it.
        moving: the names in `tilings` whose patches move from step to step (`Simulator.moving_patches`): they have no
            faces to look at.

    Raises:
        UserError: there is no guard of a name; lists those that there are.
    """

    names: tuple[str, ...]
    specs: Mapping[str, FamilySpec]
    tilings: Mapping[str, Tiling] = field(default_factory=dict)
    moving: Collection[str] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in GUARDS]
        if unknown:
            raise UserError(f"guards {', '.join(unknown)}: no such guard; there are {', '.join(sorted(GUARDS))}")

    @cached_property
    def applied(self) -> dict[str, tuple[str, ...]]:
        """Per family, the guards that act on it, in the order in which they do."""
        return {family: self.of(spec) for family, spec in self.specs.items()}

    @cached_property
    def left_out(self) -> dict[str, dict[str, str]]:
        """Per family, the guards that don't act on it, each with the reason."""
        reasons = {family: self._reasons(spec) for family, spec in self.specs.items()}
        return {family: {name: reason for name, reason in of.items() if reason} for family, of in reasons.items()}

    def of(self, spec: FamilySpec) -> tuple[str, ...]:
        """The guards that act on a family, in the order in which they do."""
        return tuple(name for name, reason in self._reasons(spec).items() if not reason)

    def start(
        self, spec: FamilySpec, last_bcx: Tensor, mask_bcx: Tensor | None = None
    ) -> Callable[[Tensor], Tensor] | None:
        """The guard of one rollout from the last given frame: takes predicted frames (B, C, *X) in physical units, in
        order, and returns those to put in their place. None where no guard acts.

        Args:
            mask_bcx: (B, C, *X) bool, where the last given frame has a value; None: everywhere.
        """
        names, (tiling, _) = self.of(spec), self._patches(spec)
        if not names:
            return None
        kept = constant(conserved_fields(spec), last_bcx.device)
        mean_bc = last_bcx[:, kept].double().flatten(2).mean(dim=2)
        before_bcx = last_bcx

        def guard(u_bcx: Tensor) -> Tensor:
            nonlocal before_bcx
            if "interface_flux" in names:
                assert tiling is not None
                dynamic = constant(spec.dynamic, u_bcx.device)
                smooth = continuous_at_faces(u_bcx[:, dynamic], before_bcx[:, dynamic], tiling)
                u_bcx = u_bcx.index_copy(1, dynamic, smooth)
            if "helmholtz" in names:
                parts = constant(divergence_free(spec), u_bcx.device)
                u_bcx = u_bcx.index_copy(1, parts, projected(u_bcx[:, parts], spec))
            if "conservation" in names:
                u_bcx = u_bcx.index_copy(1, kept, shifted(u_bcx[:, kept], mean_bc))
            if "positivity" in names:
                u_bcx = _clamped(u_bcx, mask_bcx, spec)
            before_bcx = u_bcx
            return u_bcx

        return guard

    def _reasons(self, spec: FamilySpec) -> dict[str, str]:
        tiling, moves = self._patches(spec)
        return {name: _why_not(name, spec, tiling, moves) for name in GUARDS if name in self.names}

    def _patches(self, spec: FamilySpec) -> tuple[Tiling | None, bool]:
        """The patches of the family's grid, if they are known, and whether they move."""
        for name, tiling in self.tilings.items():
            if (tiling.grid, tiling.periodic) == (spec.grid, spec.periodic):
                return tiling, name in self.moving
        return None, False


def conserved_fields(spec: FamilySpec) -> tuple[int, ...]:
    """The numbers of the predicted fields whose own integral is constant in time."""
    closed = [quantity for quantity in quantities(spec) if quantity.is_closed]
    names = {quantity.field if quantity.name == INTEGRAL else FIELD_OF.get(quantity.name) for quantity in closed}
    return tuple(number for number in spec.dynamic if spec.fields[number] in names)


def _why_not(name: str, spec: FamilySpec, tiling: Tiling | None, moves: bool) -> str:
    """Why a guard doesn't act on a family; empty if it does."""
    if name == "positivity":
        return "" if positive(spec) else "the registry calls none of its predicted fields positive"
    if spec.geometry != "grid":
        return "it lies on scattered points, which have no cells"
    if spec.masked:
        return "it has points without a value, so its fields don't fill the domain"
    if name == "helmholtz":
        return "" if divergence_free(spec) else "the registry names no velocity without divergence that it predicts"
    if name == "conservation":
        return "" if conserved_fields(spec) else "no integral of a predicted field is constant under its boundaries"
    return _why_no_faces(spec, tiling, moves)


def _why_no_faces(spec: FamilySpec, tiling: Tiling | None, moves: bool) -> str:
    if spec.steady:
        return "it is steady: there is no change from frame to frame"
    if has_shocks(spec):
        return "its solutions have shocks, which jump where they are"
    if tiling is None:
        return "no patches are known for it"
    if moves:
        return "the model's patches move from step to step"
    if not tiling.exact:
        return "its patches overlap, so there are no faces between them"
    if not face_axes(tiling):
        return f"it has no two patches of {MIN_PATCH} or more points side by side"
    return ""


def _clamped(u_bcx: Tensor, mask_bcx: Tensor | None, spec: FamilySpec) -> Tensor:
    """The positive fields without negative values, those with a constant integral at that integral."""
    kept = conserved_fields(spec)
    for conserving in (True, False):
        chosen = tuple(number for number in positive(spec) if (number in kept) == conserving)
        if chosen:
            numbers = constant(chosen, u_bcx.device)
            mask = None if mask_bcx is None else mask_bcx[:, numbers]
            u_bcx = u_bcx.index_copy(1, numbers, non_negative(u_bcx[:, numbers], mask, conserving))
    return u_bcx
