"""From videos to a training set: `python -m training.dataset_tool`."""
