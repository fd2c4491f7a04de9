"""Import of the original system's published checkpoints: `python -m training.published`."""
