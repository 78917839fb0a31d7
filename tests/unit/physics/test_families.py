"""The registry of families is whole, and a data set's own description of one."""

import re
from dataclasses import replace

import pytest
from measured_specs import conserved

from ups_scale.errors import DataError
from ups_scale.physics.families import BOUNDARY_KINDS, FAMILIES, divergence_free, family, has_shocks, positive
from ups_scale.solvers import SETUPS

NAME = re.compile(r"[a-z][a-z0-9_]*")


@pytest.mark.parametrize("name", FAMILIES)
def test_an_entry_is_whole(name):
    entry = FAMILIES[name]
    assert family(name) is entry
    assert NAME.fullmatch(name)
    assert name.endswith(f"_{entry.dimensions}d")
    fields = [field.name for field in entry.fields]
    assert len(set(fields)) == len(fields) > 0
    assert all(NAME.fullmatch(field) for field in fields)
    assert all(field.unit for field in entry.fields)
    assert any(not field.static for field in entry.fields)
    assert len(set(entry.parameters)) == len(entry.parameters)
    assert entry.boundary in BOUNDARY_KINDS
    # Only what is given can be mapped to a solution.
    assert not entry.steady or any(field.static for field in entry.fields)
    assert sum(field.startswith("velocity_") for field in fields) in (0, entry.dimensions)


@pytest.mark.parametrize(
    "name", [name for name in FAMILIES if name not in ("compressible_flow_3d", "incompressible_ns_2d")]
)
def test_an_equation_names_its_parameters(name):
    """Flows are described in words; the rest can be read off."""
    entry = FAMILIES[name]
    words = set(re.findall(r"[A-Za-z_]+", entry.equation))
    known = words | {"M"} if name.startswith("compressible") else words
    for parameter in entry.parameters:
        assert parameter in known or parameter.rpartition("_")[0] in known


def test_unknown_families_are_refused_with_those_there_are():
    with pytest.raises(DataError, match=f"unknown family 'heat'; known families: {', '.join(sorted(FAMILIES))}"):
        family("heat")


@pytest.mark.parametrize("name", SETUPS)
def test_a_generated_familys_description(name):
    spec = SETUPS[name].spec()
    entry = FAMILIES[spec.family]
    assert spec.name == name
    assert spec.dimensions == entry.dimensions == len(spec.grid) == len(spec.boundaries)
    assert [spec.fields[number] for number in spec.dynamic] == [f.name for f in entry.fields if not f.static]
    assert spec.periodic == tuple(sides == ("periodic", "periodic") for sides in spec.boundaries)
    assert spec.steps((1, 4, 16)) == ((1,) if entry.steady else (1, 4, 16))
    assert (spec.dt != spec.dt) == entry.steady
    assert set(conserved(spec)) <= set(entry.invariants)
    assert conserved(replace(spec, masked=True)) == ()
    fields = {spec.fields[number] for number in spec.dynamic}
    assert {spec.fields[number] for number in positive(spec)} == set(entry.positive)
    assert [spec.fields[number] for number in divergence_free(spec)] == list(entry.divergence_free)
    assert {*entry.positive, *entry.divergence_free, *entry.boundary_values} <= fields
    assert len(entry.divergence_free) in (0, entry.dimensions)
    assert has_shocks(spec) == entry.shocks


def test_nothing_is_known_of_an_unknown_family_or_a_velocity_without_a_component():
    spec = SETUPS["navier_stokes_3d"].spec()
    assert divergence_free(spec) == (0, 1, 2)
    assert divergence_free(replace(spec, fields=("velocity_x", "velocity_y", "other"))) == ()
    unknown = replace(SETUPS["compressible_flow_1d"].spec(), name="somebody_elses")
    assert positive(unknown) == ()
    assert not has_shocks(unknown)
