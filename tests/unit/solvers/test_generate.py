"""What the generated trajectories depend on, and that they are worth learning from."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ups_scale.errors import DataError
from ups_scale.solvers import SETUPS, default_specs, generate_batches, generate_family
from ups_scale.solvers.initial import cosine_band, periodic_band, sinusoids

NAMES = list(SETUPS)
DOCS = Path(__file__).parents[3] / "docs" / "families.md"


@pytest.mark.parametrize("name", NAMES)
def test_a_trajectory_does_not_depend_on_how_many_are_made_or_in_what_batches(name):
    few = generate_family(name, 3, num_frames=3, batch_size=3, seed=5)
    many = generate_family(name, 5, num_frames=4, batch_size=2, seed=5)
    np.testing.assert_allclose(many.fields_btcx[:3, :3], few.fields_btcx, rtol=0, atol=1e-6)
    for key, values in few.parameters.items():
        assert np.array_equal(many.parameters[key][:3], values)


@pytest.mark.parametrize("name", NAMES)
def test_splits_seeds_and_indices_give_other_trajectories_and_a_repeat_the_same(name):
    def make(**changes):
        return generate_family(name, 2, num_frames=2, **changes)

    first = make()
    assert np.array_equal(make().fields_btcx, first.fields_btcx)
    for other in (make(split="test"), make(split="valid"), make(seed=1)):
        assert np.abs(other.fields_btcx - first.fields_btcx).max() > 0.1
    assert np.abs(first.fields_btcx[0] - first.fields_btcx[1]).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_shapes_types_and_parameters_are_the_registrys(name):
    made, spec = generate_family(name, 2, num_frames=2), default_specs()[name]
    assert made.fields_btcx.shape == (2, 2, len(spec.fields), *spec.grid)
    assert made.fields_btcx.dtype == np.float32
    assert tuple(made.parameters) == spec.parameters
    assert all(values.shape == (2,) and values.dtype == np.float64 for values in made.parameters.values())


@pytest.mark.parametrize("name", NAMES)
def test_default_specs_state_the_scale_of_the_data(name):
    fields = generate_family(name, 24).fields_btcx.astype(np.float64)
    spec = default_specs()[name]
    axes = (0, 1, *range(3, fields.ndim))
    np.testing.assert_allclose(np.sqrt((fields**2).mean(axes)), spec.u_rms, rtol=0.15)
    np.testing.assert_allclose(np.sqrt((np.diff(fields, axis=1) ** 2).mean(axes)), spec.delta_rms, rtol=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_trajectories_are_alike_in_scale_and_none_dies(name):
    fields = generate_family(name, 24, seed=11).fields_btcx
    space = tuple(range(3, fields.ndim))
    rms_btc = np.sqrt((fields.astype(np.float64) ** 2).mean(space))
    per_trajectory = np.sqrt((rms_btc**2).mean(1))
    assert (per_trajectory.max(0) / per_trajectory.min(0) < 3).all()
    assert rms_btc.min() > 0.1


def test_the_persistence_table_in_the_docs_is_what_its_command_prints(capsys):
    text = DOCS.read_text()
    snippet = re.search(r"```python\n(.*?persistence.*?)```", text, re.DOTALL).group(1)
    exec(snippet, {})
    printed = {
        row.split()[0]: [float(value) for value in row.split()[1:]] for row in capsys.readouterr().out.splitlines()
    }
    assert list(printed) == NAMES
    for name, values in printed.items():
        row = re.search(rf"^\| {name} \|((?: *[0-9.]+ \|){{6}})$", text, re.MULTILINE).group(1)
        np.testing.assert_allclose([float(value) for value in row.strip(" |").split("|")], values, atol=0.02)
        for one, four, sixteen in (values[:3], values[3:]):
            assert 0.15 <= one < 0.5 < four < 1.2
            assert sixteen > 0.9


@pytest.mark.parametrize("size", [16, 32])
def test_initial_fields_do_not_depend_on_the_grid(size):
    for draw in (
        lambda n: sinusoids(np.random.default_rng(1), n, num_modes=3, max_wavenumber=6),
        lambda n: periodic_band(np.random.default_rng(1), n, low=1, high=4),
    ):
        coarse, fine = draw(size), draw(2 * size)
        np.testing.assert_allclose(fine[(slice(None, None, 2),) * fine.ndim], coarse, atol=1e-11)
        assert abs(fine.mean()) < 1e-13


def test_cosine_fields_have_no_slope_at_the_edges():
    field = cosine_band(np.random.default_rng(2), 512, high=4)
    for edge in (field, field.T, field[::-1], field.T[::-1]):
        assert np.abs(edge[1] - edge[0]).max() < 0.05 * np.abs(np.diff(edge, axis=0)).max()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("heat", {}, "unknown family 'heat'; can be generated: advection_1d, burgers_1d"),
        ("burgers_1d", {"num_trajectories": 0}, "--trajectories 0: must be at least 1"),
        ("burgers_1d", {"num_frames": 1}, "--frames 1: must be at least 2"),
        ("burgers_1d", {"seed": -1}, "--seed -1: must be 0 or more"),
    ],
)
def test_bad_requests_say_what_to_do(name, arguments, message):
    with pytest.raises(DataError, match=re.escape(message)):
        generate_batches(name, **{"num_trajectories": 1, **arguments})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(DataError, match="sees no CUDA device; use --device cpu"):
        generate_family("advection_1d", 1, device="cuda")
