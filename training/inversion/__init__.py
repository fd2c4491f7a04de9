"""Inversion of a clip into latent codes: `python -m training.inversion`."""
