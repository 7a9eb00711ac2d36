"""Style sheet of the report: light and dark; screen, phone and print."""

from collections.abc import Mapping

_Theme = Mapping[str, str | tuple[str, ...]]

_LIGHT: _Theme = {
    "paper": "#ffffff",
    "panel": "#f5f7f9",
    "ink": "#16202a",
    "soft": "#55626f",
    "rule": "#d5dce3",
    "accent": "#0b5c8a",
    "wash": "#e4f0f7",
    "colors": ("#0b62a4", "#c4501b", "#12805f", "#8a4fb0", "#96700a", "#b8336a", "#3c6f8f", "#666666"),
}
_DARK: _Theme = {
    "paper": "#12171c",
    "panel": "#1b2229",
    "ink": "#e6ebf0",
    "soft": "#9fadba",
    "rule": "#36414c",
    "accent": "#6cb8e6",
    "wash": "#1c3344",
    "colors": ("#5ea9e8", "#f0915c", "#4cc29b", "#c08fe0", "#d8b04a", "#ec7fae", "#8fbdd6", "#b0b0b0"),
}


def _variables(theme: _Theme) -> str:
    names = [f"--{name}:{value}" for name, value in theme.items() if isinstance(value, str)]
    colors = [f"--c{index}:{color}" for index, color in enumerate(theme["colors"])]
    return ";".join(names + colors)


_SERIES = "".join(f".s{i}{{stroke:var(--c{i});fill:none;stroke-width:1.8}}.f{i}{{fill:var(--c{i})}}" for i in range(8))

STYLE = f"""
:root{{color-scheme:light dark;{_variables(_LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(_DARK)}}}}}
{_SERIES}
""" + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 24px 56px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 4px}
h2{font-size:1.2rem;margin:44px 0 10px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:22px 0 6px}
p{margin:8px 0;max-width:76ch}
code{font:0.92em ui-monospace,"Cascadia Mono",Menlo,Consolas,monospace;overflow-wrap:anywhere}
.soft,figcaption,.note{color:var(--soft);font-size:0.875rem}
.lead{font-size:1.05rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin:20px 0 8px;
  padding:0;list-style:none}
.tiles li{background:var(--panel);border-radius:6px;padding:12px 14px}
.tiles strong{display:block;font-size:1.5rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:0.875rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:10px 0}
.scroll:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:7px 14px 7px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
thead th{border-bottom:2px solid var(--ink);vertical-align:bottom;font-size:0.9rem}
tbody th{font-weight:600}
table.scores{width:100%}
.scores td,.scores thead th{padding:8px 10px;min-width:112px;white-space:nowrap}
.scores tbody th{min-width:132px;max-width:230px;padding:8px 12px 8px 10px}
.scores .method{background:var(--wash)}
.scores td>div{line-height:1.35}
.scores .first{font-size:1.06rem}
.scores .small{font-size:0.85rem}
.label{color:var(--soft)}
.scores .delta{font-size:0.8rem;color:var(--soft);margin-top:2px}
.scores tr.summary th,.scores tr.summary td{background:var(--panel)}
.scores tr.summary td.method{background:var(--wash)}
.scores tr.unseen th,.scores tr.unseen td{border-top:2px solid var(--ink)}
.scores tr.unseen+tr.unseen th,.scores tr.unseen+tr.unseen td{border-top:0}
th .soft{display:block;font-weight:400;font-size:0.8rem;line-height:1.35}
b.best{font-weight:700}
b.best::after{content:" \\2605";font-size:0.75em;vertical-align:0.1em;color:var(--accent)}
td.number,th.number{text-align:right}
dl.card{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:8px 0;font-size:0.9rem}
dl.card dt{color:var(--soft)}
dl.card dd{margin:0;overflow-wrap:anywhere}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(264px,1fr));gap:18px 22px}
figure{margin:0}
.panels figcaption{color:var(--ink);font-weight:600;font-size:0.9rem}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:11.5px;font-family:inherit}
svg .grid{stroke:var(--rule);stroke-width:1}
svg .span{stroke:var(--rule);stroke-width:3}
.wide svg{min-width:560px;max-width:860px}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0;padding:0;list-style:none;font-size:0.875rem}
.legend svg{display:inline-block;width:28px;height:14px;vertical-align:-2px}
.strip{display:grid;gap:10px 8px;grid-auto-columns:minmax(136px,1fr);grid-template-rows:auto auto;
  grid-auto-flow:column}
.strip figure{max-width:340px;min-width:0}
.strip img{display:block;width:100%;height:auto;background:#000}
.strip figcaption{padding-top:3px;line-height:1.35;overflow-wrap:anywhere}
.strip figcaption b{color:var(--ink)}
.scale{align-self:end;font-size:0.8rem;color:var(--soft);line-height:1.35}
.ramp{height:12px;border:1px solid var(--rule);background:linear-gradient(to right,#000,#fff)}
.ends{display:flex;justify-content:space-between;gap:8px}
details{margin:12px 0}
summary{cursor:pointer;font-weight:600}
summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
pre{background:var(--panel);padding:12px 14px;border-radius:6px;overflow-x:auto;font-size:0.85rem;
  line-height:1.45}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
footer{margin-top:44px;padding-top:12px;border-top:1px solid var(--rule)}
@media (max-width:640px){
  main{padding:18px 14px 40px}
  h1{font-size:1.4rem}
  .scores tbody th{min-width:96px;padding:7px 6px;position:sticky;left:0;background:var(--paper)}
  .scores td,.scores thead th{min-width:104px;padding:7px 6px}
  dl.card{grid-template-columns:1fr}
  dl.card dd{margin-bottom:6px}
}
@media print{
  :root{color-scheme:light;PRINT}
  body{font-size:10.5pt}
  main{max-width:none;padding:0}
  h2,h3,.note,.legend{break-after:avoid}
  figure,tr,.strip,.tiles li{break-inside:avoid}
  .strip{grid-auto-columns:minmax(0,1fr)}
  .scroll{overflow:visible}
  .scores td,.scores thead th{min-width:0;padding:5px 6px}
  .tiles li,.scores .method,.scores tr.summary th,.scores tr.summary td,.ramp{print-color-adjust:exact;
    -webkit-print-color-adjust:exact}
  @page{margin:14mm}
}
""".replace("PRINT", _variables(_LIGHT))
