"""What plays rollouts: a slider and a button that set the CSS variable `--k`, the number of the frame that is shown.

Pictures move with that variable by themselves; lines are drawn anew, from numbers in 64ths of the chart's units.
Without a script, everything shows its last frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ups_scale.evaluate.page.pickers import picker

STYLE = """
.rollout h4 .muted { font-weight: 400; overflow-wrap: anywhere; }
.frames { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least)), 1fr)); gap: 14px 16px;
  align-items: end; }
.frames > figure > div.title { font-size: 13px; font-weight: 600; margin-bottom: 4px; }
.frame { position: relative; width: 100%; background-repeat: no-repeat; background-color: var(--soft); overflow: hidden;
  image-rendering: pixelated; border-radius: 2px; }
.frame i { position: absolute; left: 0; right: 0; height: 2px; margin-bottom: -1px; background: #fff;
  box-shadow: 0 0 0 1px rgb(0 0 0 / .65); }
.shades { max-width: 340px; margin: 5px 0 0; font-size: 12px; color: var(--muted); font-variant-numeric: tabular-nums; }
.shades div { height: 8px; border-radius: 2px; }
.shades p { display: flex; justify-content: space-between; gap: 8px; margin: 2px 0 0; }
.profile { display: grid; grid-template-columns: minmax(0, 1.1fr) minmax(0, 1fr); gap: 16px 30px; align-items: center; }
@media (max-width: 760px) { .profile { grid-template-columns: minmax(0, 1fr); } .frames { --least: 140px !important; } }
.player input[type=range] { flex: 1 1 180px; min-width: 120px; max-width: 420px; accent-color: var(--model); }
.player output { font-variant-numeric: tabular-nums; white-space: nowrap; min-width: 7.5em; }
.player .play { min-width: 5em; }
"""

SCRIPT = """
const numbers = text => new Uint16Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
for (const player of document.querySelectorAll(".player")) {
  const steps = JSON.parse(player.dataset.steps), paths = [];
  const [slider, out, play] = ["input", "output", ".play"].map(name => player.querySelector(name));
  for (const path of player.querySelectorAll("path[data-y]")) {
    const x = numbers(path.closest("[data-x]").dataset.x), y = numbers(path.dataset.y);
    paths.push({path, x, y});
  }
  const show = k => {
    player.style.setProperty("--k", k);
    slider.value = k;
    slider.setAttribute("aria-valuetext", "step " + steps[k]);
    out.textContent = "step " + steps[k] + " of " + steps[steps.length - 1];
    for (const {path, x, y} of paths) {
      let d = "", pen = "M";
      for (let i = 0; i < x.length; i++) {
        const level = y[k * x.length + i];
        if (level === 65535) { pen = "M"; continue; }
        d += pen + (x[i] / 64).toFixed(1) + " " + (level / 64).toFixed(1);
        pen = "L";
      }
      path.setAttribute("d", d);
    }
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "\\u25B6 Play"; };
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (+slider.value === steps.length - 1) show(0);
    play.textContent = "\\u275A\\u275A Pause";
    timer = setInterval(() => {
      if (+slider.value === steps.length - 1) stop(); else show(+slider.value + 1);
    }, Math.min(450, Math.max(70, 6000 / steps.length)));
  });
  slider.addEventListener("input", () => { if (timer !== null) stop(); show(+slider.value); });
  show(steps.length - 1);
}
"""


def player(
    steps: Sequence[int], dimensions: Mapping[str, Sequence[str]], panels: Mapping[tuple[str, ...], str], first: str
) -> str:
    """HTML of `panels`, as `pickers.picker` takes them, whose frames are those of `steps`; the trajectory `first` is
    seen first."""
    attributes = f'style="--k:{len(steps) - 1}" data-steps="{escape(str(list(steps)))}"'
    if len(steps) == 1:
        return f"<div {attributes}>{picker(dimensions, panels, {'trajectory': first})}</div>"
    controls = (
        '<button type="button" class="play">\u25b6 Play</button>'
        f'<input type="range" min="0" max="{len(steps) - 1}" value="{len(steps) - 1}" aria-label="step">'
        "<output></output>"
    )
    return picker(dimensions, panels, {"trajectory": first}, "player", attributes, controls)
