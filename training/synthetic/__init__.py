"""Synthetic talking heads with known geometry: `python -m training.synthetic`."""
