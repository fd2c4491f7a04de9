"""Faults that a training survives: long checks (see docs/reliability.md), and short ones for the test suite."""
