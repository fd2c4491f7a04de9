"""Training data: from frames on the disk to batches of frame pairs."""
