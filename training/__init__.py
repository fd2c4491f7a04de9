"""The model and its training: networks, losses, augmentation, data, checkpoints, the loop."""
