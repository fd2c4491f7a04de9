"""Shared PyTorch utilities: operators, random streams, process groups, training statistics, memory."""
