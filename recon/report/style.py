"""Style sheet of the report: light and dark; screen, phone and print."""

from collections.abc import Mapping

#: Outlines of labels and of predictions on images, which are dark in both themes.
TRUTH_COLOR, FOUND_COLOR = "#3fe0ff", "#ffb000"

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
main{overflow-wrap:break-word;max-width:1360px;margin:0 auto;padding:28px 24px 56px}
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
.scroll{position:relative;overflow-x:auto;margin:10px 0}
.scroll:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:7px 14px 7px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
thead th{border-bottom:2px solid var(--ink);vertical-align:bottom;font-size:0.9rem}
tbody th{font-weight:600}
table.scores{width:100%}
.scores td,.scores thead th{padding:8px 10px;min-width:112px;white-space:nowrap}
.scores tbody th{min-width:132px;max-width:230px;padding:8px 12px 8px 10px;overflow-wrap:anywhere}
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
.panels figcaption{color:var(--ink);font-weight:600;font-size:0.9rem;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:11.5px;font-family:inherit}
svg .grid{stroke:var(--rule);stroke-width:1}
svg .span{stroke:var(--rule);stroke-width:3}
.dots svg{max-width:680px}
svg text.name{fill:var(--ink)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0;padding:0;list-style:none;font-size:0.875rem}
.legend li{min-width:0;overflow-wrap:anywhere}
.legend svg{display:inline-block;width:28px;height:14px;vertical-align:-2px}
.slices h4{font-size:0.95rem;margin:14px 0 4px;overflow-wrap:anywhere}
.which::first-letter{text-transform:uppercase}
.which{display:inline-block}
.tools{display:flex;flex-wrap:wrap;align-items:center;gap:6px;margin:8px 0;font-size:0.875rem}
.tools button{font:inherit;color:var(--ink);background:var(--panel);border:1px solid var(--rule);border-radius:6px;
  padding:4px 12px;min-height:32px;cursor:pointer}
.tools button[aria-pressed=true]{background:var(--wash);border-color:var(--accent);font-weight:600}
.tools button:focus-visible,a:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.tools .spot{color:var(--soft);font-variant-numeric:tabular-nums}
.arms{display:grid;gap:14px 10px;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));margin:8px 0 20px}
.arm{display:grid;grid-row:span 4;grid-template-rows:subgrid;row-gap:6px;max-width:340px;min-width:0}
.arm p{margin:0;font-size:0.875rem;line-height:1.35;color:var(--soft);overflow-wrap:anywhere}
.arm p b{color:var(--ink);font-size:1rem}
.arm figure{min-width:0}
.arm figcaption{padding-top:3px;line-height:1.35;overflow-wrap:anywhere}
.view{position:relative;overflow:hidden;background:#000;cursor:crosshair;touch-action:pan-y}
.zoomed .view{touch-action:none}
.view img{display:block;width:100%;height:auto;transform-origin:0 0;user-select:none;
  transform:scale(var(--zoom,1)) translate(calc(var(--left,0)*-100%),calc(var(--top,0)*-100%))}
.zoomed .view img{image-rendering:pixelated}
.view .outlines{position:absolute;inset:0;height:100%;overflow:hidden;pointer-events:none;transform-origin:0 0;
  transform:scale(var(--zoom,1)) translate(calc(var(--left,0)*-100%),calc(var(--top,0)*-100%))}
.outlines path{fill:none;vector-effect:non-scaling-stroke;stroke-width:calc(1.6px/var(--zoom,1))}
.outlines .truth,.outline.truth{stroke:TRUTH}
.outlines .found,.outline.found{stroke:FOUND;stroke-dasharray:calc(5px/var(--zoom,1)) calc(3px/var(--zoom,1))}
.bare .outlines{display:none}
.outline{display:inline-block;width:28px;height:12px;vertical-align:-2px;background:#000}
.pointed .view::before,.pointed .view::after{content:"";position:absolute;z-index:1;pointer-events:none;
  background:#ffe45c}
.pointed .view::before{left:calc(var(--u)*100%);top:0;bottom:0;width:1px}
.pointed .view::after{top:calc(var(--v)*100%);left:0;right:0;height:1px}
.scales{display:grid;gap:8px;align-content:start;max-width:340px;font-size:0.8rem;color:var(--soft);line-height:1.35;
  grid-row:span 2}
.ramp{height:12px;border:1px solid var(--rule)}
.ends{display:flex;justify-content:space-between;gap:8px}
a{color:var(--accent)}
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
  .arms{grid-template-columns:minmax(0,1fr)}
  .arm{grid-template-columns:repeat(3,minmax(0,1fr));grid-template-rows:auto;grid-row:auto;column-gap:8px;max-width:none}
  .arm p,.arm .scales{grid-column:1/-1}
  .arm figure+.scales{grid-column:2/-1;grid-row:auto}
}
@media print{
  :root{color-scheme:light;PRINT}
  body{font-size:10.5pt}
  main{max-width:none;padding:0}
  h2,h3,.note,.legend{break-after:avoid}
  h4,.slices p{break-after:avoid}
  figure,tr,.arms,.tiles li{break-inside:avoid}
  .tools{display:none}
  a{color:inherit;text-decoration:none}
  .scroll{overflow:visible}
  table.plain,.plain thead th{font-size:8pt}
  table.plain th,table.plain td{padding-right:8px}
  .plain tbody th{overflow-wrap:anywhere;min-width:90px}
  .scores td,.scores thead th{min-width:0;padding:5px 6px}
  .tiles li,.scores .method,.scores tr.summary th,.scores tr.summary td,.ramp,.view{print-color-adjust:exact;
    -webkit-print-color-adjust:exact}
  @page{margin:14mm}
}
""".replace("PRINT", _variables(_LIGHT)).replace("TRUTH", TRUTH_COLOR).replace("FOUND", FOUND_COLOR)
