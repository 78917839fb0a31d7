import json

import pytest

from ups_scale import atomic


def test_json_and_text_are_written_whole(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"x": [1, 2.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5]}
    atomic.write_text(tmp_path / "a.json", "é")
    assert (tmp_path / "a.json").read_bytes() == "é".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    atomic.write_text(path, "old")

    def fail():
        with atomic.write_aside(path) as file:
            file.write(b"half of the new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic.write_json(path, float("nan"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
