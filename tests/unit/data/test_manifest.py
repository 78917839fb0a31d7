import json
import os

import pytest

from ups_scale.data.manifest import load_manifest
from ups_scale.errors import DataError


def rewrite(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_file_and_folder_give_the_same(shard_folder):
    assert load_manifest(shard_folder) == load_manifest(str(shard_folder / "manifest.json"))


def test_content(shard_folder):
    manifest = load_manifest(shard_folder)
    data = manifest.families["reaction_diffusion_2d"]
    assert list(manifest.families) == ["advection_1d", "navier_stokes_2d", "reaction_diffusion_2d"]
    assert data.spec.fields == ("activator", "inhibitor")
    assert data.spec.grid == (16, 16)
    assert data.spec.boundaries == (("neumann", "neumann"),) * 2
    assert data.spec.periodic == (False, False)
    assert data.spec.u_rms == data.statistics["u"]["rms"]
    assert [data.num_trajectories(split) for split in ("train", "valid", "test", "other")] == [12, 4, 4, 0]
    assert data.num_frames == {"train": 12, "valid": 12, "test": 12}
    assert (data.regular, data.licences) == (True, ())
    assert data.spec.dt == pytest.approx(0.05)
    assert data.spec.dynamic == (0, 1)
    assert (data.spec.static, data.spec.coordinates, data.spec.steady, data.spec.masked) == ((), (), False, False)
    assert manifest.families["advection_1d"].spec.units == ("1",)
    assert [shard.trajectories for shard in manifest.families["advection_1d"].shards["train"]] == [5, 5, 2]


def test_digest_is_of_the_content_not_of_its_origin(shard_folder, tmp_path):
    (tmp_path / "manifest.json").write_bytes((shard_folder / "manifest.json").read_bytes())
    before = load_manifest(shard_folder).digest
    rewrite(tmp_path, lambda content: content["provenance"].update(version="other"))
    assert load_manifest(tmp_path).digest == before
    rewrite(tmp_path, lambda content: content["families"]["advection_1d"].update(dt=1.0))
    assert load_manifest(tmp_path).digest != before


def test_absent_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"no such manifest.*tools/shard\.py INPUT\.\.\. --out"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda c: c.update(format=1), "manifest of format 1, this version reads format 2"),
        (lambda c: c.pop("format"), "manifest of format None"),
        (lambda c: c.update(families={}), "lists no family"),
        (lambda c: c.update(families=[]), "malformed manifest"),
        (lambda c: c["families"]["advection_1d"].pop("dt"), "malformed manifest .*'dt'"),
        (lambda c: c["families"]["advection_1d"].update(units=[]), "advection_1d: units has 0 entries, expected 1"),
        (lambda c: c["families"]["advection_1d"].update(extents=[]), "advection_1d: extents has 0 entries"),
        (lambda c: c["families"]["advection_1d"].update(boundaries=[["a", "b"]]), "boundary kind"),
        (lambda c: c["families"]["advection_1d"].update(dt=None), "advection_1d: dt is None, expected seconds above 0"),
        (lambda c: c["families"]["advection_1d"].update(dt=-1), "advection_1d: dt is -1"),
        (lambda c: c["families"]["advection_1d"].update(geometry="mesh"), "advection_1d: geometry 'mesh'"),
        (lambda c: c["families"]["advection_1d"].update(geometry="points"), "advection_1d: extents has 1 entries, exp"),
        (lambda c: c["families"]["advection_1d"].update(static=["w"]), r"advection_1d: static \('w',\)"),
        (
            lambda c: c["families"]["advection_1d"].update(grid=[0]),
            r"advection_1d: grid \(0,\), expected sizes above 0",
        ),
        (
            lambda c: c["families"]["advection_1d"].update(grid=[2**40]),
            r"can't hold 5 traj.* of \(1099511627776,\) points",
        ),
        (lambda c: c["families"]["advection_1d"].update(grid=[float("inf")]), "OverflowError"),
        (
            lambda c: c["families"]["advection_1d"]["num_frames"].update(valid=0),
            "num_frames .*expected numbers above 0",
        ),
        (
            lambda c: c["families"]["advection_1d"]["statistics"]["u"].update(mean=[float("nan")]),
            r"u.mean \[nan\], exp",
        ),
        (
            lambda c: [c["families"][name].pop("dt") for name in ("advection_1d", "navier_stokes_2d")],
            "KeyError: 'dt'; KeyError: 'dt'",
        ),
        (lambda c: c["families"]["advection_1d"]["num_frames"].pop("valid"), "malformed manifest .*'valid'"),
        (lambda c: c["families"]["advection_1d"]["splits"].update(train=[{"file": "x"}]), "malformed manifest"),
        (
            lambda c: c["families"]["advection_1d"]["statistics"]["u"].update(mean={}),
            "u.mean has 0 entries, expected 1",
        ),
        (lambda c: c["families"]["advection_1d"]["statistics"]["u"].pop("std"), "malformed manifest .*'std'"),
        (lambda c: c["families"]["advection_1d"]["statistics"].pop("delta"), "malformed manifest .*'delta'"),
    ],
)
def test_malformed_manifests(own_shards, change, found):
    rewrite(own_shards, change)
    with pytest.raises(DataError, match=rf"manifest\.json: .*{found}.*run tools/shard\.py again"):
        load_manifest(own_shards)


@pytest.mark.parametrize("file", ["../other.tar", "/etc/passwd", "a/b.tar", "..tar", ".hidden.tar", "a.tar.idx", "", 3])
def test_a_manifest_cannot_lead_out_of_its_folder(own_shards, file):
    rewrite(own_shards, lambda c: c["families"]["advection_1d"]["splits"]["train"][0].update(file=file))
    with pytest.raises(DataError, match=r"manifest\.json: malformed manifest"):
        load_manifest(own_shards)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(DataError, match=r"manifest\.json: no plain file; name the manifest\.json that tools/shard\.py"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1, 2]"])
def test_bytes_that_are_no_manifest(tmp_path, raw):
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(DataError, match=r"run tools/shard\.py again"):
        load_manifest(tmp_path)


def test_absent_data_that_can_be_generated_say_how(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "data").mkdir(parents=True)
    (tmp_path / "recipes" / "data" / "full.json").write_text("{}")
    with pytest.raises(DataError, match=r"`tools/generate.py --recipe recipes/data/full.json --shard` makes it"):
        load_manifest("data/full/manifest.json")
    with pytest.raises(DataError, match=r"Make shards with `tools/shard.py INPUT\.\.\. --out data/mine`"):
        load_manifest("data/mine/manifest.json")
