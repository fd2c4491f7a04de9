"""Benchmarks: one file per subject, each a command that prints a table and writes its results as JSON."""
