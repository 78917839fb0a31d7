"""report.html: what stands where, what is left out, that it loads nothing, stays small, and works in a browser."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from page_input import RECIPE, SPECS, examples, full_report, gate, plain_report, spec

from ups_scale.evaluate import html as report_page
from ups_scale.evaluate.html import document, fitted, page
from ups_scale.evaluate.page import family, metrics, summary

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def shown():
    return {name: examples(of) for name, of in SPECS.items()}


@pytest.fixture(scope="module")
def full(shown):
    return page(full_report(), SPECS, shown, RECIPE)


@pytest.fixture(scope="module")
def plain(shown):
    return page(plain_report(), SPECS, shown, RECIPE)


def text_of(html):
    body = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_it_loads_nothing(full):
    assert "http" not in full
    assert not re.search(r'(?:src|href)="(?!data:|#)', full)
    assert "url(data:image/png;base64," in full
    assert not re.search(r"url\((?!data:|#)", full)
    assert "<script src" not in full


def test_links_have_their_sections(full):
    targets = re.findall(r'href="#([^"]+)"', full)
    assert [*SPECS, "splits", "cost", "run", "conventions"] == targets
    for target in targets:
        assert f'id="{target}"' in full


def test_failed_gates_come_first_in_red(full):
    text = text_of(full)
    assert "15 of 17 gates passed" in text
    assert 'class="failed">advection_1d, step 4: conservation gap 0.0400, limit 0.0200</li>' in full
    assert "advection_1d, step 6: correlation horizon in steps 3.00, at least 4.00" in text
    assert full.index("gates passed") < full.index("Diverged") < full.index("Not promoted") < full.index("Fail-safes")


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("periodic", "Mean of |Q(k) \u2212 Q(0)| / max(|Q(0)|, L1 norm of q(0)) over trajectories. 0 is not drawn."),
        (
            "open",
            "Mean of |Q(k) \u2212 the truth's Q(k)| / max(|Q(0)|, L1 norm of q(0)) over trajectories. The sides let",
        ),
    ],
)
def test_a_conservation_gap_says_what_it_is_held_against(kind, note):
    tube = spec("compressible_flow_1d", ("density", "pressure", "velocity_x"), (16,), kind)
    report = {
        "budgets": {tube.name: {"mass": {"truth": [0.0], "model": [1e-3]}}},
        "families": {tube.name: {"model": {}}},
    }
    (chart,) = family.budgets(report, tube)
    assert note in unescape(chart)


def test_a_gate_without_a_figure_says_so():
    line = summary.gate_line(gate("ece", "all", 6, None, 0.1))
    assert line == "all families, step 6: ece is not finite, or there is none (limit 0.100)"


def test_many_failed_gates_are_folded():
    report = plain_report()
    report["gates"] = [gate("persistence", f"f{i}", 1, 2.0, 1.0) for i in range(40)]
    html = summary.gates(report)
    assert html.count('class="failed"') == 40
    assert "<summary>28 more</summary>" in html
    assert "0 of 40 gates passed" in html


def test_champion_verdict_and_failsafes(full):
    text = text_of(full)
    assert (
        "Not promoted against the champion of demo-1234abcd, old-11111111: nRMSE 1.3 % lower "
        "(at step 6, σ 2 %, asked for 2 %)" in text
    )
    assert "<li>Changed: the &lt;seed&gt;.</li><li>Helped a little.</li><li>Next: longer.</li>" in full
    assert "advection_1d, fno: 1 of 3 rollouts, the first at step 5 (advection_1d-000002)" in text
    assert "guards conservation passed" in text


def test_every_section_with_data_is_there(full):
    text = text_of(full)
    for words in (
        "Other regime",
        "Other resolution",
        "advection_1d-64: taken as advection_1d.",
        "Power spectrum, u, step 6",
        "Conservation gap, integral",
        "Reliability, step 6",
        "8 members, noise 0.0200, sharpness 0.125, ece 0.0200, 95 % of resampled trajectories give ece 0.0150 to "
        "0.0301, crps 0.0100, spread_skill 0.800",
        "Super-resolution",
        "left out: too coarse",
        "No longer finite, so the line ends: fno.",
        "fno, ms/step",
        "unet-00000002",
        "hash 0123456789ab",
        "a &lt;small&gt; recipe",
        "other: unknown",
        "the points are scattered, and a spectrum needs a grid",
    ):
        assert words in text


def test_sections_without_data_are_left_out(plain):
    text = text_of(plain)
    for words in (
        "Verdict",
        "romoted",
        "Diverged",
        "Fail-safes",
        "Out of distribution",
        "Power spectrum, ",
        "fno",
        "Conservation gap, ",
        "Reliability,",
        "Super-resolution",
        "guards",
        "Who stands beside",
    ):
        assert words not in text
    assert "15 of 15 gates passed Below persistence and below zero on every family and step." in text
    assert text.count("Error growth") == len(SPECS)


def test_a_report_without_examples_growth_and_cost_is_a_page():
    report = plain_report()
    report["growth"], report["efficiency"] = {}, {}
    text = text_of(page(report, SPECS, {}, RECIPE))
    assert "Rollouts" not in text
    assert "Error growth" not in text
    assert "Cost" not in text


def test_nrmse_of_everybody_with_the_best_marked(full):
    table = full[full.index("nRMSE after the last given frame") :]
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", table)[:11]
    assert heads[:6] == ["family", "step", "model", "model / bar", "gate", ""]
    assert heads[6:] == ["fno", "unet", "persistence", "extrapolation", "zero"]
    first = table[table.index("<tbody>") : table.index("</tr>", table.index("<tbody>"))]
    assert '<td class="model best">0.0100</td>' in first
    assert 'style="width:12.5%"' in first
    assert first.count("best") == 1
    assert '<td class="lost">not finite</td>' in table


def test_the_best_is_that_of_the_metric():
    table = {
        "model": {"psnr@1": 30.0, "conservation_gap@1": 0.1, "nrmse@1": None, "spread_skill@1": 0.9, "mae@1": 1.0},
        "fno": {"psnr@1": 20.0, "conservation_gap@1": 0.2, "nrmse@1": 0.5, "spread_skill@1": 0.8, "mae@1": 1.0},
        "persistence": {"psnr@1": 10.0, "conservation_gap@1": 0.0, "nrmse@1": 0.9},
    }
    names = list(table)
    assert metrics.best_of(table, names, "psnr", "psnr@1") == ["model"]
    assert metrics.best_of(table, names, "conservation_gap", "conservation_gap@1") == ["model"]
    assert metrics.best_of(table, names, "nrmse", "nrmse@1") == ["fno"]
    assert metrics.best_of(table, names, "spread_skill", "spread_skill@1") == []
    assert metrics.best_of(table, names, "mae", "mae@1") == []


def test_a_figure_that_is_not_defined_is_not_called_not_finite():
    table = {"model": {"a@1": None, "non_finite@1": 0, "a@4": None, "non_finite@4": 2}, "fno": {"a@1": None}}
    assert "-" in metrics.figure(table, "model", "a@1")
    assert "not finite" in metrics.figure(table, "model", "a@4")
    assert "not finite" in metrics.figure(table, "fno", "a@1")
    assert "-" in metrics.figure(table, "fno", "other@1")


def test_metrics_are_grouped():
    groups = dict(metrics.grouped(full_report()["families"]["advection_1d"], ["model"], "6"))
    assert list(groups) == ["accuracy", "spectral", "physics", "reliability", "whole rollout"]
    assert groups["accuracy"][0] == "nrmse@6"
    assert "non_finite@6" not in groups["accuracy"]
    assert groups["reliability"] == ["ece@6", "crps@6", "spread_skill@6"]
    assert groups["whole rollout"] == ["nrmse_mean@1-6", "horizon@0.8"]
    unknown = dict(metrics.grouped({"model": {"new_metric@6": 1.0, "non_finite@6": 2}}, ["model"], "6"))
    assert unknown == {"accuracy": ["non_finite@6"], "other": ["new_metric@6"]}


def test_the_best_of_the_zoo_stands_beside_the_model(shown):
    report = full_report()
    assert report_page.family.best_entry(report, "ocean") == "unet"
    assert report_page.family.best_entry(plain_report(), "ocean") is None
    # unet is the best here, but has no rollouts: model, truth and error alone.
    html = fitted(report, SPECS, {"ocean": shown["ocean"]})["ocean"]
    assert html.count("image/png") == 3 * 3


def test_pictures_stay_within_their_budget(shown):
    rng = np.random.default_rng(0)
    big = {name: examples(of) for name, of in SPECS.items() if name == "reaction_diffusion_2d"}
    spec = replace(SPECS["reaction_diffusion_2d"], grid=(96, 96))
    for example in big["reaction_diffusion_2d"]:
        example.truth_hcx = rng.normal(size=(40, 2, 96, 96)).astype(np.float32)
        example.pred_hcx, example.others = example.truth_hcx + 1, {}
    report, specs = full_report(), {"reaction_diffusion_2d": spec}
    free = sum(map(len, fitted(report, specs, big).values()))
    for most in (2_000_000, 500_000, 60_000):
        found = fitted(report, specs, big, most)
        assert sum(map(len, found.values())) <= most < free
        assert "image/png" in found["reaction_diffusion_2d"]
    assert "the page is full" in fitted(report, specs, big, 1_000)["reaction_diffusion_2d"]


def test_without_a_script_everything_is_seen(full):
    body = re.sub(r"<script>.*?</script>", "", full, flags=re.DOTALL)
    assert "<noscript" not in body
    # Only what would do nothing without a script is hidden until it runs.
    assert set(re.findall(r"<[^>]* hidden>", body)) == {'<div class="controls" hidden>'}
    assert "--k:5" in body


def test_a_title_is_plain_text():
    assert "<title>a &lt; b</title>" in document("a < b", "<p>body</p>")


DRIVE = """<script>
const found = {};
const player = document.querySelector(".player"), slider = player.querySelector("input");
const line = () => player.querySelector(".panel:not([hidden]) path[data-y]").getAttribute("d");
const seen = () => [...player.querySelectorAll(":scope > .panel")].filter(panel => !panel.hidden).length;
found.panels = seen();
found.first = player.querySelector(".panel:not([hidden]) h4").textContent.slice(0, 21);
const last = line();
slider.value = 0; slider.dispatchEvent(new Event("input"));
found.moved = line() !== last;
found.k = player.style.getPropertyValue("--k");
found.told = player.querySelector("output").textContent;
player.querySelector("[data-value=worst]").click();
found.worst = player.querySelector(".panel:not([hidden]) h4").textContent.slice(0, 20);
player.querySelector(".play").click();
found.playing = player.querySelector(".play").textContent.includes("Pause");
player.querySelector(".play").click();
const before = getComputedStyle(document.body).backgroundColor;
document.getElementById("theme").click();
found.theme = getComputedStyle(document.body).backgroundColor !== before;
found.overflow = document.documentElement.scrollWidth > innerWidth;
document.title = JSON.stringify(found);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open the page in")
def test_a_browser_opens_it_without_an_error_and_its_controls_work(tmp_path, full):
    path = tmp_path / "report.html"
    path.write_text(full.replace("</body>", DRIVE + "</body>"))
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=500,900",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    title = re.search(r"<title>(.*?)</title>", done.stdout)[1]
    assert json.loads(title) == {
        "panels": 1,
        "first": "The median trajectory",
        "moved": True,
        "k": "0",
        "told": "step 1 of 6",
        "worst": "The worst trajectory",
        "playing": True,
        "theme": True,
        "overflow": False,
    }
