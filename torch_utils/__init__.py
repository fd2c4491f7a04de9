"""Shared PyTorch utilities: operators, random streams, distributed helpers, statistics."""
