"""Test and benchmark of a GPU in a few minutes: operators, networks, training phases, rendering, a short training.

See `python -m benchmarks.gpu --help` and docs/gpu.md.
"""
