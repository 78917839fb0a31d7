"""What an evaluation leaves behind: report.json, table.csv, and the plain-text table.

The JSON schema is docs/report.schema.json; docs/evaluation.md describes it. A figure that is not a finite number is
null in the JSON and empty in the CSV, and the count `non_finite@k` says how often the model's prediction was not.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import platform
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ups_scale import atomic
from ups_scale.errors import DataError
from ups_scale.evaluate import super_resolution
from ups_scale.evaluate.entrants import MODEL, TRIVIAL
from ups_scale.evaluate.gates import label, steps
from ups_scale.evaluate.page.numbers import number
from ups_scale.evaluate.reasons import margin
from ups_scale.evaluate.suite import Evaluation
from ups_scale.evaluate.suites import TEST
from ups_scale.observe import environment

FORMAT = 1
FILES = ("report.html", "table.csv", "trajectories.json", "report.json")
"""In the order they are written: report.json, which says that an evaluation is complete, comes last."""
NO_NOISE = (
    "no ensembles: the noise of the given frames is 0, by stabilization.noise of the recipe or by --noise; evaluate "
    "with --noise S for the calibration"
)
NOTHING_MOVES = "no ensembles: every family is steady"


@dataclass(frozen=True)
class Subject:
    """What is evaluated: which checkpoint (`loading.Checkpoint.told`), on which data, by which suite and with which
    settings; which entries of the data are `left_out`, and why; who of the `zoo` stands beside it."""

    checkpoint: Mapping[str, Any]
    config_hash: str | None
    manifest: str
    manifest_digest: str
    suite: str
    suite_hash: str
    suite_settings: Mapping[str, Any]
    horizons: tuple[int, ...]
    context_frames: int
    left_out: tuple[tuple[str, str], ...] = ()
    super_resolution: tuple[int, ...] = ()
    guards: tuple[str, ...] = ()
    noise: float = 0.0
    noise_scale: tuple[tuple[str, float], ...] = ()
    asked: Mapping[str, Any] | None = None
    """`requested` before a second try changed it; None: nothing did."""
    zoo: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @property
    def requested(self) -> dict[str, Any]:
        """The guards and the scales of the noise that were asked for, whatever a second try then used."""
        own = {"guards": sorted(self.guards), "noise_scale": dict(self.noise_scale)}
        return own if self.asked is None else dict(self.asked)

    def same(self) -> dict[str, Any]:
        """What a saved report must say to be of this subject."""
        return {
            "format": FORMAT,
            "suite": self.suite,
            "suite_hash": self.suite_hash,
            "checkpoint_sha256": self.checkpoint["checkpoint_sha256"],
            "manifest_digest": self.manifest_digest,
            "requested": self.requested,
            "noise": self.noise,
        }


def prepare(out: Path) -> None:
    """Makes the folder of a report, before the work that would be lost if it can't be written.

    Raises:
        DataError: it can't be.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise DataError(f"{out}: the report can't be written there ({error.strerror}); name another --out") from None


def build(
    subject: Subject,
    evaluation: Evaluation,
    finer: Mapping[str, Any],
    guards_left_out: Mapping[str, Mapping[str, str]],
    device: torch.device,
    num_processes: int,
) -> dict[str, Any]:
    """The content of report.json; `finer` is what `super_resolution.super_resolution` found."""
    commit = environment.commit()
    content: dict[str, Any] = {
        "format": FORMAT,
        "suite": subject.suite,
        "suite_hash": subject.suite_hash,
        "suite_settings": subject.suite_settings,
        **subject.checkpoint,
        "config_hash": subject.config_hash,
        "manifest": subject.manifest,
        "manifest_digest": subject.manifest_digest,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "horizons": list(subject.horizons),
        "context_frames": subject.context_frames,
        "guards": list(subject.guards),
        "noise": subject.noise,
        "noise_scale": dict(subject.noise_scale),
        "requested": subject.requested,
        "zoo": dict(subject.zoo),
        "left_out": dict(subject.left_out),
        "families": evaluation.families,
        "gates": evaluation.gates,
        "data": evaluation.data,
        "efficiency": {name: {**of, "device": device_name(device)} for name, of in evaluation.efficiency.items()},
        "growth": evaluation.growth,
        "wall_clock_s": evaluation.wall_clock_s,
        "device": device_name(device),
        "num_processes": num_processes,
        "environment": {"python": platform.python_version(), **environment.versions("torch", "accelerate", "numpy")},
    }
    for key in ("splits", "spectra", "budgets", "reliability", "diverged"):
        if getattr(evaluation, key):
            content[key] = getattr(evaluation, key)
    if subject.super_resolution:
        content["super_resolution"] = finer
    if subject.suite_settings["members"] and not evaluation.reliability:
        content["reliability_left_out"] = NO_NOISE if not subject.noise else NOTHING_MOVES
    if any(guards_left_out.values()):
        content["guards_left_out"] = guards_left_out
    return _legal(content | ({"commit": commit} if commit else {}))


def rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, float | None]]:
    """(family, field or `all`, predictor, metric, value) for every figure of the report."""
    for split, families in {TEST: report["families"], **report.get("splits", {})}.items():
        for family, table in families.items():
            entry = family if split == TEST else f"{family} ({split})"
            for field, of in {"all": table, **table.get("fields", {})}.items():
                for predictor, figures in of.items():
                    if predictor != "fields":
                        for metric, value in figures.items():
                            yield entry, field, predictor, metric, value
    for family, of_factor in report.get("super_resolution", {}).items():
        for factor, table in of_factor.items():
            for field, of in {"all": table, **table.get("fields", {})}.items():
                for predictor in (name for name in super_resolution.PREDICTORS if name in of):
                    for metric, value in of[predictor].items():
                        yield family, field, predictor, f"super_resolution_{factor}_{metric}", value


