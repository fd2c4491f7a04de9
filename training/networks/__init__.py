"""Generator and discriminators, mixed precision, activation checkpointing, inference on a CPU, model summary."""
