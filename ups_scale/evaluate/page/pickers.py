"""Panels of which one is seen, chosen with buttons; all of them, below each other, where no script runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
.controls { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 22px; margin: 10px 0; font-size: 13.5px; }
.choice { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; }
.choice > span { color: var(--muted); margin-right: 6px; }
.panel + .panel { margin-top: 22px; }
"""

SCRIPT = """
for (const picker of document.querySelectorAll(".picker")) {
  const controls = picker.querySelector(".controls"), panels = picker.querySelectorAll(":scope > .panel");
  const choices = [...controls.querySelectorAll(".choice")];
  const pressed = choice => choice.querySelector("[aria-pressed=true]").dataset.value;
  const show = () => {
    const picked = JSON.stringify(choices.map(pressed));
    for (const panel of panels) panel.hidden = panel.dataset.pick !== picked;
  };
  for (const choice of choices)
    choice.addEventListener("click", event => {
      const chosen = event.target.closest("button");
      if (!chosen) return;
      for (const button of choice.querySelectorAll("button"))
        button.setAttribute("aria-pressed", String(button === chosen));
      show();
    });
  controls.hidden = false;
  show();
}
"""


def picker(
    dimensions: Mapping[str, Sequence[str]],
    panels: Mapping[tuple[str, ...], str],
    first: Mapping[str, str] | None = None,
    kind: str = "",
    attributes: str = "",
    controls: str = "",
) -> str:
    """HTML of `panels`, by the values of those `dimensions` (name: values) that have more than one, in their order.

    A panel must say what it shows, for all are seen without a script. `first` are values to begin with, by dimension;
    `kind` is a CSS class, `attributes` and `controls` more HTML of the whole and of the row of buttons.
    """
    asked = {name: values for name, values in dimensions.items() if len(values) > 1}
    if not asked and not controls:
        return "".join(panels.values())
    choices = "".join(_choice(name, values, (first or {}).get(name, values[0])) for name, values in asked.items())
    blocks = "".join(
        f'<div class="panel" data-pick="{escape(json.dumps(list(pick), separators=(",", ":"), ensure_ascii=False))}">'
        f"{panel}</div>"
        for pick, panel in panels.items()
    )
    return (
        f'<div class="picker{" " + kind if kind else ""}"{" " + attributes if attributes else ""}>'
        f'<div class="controls" hidden>{choices}{controls}</div>{blocks}</div>'
    )


def _choice(name: str, values: Sequence[str], first: str) -> str:
    buttons = "".join(
        f'<button type="button" data-value="{escape(value)}" aria-pressed="{str(value == first).lower()}">'
        f"{escape(value)}</button>"
        for value in values
    )
    return f'<div class="choice" role="group" aria-label="{escape(name)}"><span>{escape(name)}</span>{buttons}</div>'
