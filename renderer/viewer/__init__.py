"""A viewer in the browser: look at a generator from all sides while its controls are moved (docs/viewer.md).

From the bottom: `views` (what is asked of whatever renders), `orbit` (the mouse's camera within limits), `pictures`
(what was rendered, as pixels), `quality` (coarser frames while something moves), `recording` (camera paths),
`render_queue` (the one thread that renders), `shelf` (checkpoints), `panel` (the controls), `session` (one browser
window), `saving` (files), `server`. `command` puts a checkpoint behind it.
"""
