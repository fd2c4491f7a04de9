"""Ablation study on synthetic heads, evaluated against their ground truth.

`python -m benchmarks.learning WORK` (or `make learn`) makes the data, trains the small model and its ablations,
evaluates their snapshots and writes docs/learning.md. Called again, it continues where it stopped.
"""
