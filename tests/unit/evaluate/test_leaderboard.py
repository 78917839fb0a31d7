"""The leaderboard: rows are never lost, doubled or averaged over what diverged."""

import copy
import csv
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ups_scale import atomic
from ups_scale.errors import DataError
from ups_scale.evaluate import leaderboard
from ups_scale.evaluate.leaderboard_page import page, text
from ups_scale.evaluate.leaderboard_row import row as row_of

ROOT = Path(__file__).parents[3]


def make_report(run="a", sha="1", nrmse=((0.1, 0.2), (0.3, 0.4)), families=("wave", "heat"), **more):
    tables = {}
    for family, values in zip(families, nrmse, strict=True):
        tables[family] = {
            "model": {f"nrmse@{k}": v for k, v in zip((1, 16), values, strict=True)}
            | {f"non_finite@{k}": 3 if v is None else 0 for k, v in zip((1, 16), values, strict=True)},
            "persistence": {"nrmse@1": 0.5, "nrmse@16": 2.0},
            "zero": {"nrmse@1": 1.0, "nrmse@16": 1.0},
        }
    gates = [
        {"name": "persistence", "family": family, "horizon": 1, "value": 0.1, "limit": 0.5, "passed": family != "heat"}
        for family in families
    ]
    base = {
        "format": 1,
        "suite": "small",
        "suite_hash": "c" * 64,
        "run": run,
        "step": 100,
        "date": "2026-01-02T03:04:05+00:00",
        "checkpoint_sha256": sha * 64,
        "manifest": "data/x/manifest.json",
        "manifest_digest": "d" * 64,
        "params_m": 1.5,
        "config_hash": "0123abcd",
        "families": tables,
        "gates": gates,
        "wall_clock_s": 2.5,
    }
    return base | more


def save(report, runs, suite="small"):
    folder = runs / report["run"] / "evaluation" / suite
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    return folder / "report.json"


def test_a_row_has_every_family_and_the_means_of_ratios_to_the_bar(tmp_path):
    path = tmp_path / "leaderboard.csv"
    leaderboard.append(path, make_report())
    (row,) = csv.DictReader(path.open())
    assert float(row["wave/model/nrmse@1"]) == 0.1
    assert float(row["heat/model/nrmse@16"]) == 0.4
    assert float(row["heat/persistence/nrmse@16"]) == 2.0
    assert float(row["geomean_nrmse@1"]) == pytest.approx(math.sqrt(0.1 * 0.3))
    assert float(row["geomean_ratio@1"]) == pytest.approx(math.sqrt(0.2 * 0.6))
    # Persistence of 2 is no bar, zero (1) is.
    assert float(row["geomean_ratio@16"]) == pytest.approx(math.sqrt(0.2 * 0.4))
    assert (row["worst_family@1"], float(row["worst_ratio@1"])) == ("heat", pytest.approx(0.6))
    assert (row["gates_passed"], row["gates_failed"], row["failed"]) == ("1", "1", "persistence heat@1")
    assert (row["format"], row["config_hash"], row["promoted"]) == (leaderboard.FORMAT, "0123abcd", "")


def test_what_diverged_is_named_and_never_averaged_away(tmp_path):
    path = tmp_path / "leaderboard.csv"
    leaderboard.append(path, make_report(nrmse=((0.1, None), (0.3, 0.4))))
    leaderboard.append(path, make_report(run="b", sha="2", nrmse=((0.2, 0.9), (0.3, 0.9))))
    row, other = leaderboard.read(path)
    assert row["diverged"] == "wave: 3 by step 16"
    assert row["worst_family@16"] == "wave"
    assert not row.keys() & {"geomean_nrmse@16", "geomean_ratio@16", "worst_ratio@16", "wave/model/nrmse@16"}
    assert "geomean_ratio@1" in row
    assert leaderboard.best_first([row, other])[0] == other


def test_a_steady_family_counts_where_it_has_a_step(tmp_path):
    report = make_report()
    for figures in report["families"]["heat"].values():
        figures.pop("nrmse@16")
    row = row_of(report)
    assert float(row["geomean_nrmse@16"]) == pytest.approx(0.2)
    assert float(row["geomean_nrmse@1"]) == pytest.approx(math.sqrt(0.1 * 0.3))


