"""What PDEBench's names and attributes tell of a file: its family, boundaries and parameters.

File names as published (doi:10.18419/darus-2986), such as `1D_CFD_Rand_Eta1.e-8_Zeta1.e-8_periodic_Train.hdf5`; root
attributes and YAML configurations as its generators write them.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from ups_scale.data.source import hdf5_attribute, hdf5_item, hdf5_reads, hdf5_shape, text_of
from ups_scale.errors import DataError
from ups_scale.physics.families import BOUNDARY_KINDS, FAMILIES, Family

NUMBER = r"([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?)"
FLOW = {"M": f"_M{NUMBER}", "eta": f"_Eta{NUMBER}", "zeta": f"_Zeta{NUMBER}"}
# How names start -> (family, {parameter: pattern of its value in the name}).
NAMES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "1D_Advection": ("advection_1d", {"beta": f"_beta{NUMBER}"}),
    # The equation's viscosity is Nu / pi, and the registry's nu is that Nu.
    "1D_Burgers": ("burgers_1d", {"nu": f"_Nu{NUMBER}"}),
    "ReacDiff": ("reaction_diffusion_1d", {"nu": f"_Nu{NUMBER}", "rho": f"_Rho{NUMBER}"}),
    "1D_diff-sorp": ("diffusion_sorption_1d", {}),
    "1D_CFD": ("compressible_flow_1d", FLOW),
    "2D_CFD": ("compressible_flow_2d", FLOW),
    "3D_CFD": ("compressible_flow_3d", FLOW),
    "2D_diff-react": ("reaction_diffusion_2d", {}),
    "2D_rdb": ("shallow_water_2d", {}),
    "2D_DarcyFlow": ("darcy_2d", {"beta": f"_beta{NUMBER}"}),
    "2D_DecayFlow": ("darcy_2d", {"beta": f"_beta{NUMBER}"}),  # as its Data_Merge.py names Darcy's files
    "ns_incom": ("incompressible_ns_2d", {}),
    "ns_sim_2d": ("incompressible_ns_2d", {}),
}
BOUNDARY_TOKEN = re.compile(r"_(periodic|trans)(?=_|$)")
TOKEN_KINDS = {"periodic": "periodic", "trans": "open"}
CONFIG_CHARACTERS = 2**16
SIDES = {"diffusion_sorption_1d": (("dirichlet", "robin"),)}
# Loads ten times as fast as the parser in Python, and a file may hold ten thousand.
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def by_name(path: Path) -> tuple[str, Mapping[str, str]] | None:
    """(family, patterns of its parameters) by the file's name, None for a name that isn't PDEBench's."""
    return next((entry for start, entry in NAMES.items() if path.name.startswith(start)), None)


def recognise_family(path: Path, file: h5py.File, stated: str | None = None) -> tuple[Family, str] | None:
    """The family and what says so: what the caller states, else the file's attribute, its name, or arrays that only
    one family has; None where nothing does.

    Raises:
        DataError: a family is stated that the registry does not have.
    """
    attribute = hdf5_attribute(path, file, "family")
    named = by_name(path)
    if stated is not None:
        name, why = stated, "--family says so"
    elif attribute is not None:
        name, why = text_of(attribute), f"its attribute family is {text_of(attribute)!r}"
    elif named:
        name, why = named[0], f"it is named as PDEBench names {named[0]}"
    else:
        return _by_arrays(path, file)
    if name not in FAMILIES:
        near = difflib.get_close_matches(name.lower(), FAMILIES, n=1)
        known = f"did you mean {near[0]}?" if near else f"give --family, one of {', '.join(sorted(FAMILIES))}"
        raise DataError(f"{path}: unknown family {name!r}; {known}")
    return FAMILIES[name], why


def overridden(
    path: Path, file: h5py.File, chosen: Family, family: str | None, stated: Mapping[str, float]
) -> tuple[str, ...]:
    """Notes on what the caller states otherwise than the file's attributes and name do."""
    notes = []
    attribute, named = hdf5_attribute(path, file, "family"), by_name(path)
    own = text_of(attribute) if attribute is not None else named[0] if named else family
    if family is not None and own != family:
        where = "its attribute" if attribute is not None else "its name"
        notes.append(f"taken as {family}, as --family says; {where} says {own}")
    for name, value in stated.items():
        try:
            said = _constant(path, file, chosen, name)
        except DataError:  # which of two is settled by what is stated
            continue
        if said is not None and not math.isclose(said, value, rel_tol=1e-4):
            notes.append(f"{name} is {value:g}, as --parameter says; its name or attribute says {said:g}")
    return tuple(notes)


