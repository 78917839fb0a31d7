"""A run of two ranks that its patience ends, and what it does when it is started again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_pretrain import command, run, the_run

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


def test_patience_ends_all_ranks_and_another_setting_goes_on(shard_folder: Path, tmp_path: Path) -> None:
    options = {"optimizer.lr": 1e-12, "schedule.steps": 20, "evaluate.every_steps": 3, "checkpoint.every_steps": 10}
    # Weights that don't move: no validation after the first is better.
    output = run(command("ranks", shard_folder, tmp_path, **options, **{"gates.patience": 1}))
    assert output.count("stopped after step 6: 1 validation without a better score") == 1
    folder = the_run(tmp_path)
    assert [path.name for path in (folder / "checkpoints").glob("step-*")] == ["step-6"], "saved because it stopped"
    stopped = json.loads((folder / "stopped.json").read_text())
    assert (stopped["step"], stopped["rule"], stopped["setting"]["gates.patience"]) == (6, "patience", 1)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["stopped"]) == (6, "patience")

    again = run(command("ranks", shard_folder, tmp_path, **options, **{"gates.patience": 1}))
    assert f"{folder}: stopped after step 6: 1 validation without a better score" in again
    assert "step 7/20" not in again
    longer = run(command("ranks", shard_folder, tmp_path, **options, **{"gates.patience": 2}))
    assert "resumed from" in longer
    assert "stopped after step 9: 2 validations without a better score" in longer
