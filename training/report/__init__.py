"""A run as one HTML page: `python -m training.report`."""
