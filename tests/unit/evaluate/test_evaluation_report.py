"""report.json, trajectories.json, table.csv and report.html: legal, complete, and whole or not there."""

import csv
import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from suite_runs import written

from ups_scale.evaluate import report
from ups_scale.evaluate import run as running

SCHEMA = Path(__file__).parents[3] / "docs" / "report.schema.json"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, models, make_tests, subject, accelerator):
    out = tmp_path_factory.mktemp("evaluation") / "small"
    return out, written(out, models.linear, make_tests(), subject, accelerator)


@pytest.fixture
def good(evaluated, tmp_path):
    """The folder and the report of an evaluation; the folder is a copy."""
    return Path(shutil.copytree(evaluated[0], tmp_path / "small")), evaluated[1]


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_json_follows_its_schema(good):
    out, written = good
    content = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    assert content == written
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema)
    for name in content["families"]:
        for predictor in ("model", "persistence", "extrapolation", "zero"):
            assert {"nrmse@1", "nrmse@4", "vrmse@1", "rel_l2@4"} <= content["families"][name][predictor].keys()


def test_divergence_is_legal_json_and_loud(tmp_path, models, tests, subject, accelerator):
    out = tmp_path / "small"
    written(out, models.diverging, tests, subject, accelerator)
    content = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))
    assert content["families"]["advection_1d"]["model"]["nrmse@4"] is None
    assert content["families"]["advection_1d"]["model"]["non_finite@4"] == 5
    assert content["growth"]["advection_1d"]["model"]["mean"][3] is None
    assert "gates: 3 of 4 passed; advection_1d: 5 of 5 rollouts not finite at step 4" in report.text_table(content)
    html = (out / "report.html").read_text()
    assert "3 of 4 gates passed" in html
    assert "Diverged" in html
    assert 'class="failed"' in html


def test_masked_static_irregular_and_steady_families_are_reported(tmp_path, models, kinds, subject, accelerator):
    out = tmp_path / "small"
    written(out, models.halfway, kinds, subject, accelerator)
    content = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))
    assert content["data"]["darcy_2d"]["dt_s"] is None
    assert content["data"]["ocean"]["regular"] is False
    lines = report.text_table(content).splitlines()
    assert [line.split()[:2] for line in lines[2:-1]] == [["ocean", "1"], ["ocean", "4"], ["darcy_2d", "1"]]
    html = (out / "report.html").read_text()
    assert "dt 0.1 s (the median; times are irregular)" in html
    assert "grid 8 x 8, steady," in html
    assert "-div(permeability grad(u)) = beta" in html
    assert html.count("No power spectrum: some points have no value") == 1
    # Truth, model and error of three rollouts each, of the one predicted field.
    assert html.count("url(data:image/png;base64,") == 2 * 3 * 3


def test_page_has_what_the_evaluation_found(good):
    html = (good[0] / "report.html").read_text()
    assert "4 of 4 gates passed" in html
    assert "Error growth" in html
    assert "Power spectrum, activator, step 4" in html
    assert "a &lt;small&gt; recipe" in html


def test_csv_holds_every_figure(good):
    out, written = good
    lines = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert list(lines[0]) == ["family", "field", "predictor", "metric", "value"]
    key = ("reaction_diffusion_2d", "inhibitor", "persistence", "nrmse@4")
    (value,) = [line["value"] for line in lines if tuple(line.values())[:4] == key]
    assert float(value) == written["families"][key[0]]["fields"]["inhibitor"]["persistence"]["nrmse@4"]
    assert {"all", "u", "activator", "inhibitor"} == {line["field"] for line in lines}


def test_saved_report_belongs_to_its_checkpoint_data_suite_and_guards(good, subject):
    out, written = good
    assert report.saved(out, subject) == written
    for change in (
        {"checkpoint": dict(subject.checkpoint) | {"checkpoint_sha256": "00" * 32}},
        {"manifest_digest": "00" * 32},
        {"suite": "full"},
        {"suite_hash": "ba9876543210"},
        {"guards": ("helmholtz",)},
    ):
        assert report.saved(out, replace(subject, **change)) is None
    (out / "report.html").unlink()
    assert report.saved(out, subject) is None


def test_saved_is_what_was_requested_whatever_a_second_try_used(tmp_path, models, tests, subject, accelerator):
    tried = replace(subject, guards=("conservation",), noise_scale=(("advection_1d", 2.0),), asked=subject.requested)
    content = written(tmp_path / "small", models.linear, tests, tried, accelerator)
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))
    assert content["guards"] == ["conservation"]
    assert content["requested"] == {"guards": [], "noise_scale": {}}
    assert report.saved(tmp_path / "small", subject) == content
    assert report.saved(tmp_path / "small", replace(subject, guards=("conservation",))) is None


def test_failed_evaluation_leaves_nothing(tmp_path, models, tests, subject, accelerator, monkeypatch):
    def fail(*_):
        raise RuntimeError("no picture")

    monkeypatch.setattr(running, "page", fail)
    with pytest.raises(RuntimeError, match="no picture"):
        written(tmp_path / "small", models.linear, tests, subject, accelerator)
    assert list((tmp_path / "small").iterdir()) == []


def test_the_table_says_the_gain_and_what_a_figure_is(good):
    failed = {"family": "all", "horizon": 4, "value": 0.25, "limit": 0.1, "passed": False}
    _, written = good
    names = ("champion_nrmse", "physics_shock_iou")
    told = written | {"gates": [*written["gates"], *({"name": name} | failed for name in names)]}
    told |= {"champion": {"improvement": -0.14, "sigma": 0.046, "margin": 0.02}}
    lines = report.text_table(told).splitlines()
    assert "FAILED champion_nrmse: all gain -14 % (sigma 4.6 %, asked for 2 %)" in lines
    assert "FAILED physics_shock_iou (1 - IoU): all 0.250, limit 0.100" in lines


def test_text_table_is_aligned(good):
    _, written = good
    lines = report.text_table(written).splitlines()
    assert lines[-1] == "gates: 4 of 4 passed"
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert lines[1].split() == ["family", "step", "model", "persistence", "extrapolation", "zero", "ratio", "gate"]


def test_guards_that_were_left_out_have_a_line_each(good):
    _, written = good
    reasons = {"advection_1d": {"helmholtz": "no velocity"}, "burgers_1d": {"helmholtz": "no velocity"}, "wave_1d": {}}
    lines = report.text_table({**written, "guards_left_out": reasons}).splitlines()
    assert lines[-2] == "guard helmholtz: left out of advection_1d, burgers_1d: no velocity"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.99999, "1.00"), (0.012345, "0.0123"), (123.4, "123"), (1e-7, "1e-07"), (2.5e6, "2.5e+06")],
)
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_missing_numbers_are_dashes():
    assert report.number(None) == "-"


def test_non_finite_figures_become_null():
    assert report._legal({"a": [math.nan, 1.0, (math.inf, 2)]}) == {"a": [None, 1.0, [None, 2]]}
