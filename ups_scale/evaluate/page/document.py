"""The frame of every page that this package writes: one file without links, light and dark, readable on a phone."""

from __future__ import annotations

from html import escape

LIGHT = """--page: #ffffff; --ink: #1b2430; --muted: #5b6776; --line: #e3e7ec; --strong-line: #c6cdd6;
  --soft: #f4f6f9;
  --good: #18794e; --good-soft: #eef8f2; --bad: #b42318; --bad-soft: #fdf1f0; --track: #e6eaef;
  --shade: rgb(0 0 0 / .05);
  --model: #2563eb; --c1: #d9730d; --c2: #15803d; --c3: #9333ea; --c4: #db2777; --c5: #0e7490; --c6: #92610e;
  --trivial: #64707f; --blank: #9aa5b1; color-scheme: light;"""
DARK = """--page: #12161c; --ink: #e4e8ee; --muted: #9aa6b5; --line: #2a323d; --strong-line: #414c5a;
  --soft: #1b212a;
  --good: #4cc38a; --good-soft: #14251d; --bad: #ff8478; --bad-soft: #2e1815; --track: #2a323d;
  --shade: rgb(255 255 255 / .06);
  --model: #78a9ff; --c1: #ffa552; --c2: #5fd07f; --c3: #c7a0ff; --c4: #ff8cc0; --c5: #4ecfdb; --c6: #dcb368;
  --trivial: #94a1b2; --blank: #6b7684; color-scheme: dark;"""

STYLESHEET = (
    f":root {{ {LIGHT} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {DARK} }} }}\n"
    f":root[data-theme=dark] {{ {DARK} }}\n"
    """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1120px; margin: 0 auto; padding: 36px 28px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -.012em; overflow-wrap: anywhere; }
h2 { font-size: 20px; line-height: 1.3; margin: 52px 0 6px; padding-top: 24px; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; scroll-margin-top: 8px; }
h3 { font-size: 15.5px; margin: 28px 0 8px; }
h4 { font-size: 14px; margin: 12px 0 6px; }
p { margin: 0 0 10px; max-width: 92ch; overflow-wrap: anywhere; }
a { color: var(--model); }
.muted, figcaption { color: var(--muted); font-size: 13.5px; }
code, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .92em; }
.good { color: var(--good); } .bad { color: var(--bad); }
.contents { display: flex; flex-wrap: wrap; gap: 6px; margin: 18px 0 0; padding: 0; list-style: none;
  font-size: 13.5px; }
.contents a { display: block; padding: 3px 11px; border: 1px solid var(--line); border-radius: 99px; color: var(--ink);
  text-decoration: none; }
.contents a:hover { background: var(--soft); }
.verdict { margin: 16px 0; padding: 14px 18px; border-radius: 8px; border-left: 5px solid var(--good);
  background: var(--good-soft); }
.verdict strong { color: var(--good); font-size: 17px; margin-right: 12px; }
.verdict.failed { border-color: var(--bad); background: var(--bad-soft); }
.verdict.failed strong { color: var(--bad); }
.verdict.plain { border-color: var(--strong-line); background: var(--soft); }
.verdict.plain strong { color: var(--ink); }
.verdict ul, .verdict ol { margin: 8px 0 0; padding-left: 20px; }
.verdict li { margin: 2px 0; overflow-wrap: anywhere; }
.verdict li.failed { color: var(--bad); font-weight: 600; }
/* A shadow at the right edge, which the end of the table covers, and with a script a line of text. */
.scroll { overflow-x: auto; max-width: 100%; margin: 10px 0 14px; background:
  linear-gradient(to left, var(--page) 30%, transparent) right / 44px 100% no-repeat local,
  linear-gradient(to left, var(--strong-line), transparent) right / 18px 100% no-repeat scroll, var(--page); }
.scroll.goes-on::before { content: "Wider than the page: scroll sideways \\2192"; display: block;
  position: sticky; left: 0; color: var(--muted); font-size: 12.5px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
table.wide { width: 100%; }
th, td { padding: 5px 16px 5px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 2px; }
th { font-weight: 600; color: var(--muted); font-size: 12.5px; vertical-align: bottom;
  border-bottom-color: var(--strong-line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; z-index: 1; background: var(--page); }
td.text, th.text { text-align: left; } td.text { white-space: normal; min-width: 11em; }
td.name { font-weight: 600; }
td.model, th.model { color: var(--model); }
td.trivial { color: var(--muted); }
td.best { font-weight: 700; }
td.best::before { content: "\\25CF"; font-size: .6em; vertical-align: .25em; margin-right: 4px; color: var(--good); }
td.lost { color: var(--bad); }
tr.first td { border-top: 1px solid var(--strong-line); }
tr.group td { padding-top: 14px; font-weight: 600; color: var(--muted); font-size: 12.5px; }
tr.failed td.gate, tr.failed td.ratio { color: var(--bad); font-weight: 600; }
td.gate { color: var(--good); }
td.bar { min-width: 130px; width: 180px; }
.track { height: 8px; border-radius: 4px; background: var(--track); overflow: hidden; }
.fill { height: 100%; border-radius: 4px; background: var(--model); }
tr.failed .fill { background: var(--bad); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 26px 34px;
  align-items: start; margin: 14px 0; }
figure { margin: 0; min-width: 0; }
figure.chart { max-width: 560px; }
.chart .title { font-weight: 600; font-size: 14px; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; font: 11px system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.chart text { fill: var(--muted); }
.chart .gridline { stroke: var(--line); stroke-width: 1; }
.chart .minor { stroke: var(--line); stroke-width: .6; opacity: .55; }
.chart .axis { stroke: var(--strong-line); stroke-width: 1; fill: none; }
.chart .mark { stroke: var(--strong-line); stroke-width: 1; stroke-dasharray: 2 3; }
.chart .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.chart .band { stroke: none; opacity: .17; }
.chart .hit { fill: transparent; } .chart .hit:hover { fill: var(--shade); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0 0; padding: 0; list-style: none;
  font-size: 12.5px; }
.legend li { display: flex; align-items: center; gap: 6px; }
.legend svg { width: 22px; height: 10px; flex: none; }
details { margin: 8px 0; }
summary { cursor: pointer; padding: 5px 0; font-weight: 600; font-size: 14px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 22px; margin: 12px 0; font-size: 14px; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: 14px 16px; border-radius: 8px; overflow: auto; font-size: 12.5px;
  max-height: 460px; }
button, select { font: inherit; font-size: 13px; color: var(--ink); background: var(--page);
  border: 1px solid var(--strong-line); border-radius: 6px; padding: 3px 11px; cursor: pointer; }
button:hover { background: var(--soft); }
button[aria-pressed=true] { background: var(--model); border-color: var(--model); color: var(--page); }
:focus-visible { outline: 2px solid var(--model); outline-offset: 2px; }
#theme { position: absolute; top: 12px; right: 14px; color: var(--muted); }
[hidden] { display: none !important; }
@media (max-width: 640px) {
  main { padding: 52px 16px 48px; }
  h1 { font-size: 22px; } h2 { margin-top: 40px; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: 8px; }
  th, td { padding-right: 10px; }
  td.name { white-space: normal; overflow-wrap: anywhere; min-width: 7em; max-width: 8em; }
}
@media print { main { max-width: none; padding: 0; } h2 { break-after: avoid; } figure { break-inside: avoid; }
  #theme { display: none; } }
"""
)

