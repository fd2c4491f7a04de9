"""A stream of recorded random draws, looked up by name: drop-in for `torch_utils.rng.RandomStream`."""

import torch


class Tape:
    """Returns recorded arrays; where more rays were recorded than are asked for, the first ones.

    Args:
        draws: Name → array. Beta and integer draws are returned as recorded.
        device: Where the tensors are created.
    """

    def __init__(self, draws: dict, device="cpu"):
        self.draws = {name: torch.as_tensor(value) for name, value in draws.items()}
        self.device = torch.device(device)
        self.used = set()

    def _get(self, name, shape):
        value = self.draws[name]
        self.used.add(name)
        shape = tuple(shape)
        if value.numel() == torch.Size(shape).numel():
            value = value.reshape(shape)
        assert value.ndim == len(shape), f"{name}: recorded {tuple(value.shape)}, asked for {shape}"
        value = value[tuple(slice(n) for n in shape)]
        assert tuple(value.shape) == shape, f"{name}: recorded {tuple(self.draws[name].shape)}, asked for {shape}"
        return value.to(self.device)

    def uniform(self, name, shape):
        return self._get(name, shape)

    def normal(self, name, shape):
        return self._get(name, shape)

    def integers(self, name, low, high, shape):
        value = self._get(name, shape)
        assert ((value >= low) & (value < high)).all(), f"{name}: {value} outside [{low}, {high})"
        return value

    def beta(self, name, a, b, shape):
        return self._get(name, shape)


class ConstantStream:
    """Every uniform draw 0.5, every normal draw 0."""

    device = torch.device("cpu")

    def uniform(self, name, shape):
        return torch.full(tuple(shape), 0.5)

    def normal(self, name, shape):
        return torch.zeros(tuple(shape))
