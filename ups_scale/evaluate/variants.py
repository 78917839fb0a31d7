"""How a model takes an entry of the data: as a family it was trained on, or as a variant of one, fitted untrained."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ups_scale.errors import DataError, UserError
from ups_scale.model.extend import extended
from ups_scale.model.simulator import Simulator
from ups_scale.physics.families import VARIANT_MARK, FamilySpec

KIND = ("fields", "parameters", "geometry", "dimensions", "static", "coordinates", "steady")
"""In these a variant is as the model knows the family."""
EXTENT_TOLERANCE = 1e-5
"""How far extents may differ, as a part of the domain: many files keep their axes in float32."""
DT_MARGIN = 2.0
"""Times between frames may be shorter and longer than those trained on by this factor."""
SHOWN = 3  # names of weights in a message


@dataclass(frozen=True)
class Match:
    """The model's name for an entry of the data; if it differs from what the model was trained on, `taken_as` says what
    it is taken as, and `variant`, if any, is what the model has to be fitted to."""

    known_as: str
    taken_as: str = ""
    variant: FamilySpec | None = None


def match(
    spec: FamilySpec, known: Mapping[str, FamilySpec], max_stride: int = 1, reserved: Collection[str] = ()
) -> Match:
    """The trained entry that `spec` is, or is a variant of: another grid, number of points, domain or boundary.

    A variant's scales (u_rms, delta_rms, dt) are those that the model was trained with, so that nothing is taken from
    the test data. `max_stride` is the recipe's `data.max_stride`; a variant gets a name that isn't `reserved`.

    Raises:
        DataError: there is none, or its times don't cover the data's; says what the model knows.
    """
    family = [entry for entry in known.values() if entry.family == spec.family]
    if not family:
        names = sorted({entry.family for entry in known.values()})
        raise DataError(f"the model does not know the family {spec.family}; it knows {', '.join(names)}")
    alike = [entry for entry in family if all(getattr(entry, what) == getattr(spec, what) for what in KIND)]
    if not alike:
        raise DataError(f"it has {_kind(spec)}; the model knows {'; '.join(f'{e.name}: {_kind(e)}' for e in family)}")
    trained = min(alike, key=lambda entry: _distance(spec, entry))
    if not spec.steady:
        _check_times(spec, trained, max_stride)
    differences = _differences(spec, trained)
    if not differences:
        return Match(trained.name, "" if trained.name == spec.name else trained.name)
    name = spec.name
    if name in known:
        name = free_name(f"{name}{VARIANT_MARK}{spec_size(spec)}", {*known, *reserved})
    variant = replace(
        spec,
        name=name,
        u_rms=trained.u_rms,
        delta_rms=trained.delta_rms,
        dt=trained.dt,
    )
    return Match(variant.name, f"{trained.name}, fitted without training to {'; '.join(differences)}", variant)


def fitted(model: Simulator, variants: Sequence[FamilySpec]) -> tuple[Simulator, dict[str, str]]:
    """`model` with those of the variants that need no untrained weight; and of the others, by name, why not."""
    refused = {}
    for spec in variants:
        try:
            larger, fresh = extended(model, [spec])
        except UserError as error:
            refused[spec.name] = f"the model can't take it: {error}"
            continue
        if fresh:
            names = ", ".join(fresh[:SHOWN]) + (f" and {len(fresh) - SHOWN} more" if len(fresh) > SHOWN else "")
            refused[spec.name] = f"it needs weights that were never trained ({names}); fine-tune the model on it first"
        elif len(variants) == 1:
            return larger, refused
    # All from the trained weights at once: what is resized for one variant must not be resized again for the next.
    kept = [spec for spec in variants if spec.name not in refused]
    return (extended(model, kept)[0] if kept else model), refused


def same_extents(one: FamilySpec, other: FamilySpec) -> bool:
    """Whether two domains are the same, up to rounding."""
    return len(one.extents) == len(other.extents) and all(
        math.isclose(a, b, rel_tol=0, abs_tol=EXTENT_TOLERANCE * abs(high - low))
        for (low, high), ends in zip(one.extents, other.extents, strict=True)
        for a, b in zip((low, high), ends, strict=True)
    )


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or with a number behind it one that is not taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def spec_size(spec: FamilySpec) -> str:
    """For a name: "64x64", or "points256"."""
    return ("points" if spec.geometry == "points" else "") + "x".join(map(str, spec.grid))


def describe_size(spec: FamilySpec) -> str:
    """For people: "grid 64 x 64", or "256 points"."""
    return f"{spec.grid[0]} points" if spec.geometry == "points" else f"grid {' x '.join(map(str, spec.grid))}"


def _check_times(spec: FamilySpec, trained: FamilySpec, max_stride: int) -> None:
    least, most = trained.dt / DT_MARGIN, DT_MARGIN * trained.dt * max_stride
    if not least <= spec.dt <= most:
        strides = "a stride of 1" if max_stride == 1 else f"strides of 1 to {max_stride}"
        raise DataError(
            f"its frames are {spec.dt:g} s apart (the median); the model knows {trained.name} with frames "
            f"{trained.dt:g} s apart, trained at {strides}, so {least:g} to {most:g} s. Shard frames of such times, or "
            "fine-tune on these first"
        )


def _distance(spec: FamilySpec, entry: FamilySpec) -> tuple[bool, bool, float, bool, str]:
    points = math.log(math.prod(spec.grid) / math.prod(entry.grid))
    shape = sum(abs(math.log(a / b)) for a, b in zip(spec.grid, entry.grid, strict=True))
    return (
        entry.boundaries != spec.boundaries,
        not same_extents(spec, entry),
        abs(points) + shape,
        entry.name != spec.name,
        entry.name,
    )


def _differences(spec: FamilySpec, trained: FamilySpec) -> list[str]:
    differences = []
    if spec.grid != trained.grid:
        differences.append(f"{describe_size(spec)} (trained on {describe_size(trained)})")
    if not same_extents(spec, trained):
        differences.append(f"domain {_domain(spec)} (trained on {_domain(trained)})")
    if spec.boundaries != trained.boundaries:
        differences.append(f"boundaries {_boundaries(spec)} (trained on {_boundaries(trained)})")
    return differences


def _kind(spec: FamilySpec) -> str:
    parts = [
        f"fields ({', '.join(spec.fields)})",
        f"parameters ({', '.join(spec.parameters)})",
        f"{spec.dimensions} {'axis' if spec.dimensions == 1 else 'axes'}",
        describe_size(spec),
    ]
    given = [name for name in spec.static if name not in spec.coordinates]
    if given:
        parts.append(f"static ({', '.join(given)})")
    if spec.coordinates:
        parts.append(f"coordinates ({', '.join(spec.coordinates)})")
    return ", ".join([*parts, "steady"] if spec.steady else parts)


def _domain(spec: FamilySpec) -> str:
    return " x ".join(f"{low:g} to {high:g}" for low, high in spec.extents)


def _boundaries(spec: FamilySpec) -> str:
    return " x ".join(low if low == high else f"{low} to {high}" for low, high in spec.boundaries)
