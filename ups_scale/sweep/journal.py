"""The journal of a sweep: which trials there are, what came of them, and who works on which.

It is optuna's journal file, one line per event, so that a kill at any time loses at most what is being written. A trial
that is worked on is held by a lock on a file of its own, which ends with the process that holds it: a trial that the
journal calls running and that nobody holds was left behind, and is taken over. All decisions are made under one lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ups_scale.atomic import write_json
from ups_scale.errors import UserError
from ups_scale.sweep import outcome
from ups_scale.sweep.outcome import DIVERGED, DONE, STOPPED, Outcome
from ups_scale.sweep.space import Values

COARSE, LOCAL = "coarse", "local"
PHASES = (COARSE, LOCAL)


@dataclass(frozen=True)
class Trial:
    """A trial as the journal has it: its number within its phase; neither `running` nor with an `outcome`: it waits."""

    phase: str
    number: int
    values: Values
    running: bool
    outcome: Outcome | None
    around: str = ""
    full: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        return f"{self.phase}-{self.number:02d}"


def optuna() -> Any:
    """The library. Raises a `UserError` that says what to install."""
    try:
        import optuna
    except ImportError:
        raise UserError('a sweep needs optuna, which is not installed: pip install "ups_scale[sweep]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Journal:
    """The journal in the folder `out`, made if it is not there."""

    def __init__(self, out: Path) -> None:
        self._optuna, self._out = optuna(), out
        (out / "claims").mkdir(parents=True, exist_ok=True)
        path = out / "journal.jsonl"
        file = self._optuna.storages.journal.JournalFileBackend(str(path), lock_obj=_FileLock(path))
        with self.deciding():
            self._storage = self._optuna.storages.JournalStorage(file)
            self.studies = {
                phase: self._optuna.create_study(
                    storage=self._storage, study_name=phase, load_if_exists=True, direction="minimize"
                )
                for phase in PHASES
            }

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Within it, no other worker claims, adds or ends a trial. Not to be nested."""
        with (self._out / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def trials(self) -> list[Trial]:
        """All trials, in the order in which they were made."""
        states = self._optuna.trial.TrialState
        found = []
        for phase, study in self.studies.items():
            of_full = study.user_attrs
            for frozen in study.get_trials(deepcopy=False):
                attributes = frozen.user_attrs
                if attributes.get("evidence") or attributes.get("repeats"):
                    continue
                ended = outcome.from_dict(attributes["outcome"]) if "outcome" in attributes else None
                running = frozen.state == states.RUNNING
                around, full = attributes.get("around", ""), of_full.get(f"full/{frozen.number}")
                found.append(Trial(phase, frozen.number, attributes.get("values", {}), running, ended, around, full))
        return found

    def add(self, values: Values) -> None:
        """Adds a trial of the grid that waits for a worker."""
        self.studies[COARSE].enqueue_trial({}, user_attrs={"values": values})

    def begin_next(self) -> Trial:
        """Takes the oldest trial of the grid that waits; there must be one."""
        asked = self.studies[COARSE].ask()
        return Trial(COARSE, asked.number, asked.user_attrs["values"], running=True, outcome=None)

    def end(self, trial: Trial, ended: Outcome) -> None:
        """Writes what came of a trial that was running."""
        states, study = self._optuna.trial.TrialState, self.studies[trial.phase]
        number = study.get_trials(deepcopy=False)[trial.number]._trial_id
        self._storage.set_trial_user_attr(number, "outcome", ended.as_dict())
        if ended.state == DONE and ended.value is not None:
            study.tell(trial.number, ended.value)
        else:  # what was stopped or diverged tells the search where not to look; what failed tells nothing
            failed = ended.state not in (STOPPED, DIVERGED)
            study.tell(trial.number, state=states.FAIL if failed else states.PRUNED)

    def running(self, trial: Trial) -> Any:
        """The library's own object for a trial that is running."""
        study = self.studies[trial.phase]
        return self._optuna.trial.Trial(study, study.get_trials(deepcopy=False)[trial.number]._trial_id)

    def set_full(self, trial: Trial, found: dict[str, Any]) -> None:
        """Writes what came of the full evaluation of a trial."""
        self.studies[trial.phase].set_user_attr(f"full/{trial.number}", found)


class Claim:
    """Holds a piece of work for this process, until `release` or its end. `take` gives None if somebody has it."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file

    @classmethod
    def take(cls, out: Path, label: str) -> Claim | None:
        """The claim on the work of that name.

        Raises:
            UserError: the file system has no locks.
        """
        path = out / "claims" / f"{label}.lock"
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            raise UserError(
                f"{path}: the file system under {out} gives no lock ({error.strerror}); name an --out on one that has "
                "them: a local disk, NFS 4, Lustre with flock"
            ) from None
        return cls(path, file)

    def left_behind(self) -> int | None:
        """The process group that an earlier holder on this machine started last, if it did not see to its end."""
        try:
            content = json.loads(self._path.with_suffix(".group").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content["group"] if content["host"] == socket.gethostname() else None

    def started(self, group: int) -> None:
        """Notes the process group that works on it."""
        write_json(self._path.with_suffix(".group"), {"group": group, "host": socket.gethostname(), "pid": os.getpid()})

    def release(self) -> None:
        """Lets go of it; its processes have ended."""
        self._path.with_suffix(".group").unlink(missing_ok=True)
        self._file.close()


class _FileLock:
    """The lock on the journal's file, for optuna: it ends with its process, and whoever takes it removes the torn line
    that a killed one may have left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def acquire(self) -> bool:
        file = self._path.with_suffix(".lock").open("a")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        with self._path.open("r+b") as journal:
            content = journal.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                journal.truncate(whole)
        return True

    def release(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
