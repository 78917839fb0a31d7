"""What a trial starts, and what it makes of how that ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sweep_runs
from sweep_runs import Computed, calls

from ups_scale.errors import UserError
from ups_scale.sweep import processes, work
from ups_scale.sweep.journal import Claim, Journal, Trial
from ups_scale.sweep.outcome import DIVERGED, DONE, FAILED, STOPPED, Outcome
from ups_scale.sweep.trial import Place, Runner

pytest.importorskip("optuna")
VALUES = {"optimizer.lr": 0.001, "stabilization.grad_clip": 0.5}
TRIAL = Trial("coarse", 1, VALUES, running=True, outcome=None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return sweep_runs.sweep_in(tmp_path / "sweep")[0].place


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[list[str], Mapping[str, str]]]]:
    """Puts exit codes, and what is done meanwhile, in place of processes; gives the list of what would be started."""

    def install(*ends: tuple[int, str, Callable[[], Any]]) -> list[tuple[list[str], Mapping[str, str]]]:
        lines: list[tuple[list[str], Mapping[str, str]]] = []

        def run(line: Sequence[str], log: Path, stop: Any, environment: Mapping[str, str], started: Any) -> int:
            code, text, meanwhile = ends[len(lines)]
            lines.append((list(line), environment))
            log.write_text(text)
            meanwhile()
            return code

        monkeypatch.setattr(processes, "run", run)
        return lines

    return install


def nothing() -> None:
    pass


def outcome_of(place: Place, slot: int = 0, **reference: Any) -> Outcome:
    Journal(place.out)
    claim = Claim.take(place.out, TRIAL.label)
    assert claim is not None
    given = {"reference": None, "share": None} | reference
    found = Runner(place, slot, threading.Event()).trial(TRIAL, claim, **given)
    claim.release()
    return found


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_one_rank_is_trained_under_plain_python_and_measured_by_the_small_suite(place: Place, started: Any) -> None:
    run = place.run_of(VALUES)
    report = {"step": 7, "families": {"a": {"model": {"nrmse@1": 0.1}, "persistence": {"nrmse@1": 0.4}}}}
    lines = started((0, "", nothing), (0, "", lambda: write(run / "evaluation/small/report.json", report)))
    found = outcome_of(place, reference=Path("runs/own"), share=0.35)
    assert (found.state, found.value, found.run, found.step) == (DONE, pytest.approx(0.25), run.name, 7)
    trained, measured = (line for line, _ in lines)
    assert trained[1].endswith("launch/pretrain.py")
    assert {"optimizer.lr=0.001", 'gates.proxy_against="runs/own"', "gates.proxy_share=0.35"} <= set(trained)
    assert measured[1].endswith("tools/evaluate.py")
    assert measured[measured.index("--checkpoint") + 1] == str(run)


@pytest.mark.parametrize(("visible", "own"), [(None, "2,3"), ("4,5,6,7", "6,7"), ("7, 1,0,3,-1,2", "0,3")])
def test_each_slot_has_its_own_gpus_of_those_that_the_sweep_may_see(
    place: Place, started: Any, monkeypatch: pytest.MonkeyPatch, visible: str | None, own: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    lines = started((0, "", nothing), (2, "error: no", nothing))
    outcome_of(replace(place, accelerators=2, parallel=2, gpus=4), slot=1)
    line, environment = lines[0]
    assert line[line.index("--include") + 1] == f"localhost:{own}"
    # With it, DeepSpeed's launcher would count among those alone.
    assert "CUDA_VISIBLE_DEVICES" not in environment
    assert "--num_accelerators" not in line
    line, environment = lines[1]
    assert line[1].endswith("tools/evaluate.py")
    assert environment["CUDA_VISIBLE_DEVICES"] == own


def test_gpus_without_a_number_are_one_for_each_trial(
    place: Place, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1a,GPU-2b")
    with pytest.raises(
        UserError, match="CUDA_VISIBLE_DEVICES=GPU-1a,GPU-2b: DeepSpeed's launcher takes GPUs by number"
    ):
        Runner(replace(place, accelerators=2, gpus=2), 0, threading.Event())
    lines = started((2, "error: no", nothing))
    outcome_of(replace(place, parallel=2, gpus=2), slot=1)
    assert lines[0][1]["CUDA_VISIBLE_DEVICES"] == "GPU-2b"


@pytest.mark.parametrize(("code", "state"), [(3, DIVERGED), (2, FAILED), (4, FAILED), (1, FAILED)])
def test_a_training_that_ends_badly_is_recorded_with_its_error(
    place: Place, started: Any, code: int, state: str
) -> None:
    started((code, "step 3\nerror: step 3: the loss is not finite\n", nothing))
    found = outcome_of(place)
    assert found.state == state
    assert found.error.startswith(f"exit code {code}: step 3: the loss is not finite (")


def test_what_a_signal_ended_is_taken_up_again_twice(place: Place, started: Any) -> None:
    lines = started(*[(-9, "step 3", nothing)] * 3)
    found = outcome_of(place)
    assert len(lines) == 3
    assert found.state == FAILED
    assert found.error.startswith("ended by signal 9: step 3")


def test_a_trial_that_was_stopped_is_not_measured(place: Place, started: Any) -> None:
    stop = {"step": 10, "rule": "proxy", "reason": "too little", "gain": 0.1, "sigma": 0.2, "setting": {}}
    lines = started((0, "", lambda: write(place.run_of(VALUES) / "stopped.json", stop)))
    found = outcome_of(place)
    assert (found.state, found.gain, found.sigma, found.error, found.step) == (STOPPED, 0.1, 0.2, "too little", 10)
    assert len(lines) == 1


class Interrupting(Computed):
    def trial(self, trial: Trial, *given: Any) -> Outcome:
        if trial.number == 2:
            raise processes.Interrupted
        return super().trial(trial, *given)


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "POLL_S", 0.02)
    out = tmp_path / "sweep"
    trials = sweep_runs.run(out, Interrupting(out))
    assert [trial.label for trial in trials if trial.running] == ["coarse-02"]
    assert [trial.label for trial in trials if trial.outcome] == ["coarse-00", "coarse-01"]
    trials = sweep_runs.run(out, Computed(out))
    assert all(trial.outcome for trial in trials)
    begun = [line for line in calls(out) if line.startswith("begin")]
    assert len(begun) == len(set(begun)) == 11
