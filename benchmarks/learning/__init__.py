"""Does the model learn? A training on the synthetic heads, measured against what is known about them.

`python -m benchmarks.learning WORK` (or `make learn`) makes the data, trains the small model and its ablations,
measures their snapshots and writes docs/learning.md. Whatever is done already is kept when it is called again.
"""
