"""Import of checkpoints that the original system published: `python -m training.published`."""
