"""Operators of the networks, in plain PyTorch and native code; twice differentiable where training needs it."""