def test_the_same_evaluation_replaces_its_row_and_another_adds_one(tmp_path):
    path = tmp_path / "leaderboard.csv"
    leaderboard.append(path, make_report())
    leaderboard.append(path, make_report(run="b", sha="2"))
    leaderboard.append(path, make_report(nrmse=((0.5, 0.5), (0.5, 0.5))), promoted=True)
    rows = leaderboard.read(path)
    assert [(row["run_id"], row["wave/model/nrmse@1"]) for row in rows] == [("b", "0.1"), ("a", "0.5")]
    assert rows[1]["promoted"] == "yes"
    for number, change in enumerate(
        ({"suite": "full"}, {"suite_hash": "e" * 64}, {"manifest_digest": "f" * 64}, {"guards": ["positivity"]})
    ):
        leaderboard.append(path, make_report(**change))
        assert len(leaderboard.read(path)) == 3 + number
    assert row_of(make_report(champion={"promoted": False}))["promoted"] == "no"


def test_other_families_add_columns_and_leave_old_values_as_they_are(tmp_path):
    path = tmp_path / "leaderboard.csv"
    leaderboard.append(path, make_report(nrmse=((1 / 3, 2e-17), (0.3, 0.4)), commit='a "quoted",\nbroken commit'))
    (before,) = csv.DictReader(path.open(newline=""))
    leaderboard.append(path, make_report(run="b", sha="2", families=("wave", "brine")))
    after, other = csv.DictReader(path.open(newline=""))
    assert {name: after[name] for name in before} == before
    assert after["brine/model/nrmse@1"] == "" == other["heat/model/nrmse@1"]
    assert list(after)[: len(leaderboard.FIXED)] == list(leaderboard.FIXED)
    assert list(after).index("wave/model/nrmse@1") + 1 == list(after).index("wave/model/nrmse@16")


def many(path, name):
    for number in range(20):
        leaderboard.append(path, make_report(run=f"{name}{number}", checkpoint_sha256=f"{name}{number}"))


def test_two_processes_at_once_lose_nothing(tmp_path):
    path = tmp_path / "leaderboard.csv"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=many, args=(path, name)) for name in "xy"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    names = [row["run_id"] for row in leaderboard.read(path)]
    assert sorted(names) == sorted(f"{name}{number}" for name in "xy" for number in range(20))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "leaderboard.csv",
        "leaderboard.csv.lock",
        "leaderboard.html",
    ]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "leaderboard.csv"
    leaderboard.append(path, make_report())
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"leaderboard can't be written \(No space left on device\); free some space"):
        leaderboard.append(path, make_report(run="b", sha="2"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("run_id,nrmse\na,0.1\n", "no leaderboard, or one of an older version"),
        ("", "no leaderboard"),
        ("format,run_id\nups-leaderboard-9,a\n", "row 1 is of format 'ups-leaderboard-9', this version has"),
        (f"format,run_id\n{leaderboard.FORMAT}\n", "row 1 has 1 values for 2 columns: it is damaged"),
        (f"format,run_id\n{leaderboard.FORMAT},a\n", "it has no column date"),
        (b"\xff\xfe\x00", "it can't be read"),
    ],
)
def test_what_is_no_leaderboard_of_this_version_is_refused_and_kept(tmp_path, content, why):
    path = tmp_path / "leaderboard.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    for refused in (lambda: leaderboard.append(path, make_report()), lambda: leaderboard.check(path)):
        with pytest.raises(DataError, match=re.escape(why)) as caught:
            refused()
        assert "Move it aside, or make it anew" in str(caught.value)
        assert f"tools/leaderboard.py --runs {tmp_path} --rebuild" in str(caught.value)
    assert path.read_bytes() == before


