"""Training data: frames on the disk to batches of frame pairs."""
