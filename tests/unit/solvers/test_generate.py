"""What the generated trajectories depend on, the out-of-distribution splits, and that there is something to learn."""

import functools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ups_scale.errors import DataError
from ups_scale.solvers import SETUPS, default_specs, generate_batches, generate_family
from ups_scale.solvers.generate import OOD_SPLITS, Request, generator, other_cases, resolve
from ups_scale.solvers.setups import USUAL

NAMES = list(SETUPS)
DEMO = ("advection_1d", "burgers_1d", "reaction_diffusion_2d", "navier_stokes_2d")
# Those whose 24 usual trajectories take a second or less.
QUICK = (
    "korteweg_de_vries_1d",
    "kuramoto_sivashinsky_1d",
    "reaction_diffusion_1d",
    "diffusion_sorption_1d",
    "advection_diffusion_2d",
    "acoustics_2d",
    "acoustics_2d-obstacles",
    "darcy_2d",
    "advection_1d-pdebench",
)
SLOW = ("compressible_flow_2d", "compressible_flow_2d-obstacles", "navier_stokes_3d")
DOCS = Path(__file__).parents[3] / "docs" / "families.md"
SPLITS_MADE = [
    (name, split) for name in NAMES for split in other_cases(SETUPS[name], resolve(Request(name), "train")[1])
]


def small(name, **changes) -> Request:
    dimensions = len(SETUPS[name].grid)
    grid = (128,) if dimensions == 1 else (16,) * dimensions
    return Request(name, **{"num_frames": 3, "grid": grid, **changes})


@functools.cache
def made(name, split="train", **changes):
    count = 3 if split == "train" else 1 if name in SLOW else 2
    return generate_family(small(name, **changes), count, split=split, batch_size=3)


@functools.cache
def usual(name, seed=0):
    # PDEBench's starts differ much in scale: it takes more of them, of which every fourth cell will do.
    published = name.endswith("-pdebench")
    request = Request(name, seed=seed, grid=(256,) if published else None)
    return generate_family(request, 96 if published else 24).fields_btcx.astype(np.float64)


def rms(values, axes):
    return np.sqrt(np.nanmean(values**2, axes))


@pytest.mark.parametrize("name", NAMES)
def test_a_trajectory_depends_on_its_number_only(name):
    """Not on how many are made, in what batches, where they begin, or how long they are."""
    alone, many = generate_family(small(name, num_frames=2), 1, first=2), made(name)
    np.testing.assert_allclose(alone.fields_btcx[0], many.fields_btcx[2, :2], rtol=0, atol=1e-6)
    for key, values in alone.parameters.items():
        assert np.array_equal(many.parameters[key][2:], values)


@pytest.mark.parametrize("name", NAMES)
def test_splits_seeds_and_indices_give_other_trajectories_and_a_repeat_the_same(name):
    def make(split="train", **changes):
        return generate_family(small(name, num_frames=2, **changes), 1, split=split, batch_size=2).fields_btcx[0]

    first = make()
    assert np.array_equal(make(), first, equal_nan=True)
    least = 0.1 if name in DEMO else 0.1 * np.nanmax(np.abs(first))
    for other in (make("test"), make("valid"), make(seed=1), made(name).fields_btcx[1, :2]):
        assert np.nanmax(np.abs(other - first)) > least


@pytest.mark.parametrize("name", NAMES)
def test_shapes_types_and_parameters_are_the_registrys(name):
    setup, fields = SETUPS[name], made(name).fields_btcx
    spec, family = setup.spec(), setup.family
    assert fields.shape == (3, 2 if family.steady else 3, len(family.fields), *small(name).grid)
    assert fields.dtype == np.float32
    assert (spec.family, spec.name, spec.parameters) == (family.name, name, family.parameters)
    assert spec.static == tuple(field.name for field in family.fields if field.static)
    assert (len(spec.u_rms), len(spec.delta_rms)) == (len(spec.fields),) * 2
    assert (spec.grid, spec.dimensions) == (resolve(Request(name), "train")[1].grid, family.dimensions)
    assert set(made(name).parameters) == set(family.parameters)
    assert all(values.shape == (3,) and values.dtype == np.float64 for values in made(name).parameters.values())