def damaged(path, old, new):
    """A leaderboard of one row, with one text in it replaced."""
    leaderboard.append(path, make_report())
    text_there = path.read_text()
    assert text_there.count(old) >= 1
    path.write_text(text_there.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("0.1,", "abc,", "row 1 has 'abc' under wave/model/nrmse@1, where a number belongs"),
        (",100,", ",1oo,", "row 1 has '1oo' under step, where a number belongs"),
        (",2.5,", ",nan,", "row 1 has 'nan' under wall_clock_s, where a number belongs"),
        ("2026-01-02T03:04:05+00:00", "", "row 1 has no date"),
        ("worst_family@16", "worst_family@x", "its columns worst_family@x are of no step"),
        ("ups-leaderboard-1,", 'ups-leaderboard-1,"a"b,', "it is no CSV file"),
    ],
)
def test_a_leaderboard_with_damaged_values_is_refused_and_kept(tmp_path, old, new, why):
    path = tmp_path / "leaderboard.csv"
    damaged(path, old, new)
    before = path.read_bytes()
    for refused in (lambda: leaderboard.append(path, make_report(run="b", sha="2")), lambda: leaderboard.read(path)):
        with pytest.raises(DataError, match=re.escape(why)) as caught:
            refused()
        assert "--rebuild" in str(caught.value)
    assert path.read_bytes() == before


def test_a_field_beyond_the_readers_limit_is_no_traceback(tmp_path):
    path = tmp_path / "leaderboard.csv"
    damaged(path, "heat@1", "x" * 200_000)
    with pytest.raises(DataError, match=r"it is no CSV file \(field larger than field limit"):
        leaderboard.read(path)


def test_rebuild_killed_at_any_write_leaves_a_whole_leaderboard(tmp_path, monkeypatch):
    path = tmp_path / "leaderboard.csv"
    path.write_text("an older one\n")
    (tmp_path / "leaderboard.csv.before").write_text("the oldest one\n")
    save(make_report(), tmp_path)
    whole, seen = atomic.write_aside, []

    def dying(file):
        seen.append(path.read_text())
        if len(seen) == 2:  # the copy is there, the new one isn't
            raise KeyboardInterrupt
        return whole(file)

    monkeypatch.setattr(atomic, "write_aside", dying)
    with pytest.raises(KeyboardInterrupt):
        leaderboard.rebuild(path, tmp_path)
    assert seen == ["an older one\n"] * 2
    assert path.read_text() == "an older one\n"
    done = leaderboard.rebuild(path, tmp_path)
    assert len(leaderboard.read(path)) == 1
    kept = {file.name: file.read_text() for file in tmp_path.glob("*.before*")}
    assert kept.pop("leaderboard.csv.before") == "the oldest one\n"
    assert set(kept.values()) == {"an older one\n"}
    assert done.before.name == "leaderboard.csv.before-3"


def test_rebuild_finds_every_report_and_skips_broken_ones_by_name(tmp_path):
    path = tmp_path / "leaderboard.csv"
    path.write_text("an older one\n")
    save(make_report(run="late", sha="1", date="2026-02-01T00:00:00+00:00"), tmp_path)
    save(make_report(run="early", sha="2"), tmp_path / "sweep", suite="full")
    torn = save(make_report(run="torn", sha="3"), tmp_path)
    torn.write_text(torn.read_text()[:500])
    older = save(make_report(run="older", sha="4", format=0), tmp_path)
    odd = make_report(run="odd", sha="5")
    del odd["families"]["wave"]["persistence"]
    odd = save(odd, tmp_path)
    done = leaderboard.rebuild(path, tmp_path)
    assert done.rows == 2
    assert [row["run_id"] for row in leaderboard.read(path)] == ["early", "late"]
    told = dict(zip(("odd", "older", "torn"), done.skipped, strict=True))
    for name, file in (("odd", odd), ("older", older), ("torn", torn)):
        assert str(file) in told[name]
        assert "evaluate again with tools/evaluate.py --force" in told[name]
    assert "cut off" in told["torn"]
    assert done.before.read_text() == "an older one\n"


def test_rebuild_gives_the_same_rows_as_appending(tmp_path):
    path = tmp_path / "leaderboard.csv"
    for name, sha in (("a", "1"), ("b", "2")):
        report = make_report(run=name, sha=sha, champion={"promoted": True})
        save(report, tmp_path)
        leaderboard.append(path, report)
    before = path.read_bytes()
    leaderboard.rebuild(path, tmp_path)
    assert path.read_bytes() == before


