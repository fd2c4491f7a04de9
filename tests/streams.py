"""Random streams for tests, drop-ins for `torch_utils.rng.RandomStream`: recorded, replayed and fixed draws."""

import torch

from torch_utils.rng import RandomStream


class Recorder(RandomStream):
    """A random stream that remembers its draws; every name may be drawn once.

    Args:
        seed: See `RandomStream`.
        dtype: Type of draws other than integers. They are drawn in float32 and converted, so that values stay the same.

    Attributes:
        draws: Name → tensor, in the order of the draws.
        calls: (kind, name, shape) of every draw.
    """

    def __init__(self, seed, dtype=torch.float32):
        super().__init__(seed)
        self.dtype = dtype
        self.draws = {}
        self.calls = []

    def _keep(self, kind, name, value):
        assert name not in self.draws, f"{name} was drawn twice"
        self.calls.append((kind, name, tuple(value.shape)))
        self.draws[name] = value.to(self.dtype) if value.is_floating_point() else value
        return self.draws[name]

    def uniform(self, name, shape):
        return self._keep("uniform", name, super().uniform(name, shape))

    def normal(self, name, shape):
        return self._keep("normal", name, super().normal(name, shape))

    def integers(self, name, low, high, shape):
        return self._keep("integers", name, super().integers(name, low, high, shape))

    def beta(self, name, a, b, shape):
        # From a separate stream: a beta draw is made from a uniform one, which must not be recorded.
        return self._keep("beta", name, RandomStream(len(self.draws)).beta(name, a, b, shape))


class Tape:
    """Replays recorded draws by name; where more rays were recorded than are requested, the first ones.

    Args:
        draws: Name → array. Beta and integer draws are returned as recorded.
        device: Where the tensors are created.

    Attributes:
        used: Names that were drawn.
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


class FixedStream:
    """Draws with chosen values: by the last part of their names, or else by kind.

    Args:
        uniform, normal, coin: Value of all other draws of a kind (coins are uniform draws whose names end in '_coin');
            None: only draws in `values` are allowed.
        values: Last part of a name → number, or an array that is broadcast.
    """

    device = torch.device("cpu")

    def __init__(self, *, uniform=None, normal=None, coin=None, **values):
        self.kinds = {"uniform": uniform, "normal": normal, "coin": uniform if coin is None else coin}
        self.values = values

    def _value(self, kind, name, shape):
        last = name.split("/")[-1]
        value = self.values.get(last, self.kinds.get(kind))
        assert value is not None, f"{name} was drawn, and has no value"
        return torch.as_tensor(value).expand(tuple(shape))

    def uniform(self, name, shape):
        return self._value("coin" if name.endswith("_coin") else "uniform", name, shape)

    def normal(self, name, shape):
        return self._value("normal", name, shape)

    def integers(self, name, low, high, shape):
        value = self._value("integers", name, shape)
        assert ((value >= low) & (value < high)).all(), f"{name}: {value} outside [{low}, {high})"
        return value


def constant_stream():
    """Every uniform draw 0.5, every normal draw 0."""
    return FixedStream(uniform=0.5, normal=0.0)