def _by_arrays(path: Path, file: h5py.File) -> tuple[Family, str] | None:
    with hdf5_reads(path, "/"):
        names = set(file)
    if {"density", "pressure", "Vx"} <= names:
        dimensions = 1 + ("Vy" in names) + ("Vz" in names)
        velocities = ", ".join(f"V{axis}" for axis in "xyz"[:dimensions])
        return FAMILIES[f"compressible_flow_{dimensions}d"], f"it holds density, pressure, {velocities}"
    if {"velocity", "particles", "force", "t"} <= names:
        return FAMILIES["incompressible_ns_2d"], "it holds velocity, particles, force, t"
    if {"tensor", "nu"} <= names:
        solution, given = (hdf5_shape(path, hdf5_item(path, file, name)) for name in ("tensor", "nu"))
        if len(solution) == 4 and solution == (*given[:1], 1, *given[1:]):
            return FAMILIES["darcy_2d"], "it holds tensor (N, 1, X, Y) and nu (N, X, Y)"
    return None


def boundaries(path: Path, file: h5py.File, chosen: Family) -> tuple[tuple[str, str], ...]:
    """(low side, high side) kind per axis: the attribute `boundary` (a kind, or JSON [[low, high], ...]), else the
    file's name, else the family's.

    Raises:
        DataError: unknown kinds, or a flow whose boundaries nothing states.
    """
    stated = hdf5_attribute(path, file, "boundary")
    if stated is not None:
        text = text_of(stated)
        if text in BOUNDARY_KINDS:
            return ((text, text),) * chosen.dimensions
        try:
            sides = tuple((low, high) for low, high in json.loads(text))
        except (ValueError, TypeError):
            sides = ()
        if len(sides) != chosen.dimensions or not all(kind in BOUNDARY_KINDS for pair in sides for kind in pair):
            raise DataError(
                f"{path}: attribute boundary is {text!r}; write one of {', '.join(BOUNDARY_KINDS)} into it, or JSON "
                f'[["kind", "kind"], ...], the low and high side of each of {chosen.dimensions} axes'
            )
        return sides
    if chosen.name in SIDES:
        return SIDES[chosen.name]
    kind = chosen.boundary
    if chosen.name.startswith("compressible_flow"):
        token = BOUNDARY_TOKEN.search(path.stem)
        if not token:
            raise DataError(
                f"{path}: nothing states the boundaries; PDEBench has flows with periodic and with open ones and says "
                "_periodic_ or _trans_ in the file's name. Write the attribute `boundary` (periodic or open) into the "
                "file, or restore its name"
            )
        kind = TOKEN_KINDS[token.group(1)]
    return ((kind, kind),) * chosen.dimensions


def parameters(
    path: Path,
    file: h5py.File,
    groups: tuple[str, ...] | None,
    num: int,
    chosen: Family,
    stated: Mapping[str, float],
) -> np.ndarray:
    """(N, P) float64, NaN where nothing states a value. For each: what the caller states, else the array
    `parameters/<name>`, else root attribute and file name, else the YAML `config`.

    Raises:
        DataError: unknown parameters, arrays of another length, attribute and file name that differ, not a number.
    """
    unknown = sorted(set(stated) - set(chosen.parameters))
    if unknown:
        raise DataError(
            f"{path}: {chosen.name} has no parameter {', '.join(unknown)}; --parameter can set "
            f"{', '.join(chosen.parameters) or 'none'}"
        )
    values = np.full((num, len(chosen.parameters)), np.nan)
    for column, name in enumerate(chosen.parameters):
        array = hdf5_item(path, file, f"parameters/{name}")
        if name in stated:
            values[:, column] = stated[name]
        elif array is not None:
            shape = hdf5_shape(path, array)
            if shape != (num,):
                raise DataError(
                    f"{path}: parameters/{name} has shape {shape}; expected a number for each of {num} trajectories"
                )
            with hdf5_reads(path, f"parameters/{name}"):
                values[:, column] = array[()]
        else:
            constant = _constant(path, file, chosen, name)
            if constant is not None:
                values[:, column] = constant
            elif groups is not None:
                values[:, column] = [_from_config(path, _config(path, file, group), group, name) for group in groups]
            else:
                values[:, column] = _from_config(path, _root_config(path, file), "/", name)
    return values


