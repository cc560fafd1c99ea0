"""The style of a benchmark's page: light and dark, wide and narrow."""

CSS = """\
:root {
  color-scheme: light dark;
  --back: #fff; --text: #1c2024; --soft: #5c6670; --line: #d5dae0; --panel: #f6f7f9;
  --s0: #5c6670; --s1: #0b6bcb; --s2: #c2410c; --s3: #0f7b4f;
  --good: #0f7b4f; --bad: #b42318; --warn: #8a5300;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14171a; --text: #e6e9ec; --soft: #9aa5b1; --line: #363d45; --panel: #1c2126;
    --s0: #9aa5b1; --s1: #5cb0ff; --s2: #ff9a5c; --s3: #4cc38a;
    --good: #4cc38a; --bad: #ff8a80; --warn: #ffc069;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 3rem;
  background: var(--back); color: var(--text); font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 {
  font-size: 1.2rem; margin: 2.5rem 0 0.5rem; padding-top: 1rem;
  border-top: 1px solid var(--line);
}
h2 small { font-size: 0.9rem; font-weight: normal; color: var(--soft); }
footer { margin-top: 2.5rem; color: var(--soft); font-size: 0.9rem; }
.notices { list-style: none; padding: 0; }
.notices li {
  border-left: 4px solid var(--warn); background: var(--panel);
  padding: 0.4rem 0.8rem; margin: 0.4rem 0;
}
.notices .bad { border-color: var(--bad); }
.notices strong { margin-right: 0.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: 0.5rem 0; }
th, td {
  padding: 0.25rem 0.75rem 0.25rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}
tbody tr.first > * { border-top: 2px solid var(--line); }
th { font-weight: 600; }
.name { text-align: left; }
tbody .name { font-weight: normal; }
.better { color: var(--good); font-weight: 600; }
.WORSE { color: var(--bad); font-weight: 600; }
.figures {
  display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr));
}
figure { margin: 0; padding: 0.75rem; background: var(--panel); border-radius: 6px; min-width: 0; }
figcaption { font-size: 0.9rem; font-weight: 600; }
details { font-size: 0.9rem; }
summary { cursor: pointer; color: var(--soft); }
svg { display: block; width: 100%; height: auto; overflow: visible; font-size: 12px; }
@media (max-width: 36rem) { svg { font-size: 15px; } }
svg text { fill: var(--text); }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.grid { stroke: var(--line); }
.axis { stroke: var(--soft); }
.rule { stroke: var(--text); stroke-dasharray: 5 4; }
.s0 { --series: var(--s0); }
.s1 { --series: var(--s1); }
.s2 { --series: var(--s2); }
.s3 { --series: var(--s3); }
g path, polyline { stroke: var(--series); stroke-width: 1.75; fill: none; }
.mark { fill: var(--series); }
"""