def test_default_specs_are_those_of_the_usual_setups():
    assert tuple(default_specs()) == USUAL
    assert set(NAMES) - set(USUAL) == {"advection_1d-pdebench", "burgers_1d-pdebench"}


@pytest.mark.parametrize("name", NAMES)
def test_there_is_nan_inside_obstacles_and_nowhere_else(name):
    setup, case = resolve(small(name), "train")
    fields = made(name).fields_btcx
    assert setup.spec().masked == bool(setup.shapes)
    if not setup.shapes:
        assert np.isfinite(fields).all()
        return
    drawn = [setup.draw(generator(0, name, "train", number), case, setup.internal(case)) for number in range(3)]
    solid = np.stack([one.solid_x for one in drawn])
    assert np.array_equal(np.isnan(fields), np.broadcast_to(solid[:, None, None], fields.shape))
    shares = solid.mean((1, 2))
    assert 0 < shares.max() < 0.5
    assert not np.array_equal(solid[0], solid[1])


@pytest.mark.parametrize("name", NAMES)
def test_static_fields_stay_and_the_others_move(name):
    for number, field in enumerate(SETUPS[name].family.fields):
        values = made(name).fields_btcx[:, :, number]
        if field.static:
            assert np.array_equal(values, np.broadcast_to(values[:, :1], values.shape), equal_nan=True)
        else:
            assert (np.nanmax(np.abs(np.diff(values, axis=1)), axis=tuple(range(2, values.ndim))) > 0).all()


# Out of distribution.


def coarser(setup, values, size):
    """What a frame on more points is on `size` of them."""
    for axis in range(3, values.ndim):
        values = np.moveaxis(values, axis, -1)
        blocks = values.reshape(*values.shape[:-1], size, -1)
        values = np.moveaxis(blocks[..., 0] if setup.points == "left" else blocks.mean(-1), -1, axis)
    return values


@pytest.mark.parametrize(("name", "split"), SPLITS_MADE)
def test_out_of_distribution_splits_start_as_the_test_split_and_change_one_thing(name, split):
    changes = {"num_frames": 8} if split == "ood_boundary" and name != "compressible_flow_2d" else {}
    setup, case = resolve(small(name, **changes), split)
    _, usual_case = resolve(small(name, **changes), "test")
    test, other = made(name, "test", **changes), made(name, split, **changes)
    u, v = test.fields_btcx[:, 0], other.fields_btcx[:, 0]
    assert np.isfinite(other.fields_btcx).all() or setup.shapes
    if split == "ood_regime":
        assert replace(case, ranges=usual_case.ranges, finest=usual_case.finest) == usual_case
        assert case.finest == max(setup.finest, setup.finest_other)
        for quantity, (low, high) in setup.other_ranges.items():
            before, after = usual_case.ranges[quantity], case.ranges[quantity]
            assert (after.low, after.high) == (low, high)
            assert not before.low < (low + high) / 2 < before.high
            values = other.parameters
            if quantity in values or quantity == "speed":
                x = np.hypot(values["velocity_x"], values["velocity_y"]) if quantity == "speed" else values[quantity]
                assert ((low <= np.abs(x) * (1 + 1e-12)) & (np.abs(x) <= high * (1 + 1e-12))).all()
        for parameter in set(setup.family.parameters) - {*setup.other_ranges, "kill", "velocity_x", "velocity_y"}:
            assert np.array_equal(other.parameters[parameter], test.parameters[parameter])
        assert np.nanmax(np.abs(other.fields_btcx - test.fields_btcx)) > 1e-4
    elif split == "ood_boundary":
        assert case == replace(usual_case, boundary=setup.other_boundary)
        assert case.boundary != usual_case.boundary
        if name != "gray_scott_2d":  # it shows nothing of its first minutes
            assert np.array_equal(u, v, equal_nan=True)
        assert np.nanmax(np.abs(other.fields_btcx[:, -1] - test.fields_btcx[:, -1])) > 1e-4
    elif split == "ood_geometry":
        assert case == replace(usual_case, shapes=setup.other_shapes)
        assert all((a != b).any() for a, b in zip(np.isnan(u), np.isnan(v), strict=True))
        both = ~np.isnan(u + v)
        assert np.array_equal(u[both], v[both])
    else:
        assert case == replace(usual_case, grid=tuple(2 * size for size in usual_case.grid))
        v = coarser(setup, other.fields_btcx, usual_case.grid[0])
        both = ~np.isnan(v + test.fields_btcx)
        assert both.mean() > 0.7
        # Incompressible flows lose the modes that 16 points can't show; obstacles are drawn in the frames' own cells.
        truncated = setup.family.name in ("navier_stokes_2d", "kolmogorov_flow_2d", "navier_stokes_3d")
        tolerance = 0.3 if setup.shapes else 0.15 if truncated else 1e-5
        difference = np.abs(v - test.fields_btcx)[both].max()
        assert difference <= tolerance * np.abs(test.fields_btcx[both]).max()


