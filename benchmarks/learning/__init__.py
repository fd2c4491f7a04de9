"""Ablation study on synthetic heads, evaluated against their ground truth.

`python -m benchmarks.learning WORK` (or `make learn`) makes the data, trains the small model and its ablations,
evaluates their snapshots and writes WORK/report/learning.md (docs/learning.md is such a report, with notes). Called
again, it continues where it stopped.
"""
