"""Comparing evaluations: what differs is named, noise is not marked, and what can't be compared is refused."""

import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ups_scale.errors import DataError
from ups_scale.evaluate.compare import compare
from ups_scale.evaluate.compare_page import page, text, values
from ups_scale.evaluate.compare_recipes import recipe_difference
from ups_scale.recipe.load import resolve
from ups_scale.recipe.validate import leaves

ROOT = Path(__file__).parents[3]
FAMILIES = ("wave", "heat")
STEPS = (1, 16)


def make_run(
    root, name, overrides=(), scale=1.0, seed=0, num=24, step=1250, noise=0.02, lost=(), suite="small", **more
):
    """A run folder with an evaluation whose nRMSE is `scale` times that of every other run made here, up to noise."""
    recipe = resolve(ROOT / "recipes" / "demo.json", [f"run.name={name}", f"run.seed={seed}", *overrides])
    folder = root / name
    checkpoint = folder / "checkpoints" / f"step-{step}"
    checkpoint.mkdir(parents=True)
    for place in (folder, checkpoint):
        (place / "recipe.json").write_text(json.dumps(recipe))
    (checkpoint / "manifest.json").write_text(json.dumps({"name": name}))
    (folder / "environment.json").write_text(json.dumps({"commit": "abc", "gpus": [], "world_size": 2}))
    mine = np.random.default_rng([seed, int(scale * 1e6)])
    families, tables = {}, {}
    for number, family in enumerate(FAMILIES):
        hard = np.exp(np.random.default_rng(number).normal(0, 0.8, num))
        nrmse = {
            str(k): [float(x) for x in 0.01 * math.sqrt(k) * scale * hard * np.exp(mine.normal(0, noise, num))]
            for k in STEPS
        }
        figures = {f"nrmse@{k}": float(np.mean(nrmse[str(k)])) for k in STEPS}
        figures |= {f"conservation_gap@{k}": 0.001 * scale for k in STEPS} | {"horizon@0.8": 10.0 / scale}
        if family in lost:
            nrmse["16"][3], figures["nrmse@16"] = None, None
        keys = [f"{family}-{i}" for i in range(num)]
        ones = {str(k): [1.0] * num for k in STEPS}
        horizon = [float(x) for x in 10 / scale + mine.normal(0, 0.1, num)]
        families[family] = {
            "keys": keys,
            "nrmse": {"model": nrmse, "persistence": ones},
            "horizon": {"model": horizon},
        }
        bars = {f"nrmse@{k}": 1.0 for k in STEPS}
        tables[family] = {"model": figures, "persistence": bars, "zero": bars, "fields": {}}
    report = {
        "format": 1,
        "suite": suite,
        "suite_hash": "c" * 64,
        "run": name,
        "step": step,
        "date": "2026-01-02T03:04:05+00:00",
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest(),
        "manifest_digest": "d" * 64,
        "params_m": 1.5,
        "context_frames": 1,
        "families": tables,
        "gates": [],
        "device": "cpu",
        "commit": "abc",
    }
    out = folder / "evaluation" / suite
    out.mkdir(parents=True)
    (out / "report.json").write_text(json.dumps(report | more))
    hashed = {"format": 1, "suite_hash": (report | more)["suite_hash"], "families": families}
    (out / "trajectories.json").write_text(json.dumps(hashed))
    return folder


def change(result, family, metric, number=0):
    versus = result.against[number]
    return next(of for of in (*versus.figures, *versus.physics) if (of.family, of.metric) == (family, metric))


def test_one_value_and_a_gain_beyond_the_noise(tmp_path):
    a = make_run(tmp_path, "a")
    b = make_run(tmp_path, "b", ["optimizer.lr=1e-3", "logging.every_steps=50"], scale=0.9)
    result = compare([a, b])
    (versus,) = result.against
    assert versus.controlled is True
    assert versus.verdict == "Controlled comparison: one value of the recipe differs: optimizer.lr: 0.002 -> 0.001"
    assert versus.uncounted == ('run.name: "a" -> "b"', "logging.every_steps: 10 -> 50")
    for family in (*FAMILIES, "all"):
        for k in STEPS:
            found = change(result, family, f"nrmse@{k}")
            assert found.ratio == pytest.approx(0.9, rel=0.02)
            assert found.sigma < -5
            assert found.marked
    assert any("another seed may change as much" in note for note in versus.notes)


def test_a_difference_within_the_noise_is_not_marked(tmp_path):
    a = make_run(tmp_path, "a", noise=0.3)
    b = make_run(tmp_path, "b", ["optimizer.lr=1e-3"], scale=0.99, noise=0.3)
    result = compare([a, b])
    assert [of for of in result.against[0].figures if of.marked] == []
    assert not re.search(r"nrmse@.*\*", text(result))


