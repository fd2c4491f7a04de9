"""A viewer in the browser (docs/viewer.md): a generator from all sides, with controls for all of its inputs.

Modules, bottom up: `views` (the interface to the source of frames), `orbit` (the mouse's camera within limits),
`pictures` (rendered maps as pixels), `quality` (draft resolution in motion), `recording` (camera paths), `render_queue`
(the one thread that renders), `checkpoint_list`, `panel` (the controls), `session` (one browser window), `saving`
(downloads), `server`. `__main__` connects the viewer to a checkpoint.
"""