# What a file:// page may keep depends on the browser: without storage the choice lasts for the page's visit.
THEME = """
(() => {
  const root = document.documentElement, query = matchMedia("(prefers-color-scheme: dark)");
  const kept = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : query.matches;
  const button = document.createElement("button");
  button.id = "theme"; button.type = "button";
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", "Show this page " + (dark() ? "light" : "dark"));
  };
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* lasts for this visit */ }
    show();
  });
  query.addEventListener("change", show);
  show();
  document.body.prepend(button);
})();
"""

SCROLL_HINT = """
{
  const look = box => box.classList.toggle("goes-on", box.scrollWidth > box.clientWidth + 1);
  // The line changes the box's height: not within the observer's own turn.
  const watch = new ResizeObserver(found => requestAnimationFrame(() => found.forEach(of => look(of.target))));
  for (const box of document.querySelectorAll(".scroll")) watch.observe(box);
}
"""


def document(title: str, body: str, script: str = "", style: str = "") -> str:
    """A whole HTML page, with `title` (plain text) and `body` (HTML), that loads nothing from anywhere.

    `script` is JavaScript that runs after the body is there, `style` CSS beside `STYLESHEET`. Colours are its CSS
    variables, which follow the system's light or dark scheme, or the page's button.
    """
    scripts = "".join(f"<script>{code}</script>\n" for code in (THEME, SCROLL_HINT, script) if code)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLESHEET}{style}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n{scripts}</body>\n</html>\n"
    )