def test_pairing_finds_what_unpaired_spread_would_hide(tmp_path):
    # Trajectories differ by a factor of 2 and more, the models by 2 % on every one.
    result = compare(
        [make_run(tmp_path, "a", noise=0.01), make_run(tmp_path, "b", ["optimizer.lr=1e-3"], 0.98, noise=0.01)]
    )
    assert change(result, "all", "nrmse@1").marked


def test_a_report_beside_itself_differs_in_nothing(tmp_path):
    a = make_run(tmp_path, "a")
    (versus,) = compare([a, a]).against
    assert versus.controlled is False
    assert versus.verdict == "Nothing to learn about a recipe: the same recipe, data, step and code"
    assert {of.ratio for of in versus.figures} == {1.0}
    assert not any(of.marked for of in (*versus.figures, *versus.physics))


def test_what_makes_it_uncontrolled_is_named(tmp_path):
    a = make_run(tmp_path, "a")
    b = make_run(tmp_path, "b", ["optimizer.lr=1e-3", "model.depth=2"], seed=1, commit="def", params_m=1.0)
    (versus,) = compare([a, b]).against
    assert versus.controlled is False
    assert "2 values of the recipe differ (model.depth, optimizer.lr)" in versus.verdict
    assert "code of the evaluation: abc -> def" in versus.verdict
    assert "(and the seed)" in versus.verdict
    assert "parameters, millions: 1.5 -> 1" in versus.facts


def test_a_key_that_an_older_recipe_lacks_has_its_default():
    newer = resolve(ROOT / "recipes" / "demo.json")
    older = json.loads(json.dumps(newer))
    older["optimizer"]["lr"] *= 2
    for key in ("betas", "weight_decay"):
        older["optimizer"].pop(key)
        newer["optimizer"][key] = leaves()[f"optimizer.{key}"]["default"]
    counted, uncounted = recipe_difference(older, newer)
    assert [line.partition(":")[0] for line in counted] == ["optimizer.lr"]
    assert uncounted == []


def test_longer_training_is_one_value_and_not_two(tmp_path):
    a = make_run(tmp_path, "a")
    b = make_run(tmp_path, "b", ["schedule.steps=2500"], step=2500)
    assert compare([a, b]).against[0].controlled is True
    c = make_run(tmp_path, "c", ["optimizer.lr=1e-3"], step=1000)
    (versus,) = compare([a, c]).against
    assert versus.controlled is False
    assert "step: 1250 -> 1000" in versus.verdict


def test_seeds_are_grouped_and_their_spread_is_noise_too(tmp_path):
    # Seeds move every figure by 10 %, trajectories hardly: one seed each looks like a sure difference, three do not.
    paths = [make_run(tmp_path, f"a{i}", seed=i, scale=s) for i, s in enumerate((1.0, 1.1, 0.9))]
    paths += [
        make_run(tmp_path, f"b{i}", ["optimizer.lr=1e-3"], seed=i, scale=s) for i, s in enumerate((1.03, 1.15, 0.93))
    ]
    alone, grouped = compare([paths[0], paths[3]]), compare(paths)
    assert change(alone, "all", "nrmse@1").marked
    assert [group.name for group in grouped.groups] == ["a0 (3 seeds)", "b0 (3 seeds)"]
    found = change(grouped, "all", "nrmse@1")
    assert not found.marked
    assert found.ratio == pytest.approx(1.037, rel=0.01)
    assert found.before.spread == pytest.approx(0.1 * found.before.value, rel=0.1)
    assert change(grouped, "wave", "conservation_gap@1").sigma is not None
    assert grouped.against[0].controlled is True


def test_the_same_seed_twice_is_no_replicate(tmp_path):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b")
    assert [group.name for group in compare([a, b]).groups] == ["a", "b"]


def test_what_diverged_has_no_ratio_and_is_told(tmp_path):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b", ["optimizer.lr=1e-3"], lost=("wave",))
    result = compare([a, b])
    for family in ("wave", "all"):
        found = change(result, family, "nrmse@16")
        assert (found.after.value, found.ratio, found.sigma) == (None, None, None)
    assert change(result, "heat", "nrmse@16").ratio is not None
    assert "wave: 0 and 1 trajectories not finite; sigma counts them as the worst of all" in result.against[0].notes
    assert re.search(r"wave +nrmse@16 +\S+ +not finite +- +-", text(result))


