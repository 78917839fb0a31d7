"""Where a run's figures go: `metrics.jsonl` always, TensorBoard, and a progress bar or plain lines."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ups_scale.atomic import write_text


class Sinks:
    """The sinks of one run on its main rank. A record is a flat dict with `step`, the number of finished steps."""

    def __init__(self, folder: Path, first_step: int, last_step: int) -> None:
        self._metrics = folder / "metrics.jsonl"
        _drop_after(self._metrics, first_step)
        self._file = self._metrics.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=last_step,
            initial=first_step,
            desc="training",
            unit="step",
            disable=not self._terminal,
            smoothing=0.05,
        )
        self._last_step = last_step

    def training(self, record: dict[str, Any]) -> None:
        """Writes a training record: a line, a point per number on the board, the bar or a printed line."""
        self._write(record, "train")
        shown = {
            name: record[name] for name in ("loss", "grad_norm", "lr", "tokens_per_s") if record.get(name) is not None
        }
        if self._terminal:
            self._bar.update(record["step"] - self._bar.n)
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()})
        else:
            text = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
            print(f"step {record['step']}/{self._last_step}  {text}", flush=True)

    def validation(self, step: int, figures: dict[str, float]) -> None:
        """Writes the figures of a validation under the key `validation`."""
        self._line({"step": step, "validation": _legal(figures)})
        for name, value in figures.items():
            self._board.add_scalar(f"validation/{name}", value, step)
        self._board.flush()

    def stopped(self, step: int, rule: str, reason: str) -> None:
        """Writes and prints that the run ends at this step, by which rule and why."""
        self._line({"step": step, "stopped": rule, "reason": reason})
        self.message(f"stopped after step {step}: {reason}")

    def message(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def picture(self, name: str, step: int, image_hwc: np.ndarray) -> None:
        """Puts an (H, W, 3) uint8 image on the board."""
        self._board.add_image(name, image_hwc, step, dataformats="HWC")

    def close(self) -> None:
        self._bar.close()
        self._board.close()
        self._file.close()

    def _write(self, record: dict[str, Any], group: str) -> None:
        self._line(record)
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(f"{group}/{name}", value, record["step"])

    def _line(self, record: dict[str, Any]) -> None:
        # Bytes that a killed run leaves behind end at a line: the next run drops at most a torn last one.
        self._file.write(json.dumps(_legal(record), allow_nan=False) + "\n")
        self._file.flush()


def _legal(record: dict[str, Any]) -> dict[str, Any]:
    """The record with null for what JSON has no number for."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }


def _drop_after(path: Path, step: int) -> None:
    """Keeps the lines of `path` up to `step`: a resumed run does the later ones again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break  # a torn line, from a killed run; nothing was written after it
    write_text(path, "".join(kept))
