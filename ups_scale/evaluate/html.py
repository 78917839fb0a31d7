"""report.html: one self-contained page; pictures are inside it, and it links to nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ups_scale.evaluate.gates import steps
from ups_scale.evaluate.page import family, pickers, player, run, summary
from ups_scale.evaluate.page.document import document
from ups_scale.evaluate.page.rollouts import rollouts
from ups_scale.physics.families import FamilySpec

if TYPE_CHECKING:
    from ups_scale.evaluate.examples import Example

PICTURES_BYTES = 9_000_000
"""Of all rollouts together: with tables and charts the page stays below 15 MB."""
FINEST, COARSEST = 400_000, 4_000
"""Pixels of a picture over all its frames, at most, and before trajectories are left out."""
FULL = '<p class="muted">Rollouts are left out: the page is full.</p>'


def page(
    report: Mapping[str, Any],
    specs: Mapping[str, FamilySpec],
    shown: Mapping[str, Sequence[Example]],
    recipe: Mapping[str, Any],
) -> str:
    """The whole page of report.json's content.

    `specs` and `shown`, rollouts to look at, are by family; a family without any has no pictures. Sections whose data
    the report does not have are left out.
    """
    pictures = fitted(report, specs, shown)
    families = [family.section(report, specs[name], pictures.get(name, "")) for name in report["families"]]
    sections = {"splits": summary.splits(report), "cost": run.cost(report)}
    titles = {"splits": "Out of distribution", "cost": "Cost", "run": "The run", "conventions": "Conventions"}
    contents = {name: name for name in report["families"]}
    contents |= {key: title for key, title in titles.items() if sections.get(key, True)}
    body = [
        summary.head(report, contents),
        summary.gates(report),
        summary.diverged(report),
        summary.champion(report),
        summary.failsafes(report),
        summary.overview(report),
        *families,
        *sections.values(),
        run.facts(report, recipe),
        run.conventions(report),
    ]
    title = f"{report['run']}: evaluation, suite {report['suite']}"
    return document(
        title,
        "\n".join(part for part in body if part),
        script=pickers.SCRIPT + player.SCRIPT,
        style=pickers.STYLE + player.STYLE,
    )


def fitted(
    report: Mapping[str, Any],
    specs: Mapping[str, FamilySpec],
    shown: Mapping[str, Sequence[Example]],
    most: int = PICTURES_BYTES,
) -> dict[str, str]:
    """HTML of the rollouts by family, together at most about `most` bytes: coarser and with fewer frames where that is
    needed, then with the median trajectory alone; what still does not fit is left out, and says so."""
    for examples in (shown, {name: _median(of) for name, of in shown.items()}):
        count = sum(len(of) * len(specs[name].dynamic) * 4 for name, of in examples.items())
        # Pictures have about a third of a byte per pixel.
        pixels = min(FINEST, 3 * most // max(1, count))
        while True:
            found = {name: _rollouts(report, specs[name], of, pixels) for name, of in examples.items()}
            size = sum(map(len, found.values()))
            if size <= most:
                return found
            if pixels <= COARSEST:
                break
            pixels = max(COARSEST, int(0.9 * pixels * most / size))
    kept, left = {}, most
    for name, pictures in found.items():
        kept[name] = pictures if len(pictures) <= left else FULL
        left -= len(kept[name])
    return kept


def _rollouts(report: Mapping[str, Any], spec: FamilySpec, examples: Sequence[Example], pixels: int) -> str:
    alone = report["data"][spec.name]["num_trajectories"] == 1
    horizons = steps(report["families"][spec.name])
    return rollouts(spec, examples, horizons, family.best_entry(report, spec.name), pixels, alone)


def _median(examples: Sequence[Example]) -> Sequence[Example]:
    return [example for example in examples if example.label == "median"] or examples[:1]
