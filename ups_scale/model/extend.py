"""A trained model for further families, or for known ones at other resolutions; what it has learned stays untouched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ups_scale.errors import DataError
from ups_scale.model.decoder import FieldHead
from ups_scale.model.encoder import FieldProjection
from ups_scale.model.interpolate import decoder_resize, encoder_resize
from ups_scale.model.simulator import Simulator
from ups_scale.physics.families import FamilySpec

# What a family of a name is, as a model knows it; statistics and times may differ.
DEFINING = (
    "fields", "parameters", "grid", "geometry", "coordinates", "extents", "boundaries", "static", "steady"
)  # fmt: skip


@torch.no_grad()
def extended(model: Simulator, specs: Sequence[FamilySpec]) -> tuple[Simulator, list[str]]:
    """A model that knows the families of `model` and `specs`, and the names of its weights that are new.

    Every weight of `model` is in it, unchanged, so it predicts the same for the families that `model` knows. New
    fields, parameters and families get new rows in the tables, as a new model has them (from torch's global generator:
    seed it first). A patch shape that is new for a known field is no new weight: its projection and head are those of
    the nearest known shape, resized (FlexiViT, arXiv 2212.08013), so that a known family at another resolution is
    encoded and decoded as it was learned, with no further training. New as a whole are an encoder or decoder of a kind
    that the model lacks, and the weights of a U-shaped operator that merge neighbours as no known lattice asks for.

    Raises:
        DataError: `model` knows a family of that name with other fields or parameters, or on another grid.
        RecipeError: a model of these settings can't take the family.
    """
    if len({spec.name for spec in specs}) < len(specs):
        raise DataError(f"families {', '.join(spec.name for spec in specs)}: a name is given twice")
    for spec in specs:
        known = model.specs.get(spec.name)
        for what in DEFINING if known is not None else ():
            if getattr(known, what) != getattr(spec, what):
                found, expected = (str(getattr(of, what)).replace("'", "") for of in (spec, known))
                raise DataError(
                    f"family {spec.name}: {what} {found}, but the model knows it with {expected}; name the variant "
                    f"{spec.name}-<something>"
                )
    everything = {**model.specs, **{spec.name: spec for spec in specs if spec.name not in model.specs}}
    larger = Simulator(list(everything.values()), **model.arguments)
    larger.to(next(model.parameters()).device).train(model.training)
    old = dict(model.named_modules())
    fresh: list[str] = []
    for path, module in larger.named_modules():
        fresh += [f"{path}.{name}" for name in _filled(module, old.get(path), _siblings(path, old))]
    return larger, fresh


def _filled(module: nn.Module, old: nn.Module | None, siblings: dict[str, nn.Module]) -> Iterator[str]:
    """Copies what is known into a module's own weights; yields the names of those, or rows of those, that are new."""
    rows = getattr(module, "row_names", None)
    old_rows = getattr(old, "row_names", ())
    known = {} if old is None else dict(old.named_parameters(recurse=False))
    for name, weight in module.named_parameters(recurse=False):
        source = known.get(name)
        if rows is None:
            if source is None:
                yield name
            else:
                weight.copy_(source)
            continue
        for number, row in enumerate(rows):
            if source is not None and row in old_rows:
                weight[number].copy_(source[old_rows.index(row)])
                continue
            values = _resized(module, name, row, siblings)
            if values is None:
                yield f"{name}[{row}]"
            else:
                weight[number].copy_(values)


def _siblings(path: str, old: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The old modules for the other patch shapes of as many axes, by shape; none if `path` is no patch's module."""
    parent, _, key = path.rpartition(".")
    if parent.rpartition(".")[2] not in ("projections", "heads"):
        return {}
    known = {
        shape: module
        for place, module in old.items()
        for above, _, shape in [place.rpartition(".")]
        if above == parent and shape != key and len(_edges(shape)) == len(_edges(key))
    }
    nearest = sorted(known, key=lambda shape: _distance(shape, key))
    return {key: nn.Module(), **{shape: known[shape] for shape in nearest}}


def _resized(module: nn.Module, name: str, row: str, siblings: dict[str, nn.Module]) -> Tensor | None:
    """The row of a patch's projection or head, from the nearest patch shape that has one; None if there is none."""
    if not isinstance(module, FieldProjection | FieldHead) or len(siblings) < 2:
        return None
    key, *others = siblings
    for other in others:
        sibling = siblings[other]
        if not isinstance(sibling, FieldProjection | FieldHead) or row not in sibling.row_names:
            continue
        values = getattr(sibling, name)[sibling.row_names.index(row)]
        if isinstance(module, FieldProjection):
            if name == "bias":
                return values
            resize_vu = encoder_resize(_edges(other), _edges(key)).to(values)
            return torch.einsum("vu,tud->tvd", resize_vu, values.unflatten(0, (-1, resize_vu.shape[1]))).flatten(0, 1)
        return values @ decoder_resize(_edges(other), _edges(key)).to(values)
    return None


def _edges(key: str) -> tuple[int, ...]:
    return tuple(map(int, key.split("x")))


def _distance(one: str, other: str) -> float:
    return sum(abs(float(torch.tensor(a / b).log())) for a, b in zip(_edges(one), _edges(other), strict=True))
