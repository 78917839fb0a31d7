"""The figures that the demo's model must reach, on the report that `make demo` left in this checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPORTS = sorted(ROOT.glob("runs/demo-*/evaluation/small/report.json"), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
@pytest.mark.skipif(not REPORTS, reason="no runs/demo-*/evaluation/small/report.json: run `make demo` first")
def test_every_family_beats_the_trivial_predictors_by_far() -> None:
    report = json.loads(REPORTS[-1].read_text())
    assert len(report["families"]) >= 4
    for family, table in report["families"].items():
        model, persistence = table["model"], table["persistence"]
        # An easy set proves nothing.
        assert persistence["nrmse@1"] >= 0.15, family
        assert persistence["nrmse@16"] > 0.8, family
        assert model["nrmse@1"] <= 0.3 * persistence["nrmse@1"], family
        assert model["nrmse@4"] <= 0.3 * persistence["nrmse@4"], family
        assert model["nrmse@16"] <= 0.75 * min(persistence["nrmse@16"], 1), family
    assert all(gate["passed"] for gate in report["gates"])
