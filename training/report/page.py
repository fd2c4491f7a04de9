"""HTML template of the report, without scripts or external resources (its security policy forbids both)."""

__all__ = ["PAGE"]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --page: #fbfbfa; --card: #fff; --text: #1c1c1a; --soft: #6b6b66; --line: #deded9;
  --warn: #9a4a00; --c0: #2f6fb5; --c1: #c8601d; --c2: #3c8d5a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #161615; --card: #1f1f1d; --text: #ececea; --soft: #a3a39d;
  --line: #383835; --warn: #f0a860; --c0: #6ea8e6; --c1: #ee9457; --c2: #73c694; }} }}
body {{ margin: 0 auto; max-width: 1180px; padding: 24px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 22px; overflow-wrap: anywhere; }} h2 {{ font-size: 17px; margin-top: 36px; }}
h3 {{ font-size: 14px; font-weight: 600; }} p {{ color: var(--soft); overflow-wrap: anywhere; }}
.tiles, .charts, .pictures, .videos {{ display: flex; flex-wrap: wrap; gap: 14px; }}
.tile {{ background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 8px 14px;
  color: var(--soft); font-size: 13px; }} .tile b {{ display: block; color: var(--text); font-size: 19px; }}
figure {{ margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 8px; }}
figcaption {{ font-size: 12px; color: var(--soft); overflow-wrap: anywhere; }} figcaption b {{ color: var(--text); }}
.charts figure {{ width: 340px; }} .charts svg {{ width: 100%; display: block; }}
.pictures img {{ width: 260px; image-rendering: pixelated; display: block; }}
.videos video {{ width: 180px; display: block; image-rendering: pixelated; }}
table {{ border-collapse: collapse; margin: 10px 0; font-variant-numeric: tabular-nums; font-size: 14px; }}
td, th {{ text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }}
th {{ font-weight: 600; color: var(--soft); }}
pre {{ background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 10px; font-size: 12px;
  max-height: 420px; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; }}
pre.warning {{ color: var(--warn); }}
svg text {{ font: 10px system-ui, sans-serif; fill: var(--soft); }} .grid {{ stroke: var(--line); }}
.threshold {{ stroke: var(--warn); stroke-dasharray: 4 3; }}
polyline {{ fill: none; stroke-width: 1.6; stroke-linejoin: round; }} .range {{ opacity: 0.2; stroke: none; }}
.c0 {{ stroke: var(--c0); }} .c1 {{ stroke: var(--c1); }} .c2 {{ stroke: var(--c2); }}
.range.c0 {{ fill: var(--c0); }} .range.c1 {{ fill: var(--c1); }} .range.c2 {{ fill: var(--c2); }}
circle.c0 {{ fill: var(--c0); }} circle.c1 {{ fill: var(--c1); }} circle.c2 {{ fill: var(--c2); }}
.k0 {{ color: var(--c0); }} .k1 {{ color: var(--c1); }} .k2 {{ color: var(--c2); }}
summary {{ cursor: pointer; font-size: 17px; font-weight: 600; margin-top: 36px; }}
</style>
</head>
<body>
<h1>{title}</h1>
{summary}
<h2>Warnings</h2>
{warnings}
<h2>Metrics</h2>
{metrics}
<h2>Images</h2>
{pictures}
<h2>Videos</h2>
{videos}
<h2>Geometry</h2>
{geometry}
<h2>Curves</h2>
<p>Against thousands of videos shown; the figure in bold is the latest.</p>
{curves}
<details><summary>End of the log</summary>{log}</details>
<details><summary>Options</summary>{options}</details>
</body>
</html>
"""
