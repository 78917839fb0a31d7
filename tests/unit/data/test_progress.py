"""Progress: lines where there is no terminal, nothing where none is wanted."""

from ups_scale.data.progress import Progress


def test_a_line_every_ten_seconds_with_rate_and_time_left(capsys):
    now = [0.0]
    with Progress("sharding", 4 * 2**30, True, clock=lambda: now[0]) as progress:
        for now[0] in (1.0, 9.0, 10.0, 12.0, 19.0, 20.0):
            progress.advance(2**28)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "sharding: 0.75 of 4.00 GiB, 81 MB/s, 43 s left",
        "sharding: 1.50 of 4.00 GiB, 81 MB/s, 33 s left",
    ]


def test_silent(capsys):
    with Progress("sharding", 2**30, False, clock=iter(range(0, 10**6, 100)).__next__) as progress:
        progress.advance(2**30)
    assert capsys.readouterr() == ("", "")