@pytest.mark.parametrize("name", NAMES)
def test_splits_that_a_family_does_not_have_are_refused_with_those_it_has(name):
    has = [split for each, split in SPLITS_MADE if each == name]
    for split in {*OOD_SPLITS, "dev"} - set(has):
        with pytest.raises(DataError) as error:
            generate_family(Request(name), 1, split=split)
        assert f"{name}: no split {split!r}; it has {', '.join(('train', 'valid', 'test', *has))}" in str(error.value)


def test_every_kind_of_split_is_there_for_some_family():
    assert {split for _, split in SPLITS_MADE} == set(OOD_SPLITS)
    assert {name for name, split in SPLITS_MADE if split == "ood_geometry"} == {
        "compressible_flow_2d-obstacles",
        "acoustics_2d-obstacles",
    }
    assert {name for name, split in SPLITS_MADE if split == "ood_regime"} == set(USUAL)
    # What is another kind of boundary for a family that was asked for with that kind is none.
    _, walled = resolve(Request("shallow_water_2d", boundary="wall"), "train")
    assert "ood_boundary" not in other_cases(SETUPS["shallow_water_2d"], walled)


# Worth learning from.


@pytest.mark.parametrize("name", [*DEMO, *QUICK])
def test_default_specs_state_the_scale_of_the_data(name):
    fields, spec = usual(name), SETUPS[name].spec()
    axes = (0, 1, *range(3, fields.ndim))
    of_u, of_delta = (0.15, 0.2) if name in DEMO else (0.25, 0.25)
    np.testing.assert_allclose(rms(fields, axes), spec.u_rms, rtol=of_u)
    np.testing.assert_allclose(rms(np.diff(fields, axis=1), axes), spec.delta_rms, rtol=of_delta)


@pytest.mark.parametrize("name", DEMO)
def test_trajectories_are_alike_in_scale_and_none_dies(name):
    fields = usual(name, seed=11)
    rms_btc = rms(fields, tuple(range(3, fields.ndim)))
    per_trajectory = np.sqrt((rms_btc**2).mean(1))
    assert (per_trajectory.max(0) / per_trajectory.min(0) < 3).all()
    assert rms_btc.min() > 0.1


@pytest.mark.parametrize("name", [name for name in QUICK if not SETUPS[name].family.steady])
def test_trajectories_go_on_moving(name):
    """At their end they still differ from frame to frame, and from place to place."""
    fields = usual(name)[:, :, list(SETUPS[name].spec().dynamic)]
    space = tuple(range(3, fields.ndim))
    step_btc, spread_btc = rms(np.diff(fields, axis=1), space), np.nanstd(fields, axis=space)
    late, early = np.median(step_btc[:, -4:], (0, 1)), np.median(step_btc[:, :4], (0, 1))
    assert (late > 0.05 * early).all()
    assert (np.median(spread_btc[:, -1], 0) > 0.1 * np.median(spread_btc[:, 4], 0)).all()


def test_the_persistence_table_in_the_docs_is_what_its_command_prints(capsys):
    text = DOCS.read_text()
    snippet = re.search(r"```python\n(.*?persistence.*?)```", text, re.DOTALL).group(1)
    assert "in SETUPS" not in snippet, "takes minutes: loop over the table's four families"
    exec(snippet, {})
    printed = {
        row.split()[0]: [float(value) for value in row.split()[1:]] for row in capsys.readouterr().out.splitlines()
    }
    assert tuple(printed) == DEMO
    for name, values in printed.items():
        row = re.search(rf"^\| {name} \|((?: *[0-9.]+ \|){{6}})$", text, re.MULTILINE).group(1)
        np.testing.assert_allclose([float(value) for value in row.strip(" |").split("|")], values, atol=0.02)
        for one, four, sixteen in (values[:3], values[3:]):
            assert 0.15 <= one < 0.5 < four < 1.2
            assert sixteen > 0.9


