"""A trial as real processes: trained by `launch/pretrain.py`, measured by `tools/evaluate.py`."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ups_scale.errors import DataError, DivergenceError, UserError
from ups_scale.recipe.load import from_dict, identity
from ups_scale.sweep import processes
from ups_scale.sweep.journal import Claim, Trial
from ups_scale.sweep.outcome import DIVERGED, DONE, FAILED, STOPPED, Outcome, measured
from ups_scale.sweep.space import Values, changed_recipe
from ups_scale.train.early_stop import NOT_FINITE, PROXY, stopped

ATTEMPTS = 3
"""How often a training that a signal ended, as when memory runs out, is taken up again from its newest checkpoint."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """Where and how trials run.

    Attributes:
        out: the sweep's folder; `recipe.json` in it is the resolved recipe, `runs/` are the trials' run folders.
        code: the folder that has `launch/` and `tools/`.
        base: the resolved recipe.
        manifest_digest: of the data.
        accelerators: ranks of a trial.
        parallel: trials at a time on this machine.
        gpus: how many there are; 0: on the CPU.
        champions: where the full evaluations compete; None: nowhere.
    """

    out: Path
    code: Path
    base: Mapping[str, Any]
    manifest_digest: str
    accelerators: int = 1
    parallel: int = 1
    gpus: int = 0
    champions: Path | None = None

    def run_of(self, values: Values) -> Path:
        """The run folder of a trial with these values."""
        recipe = from_dict(changed_recipe(self.base, values))
        return self.out / "runs" / f"{recipe.run.name}-{identity(recipe, self.manifest_digest)}"


class Runner:
    """Runs trials and full evaluations as processes of slot number `slot` of this machine.

    Raises:
        UserError: the environment names GPUs in a way that DeepSpeed's launcher doesn't take.
    """

    def __init__(self, place: Place, slot: int, stop: threading.Event) -> None:
        self._place, self._stop = place, stop
        self._gpus = _gpus(place, slot)

    def trial(self, trial: Trial, claim: Claim, reference: Path | None, share: float | None) -> Outcome:
        """What comes of a trial; `reference` is the run that it is compared with after `share` of the steps.

        Raises:
            Interrupted: the sweep was told to stop.
        """
        start, run = time.monotonic(), self._place.run_of(trial.values)
        found = self._train(trial, claim, run, reference, share)
        if found is None:
            found = self._measure(trial, claim, run)
        return replace(found, run=run.name, seconds=round(time.monotonic() - start, 1))

    def full(self, trial: Trial, claim: Claim) -> dict[str, Any]:
        """What the full suite says of a trial: its objective, or the error."""
        run, log = self._place.run_of(trial.values), self._log(trial)
        code = self._run(self._evaluate(run, "full"), log, claim)
        if code:
            return {"value": None, "worse": [], "error": _error(log, code)}
        value, worse, lost = measured(_report(run, "full"))
        return {"value": value, "worse": list(worse), "error": _lost(lost)}

    def _train(
        self, trial: Trial, claim: Claim, run: Path, reference: Path | None, share: float | None
    ) -> Outcome | None:
        """What came of the training; None if it is to be measured."""
        gates = {} if reference is None else {"gates.proxy_against": str(reference), "gates.proxy_share": share}
        log = self._log(trial)
        for _ in range(ATTEMPTS):
            code = self._run(self._pretrain({**trial.values, **gates}), log, claim, self._place.accelerators > 1)
            if 0 <= code < 128:  # else a signal ended it
                break
        if code == DivergenceError.exit_code:
            return Outcome(DIVERGED, error=_error(log, code))
        if code:
            return Outcome(FAILED, error=_error(log, code))
        ended = stopped(run)
        if ended is None or ended.rule not in (PROXY, NOT_FINITE):
            return None
        state = STOPPED if ended.rule == PROXY else DIVERGED
        return Outcome(state, error=ended.reason, gain=ended.gain, sigma=ended.sigma, step=ended.step)

    def _measure(self, trial: Trial, claim: Claim, run: Path) -> Outcome:
        log = self._log(trial)
        code = self._run(self._evaluate(run, "small"), log, claim)
        if code:
            return Outcome(FAILED, error=_error(log, code))
        report = _report(run, "small")
        value, worse, lost = measured(report)
        if lost:
            return Outcome(DIVERGED, worse=worse, error=_lost(lost), step=report["step"])
        return Outcome(DONE, value, worse, step=report["step"])

    def _run(self, line: list[str], log: Path, claim: Claim, by_launcher: bool = False) -> int:
        environment = dict(os.environ)
        if self._gpus and by_launcher:  # it is told by --include, and counts among all GPUs of the machine
            environment.pop(VISIBLE, None)
        elif self._gpus:
            environment[VISIBLE] = ",".join(self._gpus)
        else:
            share = len(os.sched_getaffinity(0)) // (self._place.parallel * self._place.accelerators)
            environment.setdefault("OMP_NUM_THREADS", str(max(1, share)))
        return processes.run(line, log, self._stop, environment, claim.started)

    def _pretrain(self, overrides: Values) -> list[str]:
        place, start = self._place, [sys.executable]
        if place.accelerators > 1:
            start = [str(Path(sys.executable).parent / "deepspeed"), "--master_port", str(_free_port())]
            if self._gpus:
                start += ["--include", f"localhost:{','.join(self._gpus)}"]
            else:
                start += ["--num_accelerators", str(place.accelerators)]
        line = [*start, str(place.code / "launch" / "pretrain.py"), "--recipe", str(place.out / "recipe.json")]
        line += ["--run-root", str(place.out / "runs")]
        for key, value in overrides.items():
            line += ["--set", f"{key}={json.dumps(value)}"]
        return line

    def _evaluate(self, run: Path, suite: str) -> list[str]:
        place = self._place
        line = [sys.executable, str(place.code / "tools" / "evaluate.py"), "--checkpoint", str(run), "--suite", suite]
        if suite == "full" and place.champions is not None:
            return [*line, "--champions", str(place.champions)]
        return [*line, "--no-champion", "--zoo", "none"]

    def _log(self, trial: Trial) -> Path:
        folder = self._place.out / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"{trial.label}.log"


def _gpus(place: Place, slot: int) -> list[str]:
    """The GPUs of a slot as the machine counts them, of those that this process may see; empty on the CPU."""
    visible = os.environ.get(VISIBLE)
    numbers = visible.split(",") if visible else list(map(str, range(place.gpus)))
    first = slot * place.accelerators
    found = [number.strip() for number in numbers[: place.gpus][first : first + place.accelerators]]
    if place.accelerators > 1 and not all(number.isdecimal() for number in found):
        raise UserError(
            f"{VISIBLE}={visible}: DeepSpeed's launcher takes GPUs by number; name them by the numbers that "
            "nvidia-smi -L shows, or use --accelerators 1"
        )
    return found


def _report(run: Path, suite: str) -> dict[str, Any]:
    path = run / "evaluation" / suite / "report.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); delete the folder, and start the sweep again") from None


def _error(log: Path, code: int) -> str:
    """The last error message in a log, or its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = next((line for line in reversed(lines[-60:]) if line.startswith("error")), lines[-1] if lines else "")
    ended = f"exit code {code}" if 0 <= code < 128 else f"ended by signal {-code if code < 0 else code - 128}"
    return f"{ended}: {told.removeprefix('error: ')[:500]} ({log})"


def _lost(figures: tuple[str, ...]) -> str:
    return f"predictions are not finite: {', '.join(figures)}" if figures else ""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
