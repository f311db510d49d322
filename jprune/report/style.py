"""The style sheet of a report: system fonts, light and dark, one column that narrows well."""

CSS = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f5f7f9; --text: #243140;
  --muted: #5d6875; --grid: #d9dee4; --accent: #0072B2; --removed: #D55E00; --warn: #fff4e5;
  --kept: #0072B2; --mlp: #56B4E9; --mlp-removed: #E69F00; }
@media (prefers-color-scheme: dark) { :root { --ground: #14191f; --panel: #1d242c;
  --text: #e3e8ee; --muted: #9aa7b5; --grid: #36414d; --accent: #56B4E9; --removed: #f0803c;
  --warn: #3a2c17; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .6rem; }
p { margin: .5rem 0; }
.lead, .note, figcaption { color: var(--muted); }
.note, figcaption { font-size: .88rem; }
.lead { margin: .3rem 0 0; }
.warn { background: var(--warn); border-radius: .5rem; padding: .6rem .9rem; margin: 1rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .9rem;
  margin: 1.5rem 0; }
.card { background: var(--panel); border-radius: .6rem; padding: .9rem 1.1rem; }
.card .name { color: var(--muted); font-size: .85rem; }
.card .value { font-size: 1.45rem; font-weight: 650; font-variant-numeric: tabular-nums;
  line-height: 1.35; }
.card .detail { color: var(--muted); font-size: .82rem; overflow-wrap: anywhere; }
.map { display: grid; gap: 3px; margin: 1.2rem 0 .3rem; }
.map span { height: 1.7rem; border-radius: 3px; background: var(--kept); color: #fff;
  font-size: .7rem; line-height: 1.7rem; text-align: center; overflow: hidden; }
.map span.mlp { background: var(--mlp); color: #10202c; }
.map span.gone { background: none; border: 2px dashed var(--removed); color: var(--removed);
  line-height: calc(1.7rem - 4px); font-weight: 700; }
figure { margin: 1rem 0 1.6rem; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  margin: .6rem 0 1.2rem; min-width: 60%; }
th, td { padding: .32rem .8rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th { font-weight: 600; border-bottom-width: 2px; }
.right { text-align: right; }
tr.gone td { color: var(--removed); }
tr.gone td:first-child { box-shadow: inset 3px 0 0 var(--removed); }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--accent); }
pre { background: var(--panel); border-radius: .5rem; padding: .8rem 1rem; overflow-x: auto;
  font-size: .84rem; line-height: 1.45; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media print { details { display: block; } main { max-width: none; } }
"""
