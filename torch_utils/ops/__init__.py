"""Operators of the networks in plain PyTorch; each is differentiable twice, as R1 and path regularisation need it."""