def csv_text(report: Mapping[str, Any]) -> str:
    """The content of table.csv: one figure a line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("family", "field", "predictor", "metric", "value"))
    writer.writerows((*names, "" if value is None else repr(value)) for *names, value in rows(report))
    return out.getvalue()


def predictors(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Who stands in the report's tables: the model, the zoo, and the trivial predictors."""
    named = (MODEL, *report.get("zoo", {}), *TRIVIAL)
    return tuple(name for name in named if any(name in table for table in report["families"].values()))


def gate_rows(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Per gate of the trivial predictors, what a table shows of it: the gate with nRMSE of each predictor (None where
    it has none) and `ratio`, value / limit."""
    names = predictors(report)
    for gate in report["gates"]:
        if gate["name"] != "persistence":
            continue
        table = report["families"][gate["family"]]
        value, limit = gate["value"], gate["limit"]
        nrmse = {name: table.get(name, {}).get(f"nrmse@{gate['horizon']}") for name in names}
        yield {**gate, "nrmse": nrmse, "ratio": value / limit if value is not None and limit else None}


def text_table(report: Mapping[str, Any]) -> str:
    """The gates as an aligned plain-text table, with a last line that says how many passed."""
    names = predictors(report)
    lines = [("family", "step", *names, "ratio", "gate")]
    for row in gate_rows(report):
        figures = [number(row["nrmse"][predictor]) for predictor in names]
        verdict = "passed" if row["passed"] else "FAILED"
        lines.append((row["family"], str(row["horizon"]), *figures, number(row["ratio"]), verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [f"step {report['step']}: nRMSE on the test split; ratio = model / min(persistence, 1)"]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join([line[0].ljust(widths[0]), *cells]))
    for gate in report["gates"]:
        if gate["name"] != "persistence" and not gate["passed"]:
            text.append(f"FAILED {label(gate['name'])}: {gate['family']} {_failed(gate, report)}")
    text += guard_lines(report)
    text.append(verdict_line(report))
    return "\n".join(text)


def guard_lines(report: Mapping[str, Any]) -> list[str]:
    """A line per guard and reason for which it was left out somewhere, with the families."""
    families: dict[tuple[str, str], list[str]] = {}
    for family, of_guard in report.get("guards_left_out", {}).items():
        for guard, reason in of_guard.items():
            families.setdefault((guard, reason), []).append(family)
    return [f"guard {guard}: left out of {', '.join(names)}: {why}" for (guard, why), names in families.items()]


def _failed(gate: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    against = report.get("champion", {})
    if gate["name"] == "champion_nrmse" and "margin" in against:
        return margin(against["improvement"], against["sigma"], against["margin"])
    return f"{number(gate['value'])}, limit {number(gate['limit'])}"


def verdict_line(report: Mapping[str, Any]) -> str:
    """How many gates passed, and how many rollouts left the finite numbers if any did."""
    gates = report["gates"]
    text = f"gates: {sum(gate['passed'] for gate in gates)} of {len(gates)} passed"
    for family, table in report["families"].items():
        last = max(steps(table))
        count = table[MODEL][f"non_finite@{last}"]
        if count:
            rollouts = report["data"][family]["num_trajectories"]
            text += f"; {family}: {count} of {rollouts} rollouts not finite at step {last}"
    return text


def saved(out: Path, subject: Subject) -> dict[str, Any] | None:
    """The report in `out` if it is complete and of the same checkpoint, data, suite and horizons, with all the factors
    of super-resolution that are asked for; else None."""
    if not all((out / name).is_file() for name in FILES):
        return None
    try:
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(report, dict) and all(report.get(key) == value for key, value in subject.same().items())
    zoo = {name: of["checkpoint_sha256"] for name, of in subject.zoo}
    if not same or {name: of["checkpoint_sha256"] for name, of in report["zoo"].items()} != zoo:
        return None
    asked = {f"{factor}x" for factor in subject.super_resolution}
    found = report.get("super_resolution", {})
    return report if not asked or (found and all(asked <= of.keys() for of in found.values())) else None


def trajectories(report: Mapping[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    """The content of trajectories.json: figures of single trajectories, which a comparison pairs."""
    return {"format": FORMAT, "suite_hash": report["suite_hash"], "families": _legal(evaluation.trajectories)}


def write(out: Path, report: Mapping[str, Any], of_trajectories: Mapping[str, Any], html: str) -> None:
    """Writes the files of an evaluation to the folder `out`, each whole or not at all. Main process only."""
    content = {
        "report.html": html,
        "trajectories.json": json.dumps(of_trajectories, allow_nan=False) + "\n",
        "table.csv": csv_text(report),
        "report.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        atomic.write_text(out / name, content[name])


def write_judged(out: Path, report: Mapping[str, Any]) -> None:
    """Replaces report.json alone: by an evaluation that is there, judged since. Main process only."""
    atomic.write_text(out / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")


def device_name(device: torch.device) -> str:
    """The accelerator's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _legal(value: Any) -> Any:
    """`value` with null for every number that JSON can't say."""
    if isinstance(value, Mapping):
        return {key: _legal(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_legal(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