def test_rebuild_of_a_folder_without_reports_keeps_what_is_there(tmp_path):
    path = tmp_path / "leaderboard.csv"
    leaderboard.append(path, make_report())
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"no whole evaluation/<suite>/report\.json under it"):
        leaderboard.rebuild(path, tmp_path / "elsewhere")
    assert path.read_bytes() == before


def test_page_marks_the_best_only_among_what_can_be_compared(tmp_path):
    good, bad, other = (
        make_report(run="good", sha="1"),
        make_report(run="bad<er>", sha="2", nrmse=((0.2, 0.9), (0.35, None))),
        make_report(run="lone", sha="3", manifest_digest="e" * 64, nrmse=((0.001, 0.001), (0.001, 0.001))),
    )
    html = page([row_of(report) for report in (bad, good, other)])
    rows = dict(re.findall(r'<tr><td class="name" data-key="(\w+)[^"]*">(.*?)</tr>', html)[::-1])
    assert 'class="best"' in rows["good"]
    assert 'class="best"' not in rows["bad"] + rows["lone"]
    assert "bad&lt;er&gt;" in html
    assert "bad<er>" not in html
    assert "heat: 3 by step 16 not finite" in html
    assert re.search(r'<tr class="bar"><td class="name" data-key="persistence">.*?0\.500.*?2\.00', html)
    assert len(re.findall("<h2>suite small", html)) == 2
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_text_is_in_groups_best_first():
    rows = [
        row_of(make_report(run="worse", sha="1", nrmse=((0.2, 0.3), (0.3, 0.4)))),
        row_of(make_report(run="best", sha="2")),
        row_of(make_report(run="full", sha="3", suite="full", date="2027-01-01T00:00:00+00:00")),
        row_of(make_report(run="lost", sha="4", nrmse=((0.01, None), (0.01, 0.01)))),
    ]
    lines = text(rows).splitlines()
    names = ("suite", "worse", "best", "full", "lost")
    starts = [line.split()[0] for line in lines if line.startswith(names)]
    assert starts == ["suite", "full", "suite", "best", "worse", "lost"]
    lost = next(line for line in lines if line.startswith("lost"))
    assert "not finite: wave: 3 by step 16" in lost
    assert "1/2 FAILED" in lost


def test_guards_have_a_column_where_any_row_has_them_and_failed_gates_are_folded():
    plain, guarded = make_report(run="plain", sha="1"), make_report(run="guarded", sha="2", guards=["conservation"])
    lost = make_report(run="lost", sha="4", nrmse=((0.01, None), (0.01, 0.01)))
    assert "guards" not in text([row_of(plain)])
    assert "guards" not in page([row_of(plain)])
    rows = [row_of(report) for report in (plain, guarded, lost)]
    lines = text(rows).splitlines()
    assert lines[1].split()[:3] == ["run", "step", "guards"]
    told = {line.split()[0]: line.split()[2] for line in lines if line.startswith(("plain", "guarded"))}
    assert told == {"plain": "none", "guarded": "conservation"}
    html = page(rows)
    assert html.count("<th>guards</th>") == 2
    assert html.count('<td class="" data-key="conservation">conservation</td>') == 2
    assert "<summary>1 gate</summary>persistence heat@1</details>" in html
    for table in re.findall("<table.*?</table>", html, re.S):
        assert len({len(re.findall("<t[hd][ >]", row)) for row in re.findall("<tr.*?</tr>", table, re.S)}) == 1


def tool(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "leaderboard.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_the_command_rebuilds_and_prints(tmp_path):
    empty = tool("--runs", tmp_path)
    assert empty.returncode == 2
    assert "no evaluation in it yet" in empty.stderr
    save(make_report(run="one"), tmp_path)
    torn = save(copy.deepcopy(make_report(run="two", sha="2")), tmp_path)
    torn.write_text("{")
    done = tool("--runs", tmp_path, "--rebuild", "--json")
    assert done.returncode == 0, done.stderr
    assert [row["run_id"] for row in json.loads(done.stdout)] == ["one"]
    assert f"skipped: {torn}: cut off" in done.stderr
    assert tool("--runs", tmp_path).stdout.splitlines()[2].split()[:2] == ["one", "100"]
