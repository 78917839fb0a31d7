"""Files that strangers published, read by the mappings that ship: shapes, axes and values as other readers see them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

import ups_scale
from ups_scale.data.layouts.mapping import inspect_mapping
from ups_scale.data.source import Source

ROOT = Path(ups_scale.__file__).parents[1]
PUBLISHED = ROOT.parent / "shared" / "data"


def published(file: str, mapping: str) -> tuple[Source, dict[str, np.ndarray]]:
    """The source, and the file's arrays as scipy reads them."""
    path = PUBLISHED / file
    if not path.is_file():
        pytest.skip(f"{file} is not in ../shared/data; it is published at github.com/maziarraissi/PINNs")
    return inspect_mapping(path, ROOT / "recipes" / "mappings" / f"{mapping}.json"), scipy.io.loadmat(path)


def frames_of(source: Source, field: int = 0) -> np.ndarray:
    """(frames, *grid) of the first trajectory."""
    with source.contents.open() as read:
        return read(field, 0, range(1 if source.fields[field].static else source.num_frames))


def test_burgers_shock() -> None:
    source, arrays = published("burgers_shock.mat", "burgers_shock")
    assert source.family == "burgers_1d"
    assert (source.grid, source.extents) == ((256,), ((-1.0, 1.0),))
    assert source.boundaries == (("dirichlet", "dirichlet"),)
    np.testing.assert_allclose(source.times_nt, [np.arange(100) * 0.01], atol=1e-12)
    np.testing.assert_array_equal(frames_of(source), arrays["usol"].T)
    # The registry's u_t + u u_x = (nu/pi) u_xx.
    assert source.parameters_np.tolist() == [[0.01]]
    assert {name: pieces.tolist() for name, pieces in source.splits.items()} == {
        "train": [[0, 0, 80]],
        "valid": [[0, 80, 90]],
        "test": [[0, 90, 100]],
    }


@pytest.mark.parametrize(("file", "mapping"), [("AC.mat", "allen_cahn"), ("KdV.mat", "kdv")])
def test_periodic_problems_of_one_dimension(file: str, mapping: str) -> None:
    source, arrays = published(file, mapping)
    assert (source.grid, source.extents) == ((512,), ((-1.0, 1.0),))
    assert source.boundaries == (("periodic", "periodic"),)
    np.testing.assert_allclose(source.times_nt, [np.arange(201) * 0.005], atol=1e-12)
    np.testing.assert_array_equal(frames_of(source), arrays["uu"].T)
    assert source.splits["train"].tolist() == [[0, 0, 161]]


def test_the_equations_of_the_mappings_hold() -> None:
    """The parameters are those of the data: spectral derivatives leave a small residual halfway."""
    for file, mapping in (("AC.mat", "allen_cahn"), ("KdV.mat", "kdv")):
        source, _ = published(file, mapping)
        u = frames_of(source)
        k = 2j * np.pi * np.fft.fftfreq(512, (source.extents[0][1] - source.extents[0][0]) / 512)

        def derivative(order: int, u: np.ndarray = u, k: np.ndarray = k) -> np.ndarray:
            return np.fft.ifft(k**order * np.fft.fft(u[100])).real

        if mapping == "kdv":
            (dispersion,) = source.parameters_np[0]
            rate = -u[100] * derivative(1) - dispersion * derivative(3)
        else:
            nu, rho = source.parameters_np[0]
            rate = nu * derivative(2) - rho * (u[100] ** 3 - u[100])
        measured = (u[101] - u[99]) / 0.01
        assert np.linalg.norm(measured - rate) < 0.05 * np.linalg.norm(measured), mapping


def test_cylinder_wake_is_a_point_set_of_one_frame() -> None:
    source, arrays = published("cylinder_nektar_t0_vorticity.mat", "cylinder_wake")
    assert (source.geometry, source.coordinates) == ("points", ("x", "y"))
    assert (source.grid, source.num_frames) == ((49852,), 1)
    assert source.extents == ((-15.0, 25.0), (-9.0, 9.0))
    for number, name in enumerate(("w", "x", "y")):
        np.testing.assert_array_equal(frames_of(source, number), arrays[name])


def test_sea_surface_temperature_is_masked_irregular_and_not_square() -> None:
    if importlib.util.find_spec("iris_sample_data") is None:
        pytest.skip("iris-sample-data is not installed; it is in the extra `test`")
    import iris_sample_data

    path = Path(iris_sample_data.path) / "ostia_monthly.nc"
    source = inspect_mapping(path, ROOT / "recipes" / "mappings" / "ostia.json")
    assert source.grid == (432, 18)
    assert source.boundaries == (("periodic", "periodic"), ("open", "open"))
    np.testing.assert_allclose(source.extents, [(-5 / 12, 360 - 5 / 12), (-5 - 5 / 18, 5 - 5 / 18)], atol=1e-4)
    assert (source.masked, source.licence) == (True, "UK Open Government Licence")
    hours = np.diff(source.times_nt[0]) / 3600
    assert (hours.min(), hours.max()) == (708.0, 744.0)
    with h5py.File(path) as file:
        stored = file["surface_temperature"][()].transpose(0, 2, 1)
    celsius = np.where(stored == np.float32(1e20), np.nan, stored.astype(np.float64)) - 273.15
    np.testing.assert_allclose(frames_of(source), celsius, atol=2e-5)  # half a float32 step of the file's kelvins
    assert source.splits["train"].tolist() == [[0, 0, 43]]
