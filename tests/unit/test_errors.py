"""How commands end."""

from __future__ import annotations

import errno

import pytest

from ups_scale.errors import DataError, remedy, run_command


def test_an_interrupted_command_says_what_is_kept(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(main, "the shards are kept")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: the shards are kept\n"
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err == ""


def test_an_error_is_its_message_and_exit_code(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    def main():
        raise DataError("file.h5: gone")

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert (ended.value.code, capsys.readouterr().err) == (2, "error: file.h5: gone\n")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "permission"),
        (errno.ENOSPC, "free some space"),
        (errno.EEXIST, "has that name"),
        (errno.EIO, "x"),
    ],
)
def test_the_remedy_is_for_what_the_system_says(number, advice):
    assert advice in remedy(OSError(number, "no"), "x")
