"""Rollouts to look at: truth, model, the best of the zoo and the error, with a slider for the step and a play button.

Dimensions: h step after the last given frame, c field, x space.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ups_scale.evaluate.page.numbers import shown
from ups_scale.evaluate.page.places import LARGEST, Canvas, canvas, kept_frames
from ups_scale.evaluate.page.player import player
from ups_scale.evaluate.page.profiles import LARGEST_LINE, Row, colour_bar, profile
from ups_scale.evaluate.page.sprites import error_shades, sprite, truth_shades
from ups_scale.physics.families import FamilySpec

if TYPE_CHECKING:
    from ups_scale.evaluate.examples import Example

LABELS = {"good": "A good trajectory (best tenth)", "median": "The median trajectory", "worst": "The worst trajectory"}
COARSEST = 8
"""Pixels of a picture's longer side, at least."""


def rollouts(
    spec: FamilySpec, examples: Sequence[Example], horizons: Sequence[int], best: str | None, pixels: int, alone: bool
) -> str:
    """HTML of a family's rollouts, none without `examples`.

    `best` is the entry of the zoo that stands beside the model, `alone` whether the test set has one trajectory only.
    A picture has about `pixels` pixels over all its frames, at most.
    """
    if not examples:
        return ""
    fields = [spec.fields[c] for c in spec.dynamic]
    kept, size = _fitted(spec, examples[0], horizons, pixels)
    panels = {}
    for example in examples:
        place = canvas(spec, example.truth_hcx[0], size) if spec.dimensions > 1 else None
        for c in spec.dynamic:
            rows = [
                Row(row.name, row.title, row.values_hx[kept], row.shades)
                for row in _rows(example, c, best if best in example.others else None)
            ]
            body = _frames(rows, place, c, spec) if place else profile(rows, example.truth_hcx[0], c, spec, size)
            heading = _heading(example, spec.fields[c], alone)
            pick = tuple(name for name, of in ((example.label, examples), (spec.fields[c], fields)) if len(of) > 1)
            panels[pick] = f'<div class="rollout">{heading}{body}</div>'
    labels = [example.label for example in examples]
    first = "median" if "median" in labels else labels[0]
    return player([i + 1 for i in kept], {"trajectory": labels, "field": fields}, panels, first)


def _fitted(spec: FamilySpec, example: Example, horizons: Sequence[int], pixels: int) -> tuple[list[int], int]:
    """The numbers from 0 of the frames that are shown; pixels of a picture's longer side, or points of a line."""
    steps = range(1, len(example.truth_hcx) + 1)
    if spec.dimensions == 1:
        size = min(spec.grid[0], LARGEST_LINE)
        kept = kept_frames(steps, horizons, size, pixels)
        return kept, max(COARSEST, min(size, pixels // len(kept)))
    size = LARGEST
    while True:
        place = canvas(spec, example.truth_hcx[0], size)
        kept = kept_frames(steps, horizons, place.area, pixels)
        if size <= COARSEST or len(kept) * place.area <= pixels:
            return kept, size
        size = max(COARSEST, int(size * 0.8))


def _rows(example: Example, c: int, best: str | None) -> list[Row]:
    truth_hx, model_hx = example.truth_hcx[:, c], example.pred_hcx[:, c]
    scale = truth_shades(truth_hx)
    rows = [Row("truth", "truth", truth_hx, scale), Row("model", "model", model_hx, scale)]
    if best is not None:
        rows.append(Row(best, best, example.others[best][:, c], scale))
    with np.errstate(invalid="ignore", over="ignore"):
        error_hx = model_hx - truth_hx
    return [*rows, Row("error", "model \u2212 truth", error_hx, error_shades(error_hx, truth_hx))]


def _heading(example: Example, field: str, alone: bool) -> str:
    label = "The only trajectory" if alone else LABELS[example.label]
    num_steps = len(example.truth_hcx)
    steps = "step 1" if num_steps == 1 else f"mean over steps 1 to {num_steps}"
    score = shown(example.nrmse if np.isfinite(example.nrmse) else None)
    told = f"{escape(example.key)}, nRMSE {score} ({steps})"
    return f'<h4>{label}, {escape(field)} <span class="muted">{told}</span></h4>'


def _frames(rows: Sequence[Row], place: Canvas, c: int, spec: FamilySpec) -> str:
    """Pictures of frames beside each other, a colour bar under each."""
    note = f" ({place.stretched})" if place.stretched else ""
    figures = []
    for row in rows:
        picture = sprite(place.frames(row.values_hx, row.shades), row.shades)
        label = escape(f"{row.title}, {spec.fields[c]}")
        figures.append(
            f'<figure><div class="title">{escape(row.title + note)}</div>'
            f'<div class="frame" role="img" aria-label="{label}" '
            f'style="aspect-ratio:{place.aspect:.4g};{picture.style()}"></div>{colour_bar(row, c, spec)}</figure>'
        )
    least = 420 if place.aspect > 2.5 else 200
    return f'<div class="frames" style="--least:{least}px">{"".join(figures)}</div>'