# Requests.


@pytest.mark.parametrize(
    ("request_", "arguments", "message"),
    [
        (Request("heat"), {}, "unknown family 'heat'; can be generated: advection_1d, burgers_1d"),
        (Request("burgers_1d"), {"num_trajectories": 0}, "--trajectories 0: must be at least 1"),
        (Request("burgers_1d", num_frames=1), {}, "burgers_1d: frames 1: must be at least 2, the first frame and one"),
        (Request("burgers_1d", seed=-1), {}, "--seed -1: must be 0 or more"),
        (Request("burgers_1d", boundary="wall"), {}, "burgers_1d: boundary 'wall'; its solver has periodic"),
        (
            Request("shallow_water_2d", boundary="dirichlet"),
            {},
            "boundary 'dirichlet'; its solver has open, wall, periodic",
        ),
        (Request("burgers_1d", points=100), {}, "burgers_1d: points 100: 1 to 1048576, and of 2D families only"),
        (Request("navier_stokes_3d", points=100), {}, "points 100: 1 to 1048576, and of 2D families only"),
        (Request("navier_stokes_2d", points=0), {}, "navier_stokes_2d: points 0: 1 to 1048576"),
    ],
)
def test_bad_requests_say_what_to_do(request_, arguments, message):
    with pytest.raises(DataError, match=re.escape(message)):
        generate_batches(request_, **{"num_trajectories": 1, **arguments})


@pytest.mark.parametrize(
    ("name", "grid", "message"),
    [
        ("burgers_1d", (100,), "grid 100; give 1 equal numbers, a power of two from 16 to 8192 (usual: 128)"),
        ("burgers_1d", (8,), "grid 8; "),
        ("burgers_1d", (16384,), "grid 16384; "),
        ("burgers_1d", (128, 128), "grid 128 128; give 1 equal numbers"),
        ("navier_stokes_2d", (32, 64), "grid 32 64; give 2 equal numbers, a power of two from 16 to 1024"),
        ("navier_stokes_2d", (2048, 2048), "from 16 to 1024 (usual: 32 32)"),
        ("navier_stokes_3d", (512, 512, 512), "from 16 to 256 (usual: 16 16 16)"),
        ("burgers_1d-pdebench", (2048,), "a power of two from 16 to 1024 (usual: 1024)"),
    ],
)
def test_grids_that_it_cannot_give_are_refused(name, grid, message):
    with pytest.raises(DataError, match=re.escape(message)):
        resolve(Request(name, grid=grid), "train")


def test_a_steady_family_has_two_frames_whatever_is_asked():
    fields = generate_family(Request("darcy_2d", num_frames=9, stride=4, grid=(16, 16)), 1).fields_btcx
    assert fields.shape[1] == 2
    assert (fields[0, 0, 1] == 0).all()


def test_a_stride_keeps_every_so_many_th_frame():
    every = generate_family(Request("burgers_1d", num_frames=7), 2).fields_btcx
    kept = generate_family(Request("burgers_1d", num_frames=3, stride=3), 2).fields_btcx
    np.testing.assert_allclose(kept, every[:, ::3], rtol=0, atol=1e-6)


def test_a_solution_that_is_not_found_is_named(monkeypatch):
    def fail(problem):
        frames = SETUPS["burgers_1d"].solve(problem)
        frames[1, 1] = torch.nan
        return frames

    monkeypatch.setitem(SETUPS, "broken", replace(SETUPS["burgers_1d"], solve=fail))
    with pytest.raises(
        DataError, match=r"broken: the solution of valid trajectory 6, seed 3, was not found \(it is not"
    ):
        generate_family(Request("broken", num_frames=2, seed=3), 2, split="valid", first=5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(DataError, match="sees no CUDA device; use --device cpu"):
        generate_family("advection_1d", 1, device="cuda")