def test_without_figures_per_trajectory_there_is_no_significance(tmp_path):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b", ["optimizer.lr=1e-3"], scale=0.5)
    (b / "evaluation/small/trajectories.json").unlink()
    (versus,) = compare([a, b]).against
    assert {of.sigma for of in versus.figures} == {None}
    assert versus.notes[0].startswith("no significance: no trajectories.json beside")
    assert "b/evaluation/small/report.json; evaluate again" in versus.notes[0]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"manifest_digest": "e" * 64}, "data: a dddddddddddd, b eeeeeeeeeeee"),
        ({"suite_hash": "e" * 64}, "the suite's settings or trajectories: a cccccccccccc, b eeeeeeeeeeee"),
    ],
)
def test_other_data_and_suites_are_refused_unless_anyway(tmp_path, more, line):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b", ["optimizer.lr=1e-3"], scale=0.5, **more)
    with pytest.raises(DataError, match="can't be compared") as caught:
        compare([a, b])
    assert line in str(caught.value)
    assert "--anyway" in str(caught.value)
    result = compare([a, b], anyway=True)
    assert f"CAUTION, not comparable: {line}" in text(result)
    assert "Not comparable" in page(result)
    assert values(result)["not_comparable"] == [line]
    assert result.against[0].controlled is False
    # Trajectories of other data are no pairs, whatever their names; of another suite they may be.
    assert (change(result, "wave", "nrmse@1").sigma is None) == ("manifest_digest" in more)


def test_two_evaluations_of_one_run_by_other_suites_are_told_apart(tmp_path):
    a, older = make_run(tmp_path, "a"), make_run(tmp_path / "x", "a", suite_hash=None)
    with pytest.raises(DataError, match="the suite's settings or trajectories: a cccccccccccc, a not known"):
        compare([a, older])


def test_runs_folders_and_files_are_found_and_the_full_suite_is_first(tmp_path):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b", ["optimizer.lr=1e-3"])
    names = [b, b / "evaluation" / "small", b / "evaluation" / "small" / "report.json"]
    assert len({text(compare([a, name])) for name in names}) == 1
    full = make_run(tmp_path / "x", "a", suite="full")
    (a / "evaluation" / "full").symlink_to(full / "evaluation" / "full")
    assert compare([a, a]).reference.members[0].path == a / "evaluation/full/report.json"
    assert compare([a, b]).reference.members[0].path == a / "evaluation/small/report.json"
    with pytest.raises(DataError, match=r"no evaluation of suite full in it \(there is small\).*--suite full"):
        compare([a, b], suite="full")
    with pytest.raises(DataError, match="--step 3: no evaluation has it; there is 1, 16"):
        compare([a, b], step=3)
    assert {of.metric for of in compare([a, b], step=16).against[0].figures} == {"nrmse@16"}


def test_bad_input_is_named_with_what_to_do(tmp_path):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b")
    with pytest.raises(DataError, match="no such file or folder"):
        compare([a, tmp_path / "c"])
    with pytest.raises(DataError, match="name two or more"):
        compare([a])
    report = b / "evaluation" / "small" / "report.json"
    report.write_text(report.read_text()[:700])
    with pytest.raises(DataError, match=r"report\.json: cut off or damaged .* evaluate again .*--force"):
        compare([a, b])


def test_a_recipe_that_is_gone_is_said(tmp_path):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b")
    report = tmp_path / "report.json"
    report.write_bytes((b / "evaluation/small/report.json").read_bytes())
    (b / "checkpoints/step-1250/manifest.json").write_text("another checkpoint")
    (versus,) = compare([a, report]).against
    assert (versus.controlled, versus.recipe) == (None, None)
    assert versus.verdict == f"Not known to be a controlled comparison: no recipe found for {report}"


def test_the_text_has_what_differs_and_all_of_it_if_asked(tmp_path):
    result = compare([make_run(tmp_path, "a"), make_run(tmp_path, "b", ["optimizer.lr=1e-3"], scale=0.9)])
    shown = text(result)
    assert "conservation_gap@16" in shown  # 10 % apart, without a sigma
    assert "conservation_gap@1 " not in shown
    assert "horizon@0.8" in shown
    assert "4 of 6 figures shown" in shown
    assert "conservation_gap@1 " in text(result, everything=True)
    near = text(compare([tmp_path / "a", make_run(tmp_path, "c", ["optimizer.lr=1e-3"], scale=0.97)]))
    assert "conservation_gap" not in near
    assert "nrmse@1 " in near


def test_the_command_prints_json_and_writes_a_page(tmp_path):
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b", ["optimizer.lr=1e-3"], scale=0.9, run="b<x>")
    out = tmp_path / "out.html"
    command = [sys.executable, str(ROOT / "tools/compare.py"), str(a), str(b), "--json", "--html", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["against"][0]["controlled"] is True
    assert any(of["marked"] for of in content["against"][0]["figures"])
    html = out.read_text()
    assert "Controlled comparison" in html
    assert "b&lt;x&gt;" in html
    assert "b<x>" not in html
    assert 'class="better"' in html
    assert not re.search(r'(src|href)="(?!data:)', html)
