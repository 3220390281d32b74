"""What every HTML page has in common: one file that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Iterable

from kilograd.report.markup import escape
from kilograd.report.memory_map import Kind

# Should a name ever slip through unescaped, the browser still runs no script and asks nobody.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1c2126; --soft: #66707a; --rule: #e3e7ea; --edge: #ffffffb0;
  --image: #8cc6d8; --map: #a9cdf3; --saved: #5f93d6; --mask: #c7a6e6; --gradient: #f5b574;
  --scratch: #cfd4d9; --other: #b9bfae; --state: #a5d6a7; --hot: #c62828; --over: #8e5a00; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15191d; --ink: #e8ecef; --soft: #98a3ad; --rule: #2b3238; --edge: #15191db0;
  --image: #23697d; --map: #27507e; --saved: #3d74bd; --mask: #6b4794; --gradient: #a35c14;
  --scratch: #4a525a; --other: #5a6150; --state: #2e6b3a; --hot: #ff8a80; --over: #ffca6b; } }
body { margin: 0 auto; max-width: 1160px; padding: 28px 20px; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 2px; } h2 { font-size: 17px; margin: 30px 0 6px; }
p { margin: 4px 0; } .soft { color: var(--soft); }
.facts { display: grid; gap: 10px 24px; margin: 16px 0 14px;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.facts b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: 13px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; margin: 8px 0; }
.legend i { display: inline-block; width: 13px; height: 13px; border-radius: 3px;
  margin-right: 6px; vertical-align: -2px; }
svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; } svg[viewBox^="0 0 1120"] { min-width: 840px; }
svg[viewBox^="0 0 760"] { min-width: 560px; }
code { overflow-wrap: anywhere; }
text { font: 11px system-ui, sans-serif; fill: var(--soft); }
text.label { fill: var(--ink); pointer-events: none; }
text.strong { fill: var(--hot); font-weight: 600; paint-order: stroke; stroke: var(--paper);
  stroke-width: 4px; } text.over { fill: var(--over); }
rect { stroke: var(--edge); stroke-width: .6; } rect.state { stroke: none; }
.others rect { stroke-width: .15; } rect:hover { stroke: var(--ink); stroke-width: 1.5; }
path { fill: none; stroke-width: 1; } path.grid { stroke: var(--rule); }
path.turn { stroke: var(--soft); stroke-dasharray: 3 3; } path.total { stroke: var(--hot); }
path.peak { stroke: var(--hot); opacity: .6; stroke-dasharray: 2 2; }
path.budget { stroke: var(--over); stroke-dasharray: 7 4; }
path.ours { stroke: var(--ink); stroke-dasharray: 4 3; }
.others { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 22px; }
.others h3 { font-size: 14px; margin: 0; } .others p { font-size: 13px; margin: 0 0 4px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td, th { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--rule); text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child { white-space: nowrap; }
td.bar { width: 26%; } td.bar i { display: block; height: 11px; border-radius: 3px;
  min-width: 2px; background: var(--saved); }
""" + "\n".join(f".{k} {{ fill: var(--{k}); background: var(--{k}); }}" for k in Kind)


def document(title: str, style: str, parts: Iterable[str]) -> str:
    """Return a page of `parts`, which are HTML; `title` is text, `style` joins what all share.

    On a narrow screen tables and pictures scroll by themselves.
    """
    body = "\n".join(parts)
    for name in ("svg", "table"):
        body = body.replace(f"<{name}", f'<div class="wide"><{name}')
        body = body.replace(f"</{name}>", f"</{name}></div>")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>",
            body,
            "</body></html>",
            "",
        ]
    )
