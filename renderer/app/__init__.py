"""A web page that renders frames and videos of a generator from a few controls (Gradio)."""