def _constant(path: Path, file: h5py.File, chosen: Family, name: str) -> float | None:
    """The value that a root attribute and the file's name give to all trajectories."""
    found: dict[str, float] = {}
    with hdf5_reads(path, "attributes of /"):
        keys = [key for key in file.attrs if key.lower() == name.lower()]
    for key in keys:
        value = hdf5_attribute(path, file, key)
        try:
            found[f"attribute {key}"] = float(value)
        except (TypeError, ValueError):
            raise DataError(f"{path}: attribute {key} is {text_of(value)!r}; expected a number") from None
    named = by_name(path)
    match = re.search(named[1][name], path.stem) if named and named[0] == chosen.name and name in named[1] else None
    if match:
        found["its name"] = float(match.group(1))
    if not found:
        return None
    if len(found) > 1 and not math.isclose(min(found.values()), max(found.values()), rel_tol=1e-4):
        said = ", ".join(f"{where} says {value:g}" for where, value in found.items())
        raise DataError(f"{path}: which {name} is it? {said}; give --parameter {name}=VALUE, or rename the file")
    return next(iter(found.values()))


def _config(path: Path, file: h5py.File, group: str) -> str:
    """The YAML of a trajectory: its group's attribute, or the root's `<group>/config` as some generators write it."""
    item = hdf5_item(path, file, group)
    value = hdf5_attribute(path, item, "config") if item is not None else None
    if value is None:
        value = hdf5_attribute(path, file, f"{group}/config")
    return "" if value is None else text_of(value)


def _root_config(path: Path, file: h5py.File) -> str:
    value = hdf5_attribute(path, file, "config")
    return "" if value is None else text_of(value)


def _parse(text: str) -> Mapping[str, Any]:
    """The mapping that a YAML configuration is.

    Raises:
        ValueError, yaml.YAMLError: it is none.
    """
    longest = max((len(line) for line in text.splitlines()), default=0)
    if len(text) > CONFIG_CHARACTERS or longest > 1000 or text.count("[") + text.count("{") > 1000 or "<<" in text:
        # Deeply nested ones overflow the parser's stack, and merge keys of merge keys grow without bound.
        raise ValueError("too long or too deeply nested, or with merge keys")
    try:
        config = yaml.load(text, YAML_LOADER) or {}
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(config, dict):
        raise ValueError(f"a {type(config).__name__}, not a mapping")
    return config


def _from_config(path: Path, text: str, where: str, name: str) -> float:
    """A parameter out of a YAML configuration; NaN where it isn't stated."""
    try:
        config = _parse(text)
        for key, value in config.get("sim", config).items():
            if str(key).lower() == name.lower():
                return float(value)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: {where}: {name} can't be read out of its attribute config ({reason}); expected YAML such as "
            f"`sim: {{{name}: 0.001}}`"
        ) from None
    return float("nan")


def domain_size(path: Path, file: h5py.File, dimensions: int) -> tuple[tuple[float, float], ...] | None:
    """Extents of a domain that starts at 0, by `domain_size` in the file's YAML `config`; None where it states none.

    Raises:
        DataError: what it states is no sizes.
    """
    text = _root_config(path, file)
    stated: Any = text
    try:
        stated = _parse(text).get("domain_size")
        if stated is None:
            return None
        sizes = [float(size) for size in stated] if isinstance(stated, list) else []
    except (yaml.YAMLError, ValueError, TypeError):
        sizes = []
    if len(sizes) != dimensions or not all(0 < size < math.inf for size in sizes):
        raise DataError(
            f"{path}: attribute config: domain_size is {str(stated)[:200]!r}; expected {dimensions} sizes above 0. "
            "Correct it, or write the attribute `extents`, JSON [[low, high], ...]"
        )
    return tuple((0.0, size) for size in sizes)
