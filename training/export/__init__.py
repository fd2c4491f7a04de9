"""Export of a generator's frames to programs that run without this code: `python -m training.export`."""
