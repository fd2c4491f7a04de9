"""Fused MLPs, native, against plain PyTorch in double precision."""

import copy
import dataclasses
import pickle

import pytest
import torch

from tests.cpu_inference import CPU, needs_bfloat16, needs_native
from torch_utils import custom_ops
from torch_utils.ops.fused_mlp import FusedMLP, MLPLayer, blurred_corners_ref, blurred_shuffle_ref, has_fused_mlp
from training.networks.upsampler import blur, blur_nearest, corner_means, interleave


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def branching(rows: int) -> list[MLPLayer]:
    """A trunk with two heads; every kind of bias, activation, and size (whole vectors, remainders, one)."""
    return [
        MLPLayer(rand(40, 7, seed=1), rand(40, seed=2), slope=0.2),
        MLPLayer(rand(32, 40, seed=3) / 6, rand(rows // 5, 32, seed=4) if rows % 5 == 0 else None, source=0),
        MLPLayer(rand(1, 32, seed=5) / 6, rand(1, seed=6), source=1),
        MLPLayer(rand(70, 32, seed=7) / 6, None, slope=0.01, clamp=0.75, source=1),
        MLPLayer(rand(3, 70, seed=8) / 8, rand(3, seed=9), clamp=0.5, source=3),
        MLPLayer(rand(17, 7, seed=10), None),
    ]


def doubled(layers, precision="float32"):
    double = [
        dataclasses.replace(x, weight=x.weight.double(), bias=None if x.bias is None else x.bias.double())
        for x in layers
    ]
    return FusedMLP(double, precision=precision, impl="ref")


def assert_close(actual, expected, tolerance):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32 and a.shape == e.shape
        assert (a - e).abs().max() <= tolerance * max(e.abs().max(), 1)


@needs_native
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 11, 12, 13, 100, 5000])
def test_rows_against_double_precision(rows):
    layers, x = branching(rows), rand(rows, 7)
    if rows == 0:
        layers[1] = dataclasses.replace(layers[1], bias=None)
    keep = [4, 1, 2, 3, 5]
    results = FusedMLP(layers, impl="cpu")(x, keep=keep)
    assert [list(r.shape) for r in results] == [[rows, len(layers[i].weight)] for i in keep]
    if rows:
        assert_close(results, doubled(layers)(x.double(), keep=keep), 2e-6)


@needs_native
def test_biases_can_be_replaced_and_one_result_asked_for_twice():
    layers, x = branching(20), rand(20, 7)
    biases = {1: rand(20, 32, seed=11), 3: rand(2, 70, seed=12)}
    expected = doubled(layers)(x.double(), keep=[3, 1, 3], biases={i: b.double() for i, b in biases.items()})
    assert_close(FusedMLP(layers, impl="cpu")(x, keep=[3, 1, 3], biases=biases), expected, 2e-6)


@needs_native
def test_rows_do_not_depend_on_their_neighbours():
    mlp, x = FusedMLP([x for x in branching(1) if x.bias is None or x.bias.ndim == 1], impl="cpu"), rand(50, 7)
    whole = mlp(x, keep=[4])[0]
    for start, stop in ((0, 12), (12, 13), (13, 50)):
        assert torch.equal(mlp(x[start:stop], keep=[4])[0], whole[start:stop])


@needs_native
def test_strided_weights_and_not_a_number():
    weight = rand(9, 33).t()
    x = rand(6, 9)
    x[2, 3] = torch.nan
    y = FusedMLP([MLPLayer(weight, slope=0.2, clamp=1.0)], impl="cpu")(x, keep=[0])[0]
    assert y[2].isnan().all() and not y[[0, 1, 3, 4, 5]].isnan().any()
    expected = torch.nn.functional.leaky_relu(x @ weight.t(), 0.2).clamp(-1, 1)
    assert torch.allclose(y, expected, atol=1e-5, equal_nan=True)


@needs_bfloat16
@pytest.mark.parametrize("rows", [16, 17, 33, 100])
def test_bfloat16_rounds_factors_only(rows):
    layers, x = branching(rows), rand(rows, 7)
    keep = [1, 2, 3, 4, 5]
    results = FusedMLP(layers, precision="bfloat16", impl="cpu")(x, keep=keep)
    # Sums and biases are float32: only the rounding of intermediate values may differ.
    assert_close(results, doubled(layers, "bfloat16")(x.double(), keep=keep), 4e-3)
    assert_close(results[-1:], doubled(layers, "bfloat16")(x.double(), keep=[5]), 2e-6)
    exact = doubled(layers)(x.double(), keep=keep)
    assert max((a - e).abs().max() for a, e in zip(results, exact)) > 1e-3  # it was rounded


@needs_bfloat16
def test_bfloat16_of_inputs_that_have_much_in_common():
    """Only deviations from the input means are rounded, and the share of the means is exact."""
    common = 10 * rand(1, 64, seed=20)
    layers = [
        MLPLayer(rand(32, 64, seed=21) / 8, rand(32, seed=22), slope=0.2),
        MLPLayer(rand(3, 32, seed=23) / 6, rand(100, 3, seed=24), source=0),
    ]
    x = common + rand(100, 64, seed=25) / 100
    exact = doubled(layers)(x.double(), keep=[0, 1])
    for impl in ("cpu", "ref"):
        centred = FusedMLP(layers, precision="bfloat16", impl=impl)
        assert_close(centred(x, keep=[0, 1]), exact, 1e-4)
        moved = x + 5 * rand(1, 64, seed=26)
        expected = doubled(layers)(moved.double(), keep=[0, 1])
        assert (
            max((a - e).abs().max() for a, e in zip(centred(moved, keep=[0, 1]), expected)) > 1e-3
        )  # it still has x's
        following = FusedMLP(layers, precision="bfloat16", remeasures_means=True, impl=impl)
        assert_close(following(x, keep=[0, 1]), exact, 1e-4)
        assert_close(following(moved, keep=[0, 1]), expected, 1e-4)


@needs_native
def test_input_means_follow_biases_that_are_replaced():
    if not has_fused_mlp(CPU, "bfloat16"):
        pytest.skip("the processor does not multiply bfloat16")
    layers = [MLPLayer(rand(32, 64) / 8, slope=0.2), MLPLayer(rand(16, 32, seed=1) / 6, source=0)]
    x, bias = 5 + rand(40, 64, seed=2) / 100, {1: rand(2, 16, seed=3), 0: 3 + rand(32, seed=4)}
    expected = doubled(layers)(x.double(), keep=[1], biases={i: b.double() for i, b in bias.items()})
    native = FusedMLP(layers, precision="bfloat16", remeasures_means=True, impl="cpu")
    assert_close(native(x, keep=[1], biases=bias), expected, 1e-4)


@pytest.mark.parametrize("height,width", [(1, 1), (1, 3), (4, 4), (5, 3)])
def test_the_upsamplings_are_those_of_training(height, width):
    x, hidden = rand(height, width, 6).double(), rand(height, width, 8, seed=1).double()
    rows, residual = blurred_corners_ref(x, hidden, 0.2)
    own, neighbours = (h[None] for h in hidden.chunk(2, dim=-1))
    expected = blur(torch.nn.functional.leaky_relu(corner_means(own, neighbours), 0.2))[0]
    assert torch.allclose(rows.view_as(expected), expected, atol=1e-12)
    assert torch.allclose(residual.view(2 * height, 2 * width, 6), blur_nearest(x[None])[0], atol=1e-12)
    four = rand(height, width, 2, 2, 6, seed=2).double()
    expected = blur(interleave((four + x[:, :, None, None])[None]))[0]
    assert torch.allclose(blurred_shuffle_ref(x, four).view_as(expected), expected, atol=1e-12)


@needs_native
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
@pytest.mark.parametrize("height,width,channels", [(1, 1, 64), (2, 5, 24), (16, 12, 64), (3, 40, 10), (2, 5, 4)])
def test_upsampled_rows(height, width, channels, precision):
    x, hidden = rand(height, width, channels), rand(height, width, 32, seed=1)
    four, bias, keep = rand(height, width, 2, 2, channels, seed=2), rand(channels, seed=3), [1, 2]
    layers = [
        MLPLayer(rand(channels, 16, seed=4) / 4, rand(channels, seed=5), slope=0.2, clamp=2.0),
        MLPLayer(rand(channels, channels, seed=6) / 8, rand(channels, seed=7), slope=0.2, clamp=2.0, source=0),
        MLPLayer(rand(3, channels, seed=8) / 8, rand(3, seed=9), source=1),
    ]
    tolerance = 2e-6 if precision == "float32" else 8e-3
    native = FusedMLP(layers, precision=precision, impl="cpu")
    expected = doubled(layers).corners(x.double(), hidden.double(), slope=0.2, keep=keep)
    assert_close(native.corners(x, hidden, slope=0.2, keep=keep), expected, tolerance)

    layers = [dataclasses.replace(layer, source=i - 1) for i, layer in enumerate(layers[1:])]
    native, keep = FusedMLP(layers, precision=precision, impl="cpu"), [0, 1]
    arguments = {"slope": 0.2, "clamp": 1.5, "keep": keep}
    expected = doubled(layers).shuffled(x.double(), four.double(), bias.double(), **arguments)
    assert_close(native.shuffled(x, four, bias, **arguments), expected, tolerance)


def test_mistakes_are_named():
    layer = MLPLayer(rand(4, 3))
    with pytest.raises(ValueError, match="precision must be float32 or bfloat16, not 'half'"):
        FusedMLP([layer], precision="half")
    with pytest.raises(ValueError, match="impl must be auto, ref or cpu, not 'cuda'"):
        FusedMLP([layer], impl="cuda")
    with pytest.raises(ValueError, match="layer 1 with 3 inputs does not fit its source, layer 0"):
        FusedMLP([layer, MLPLayer(rand(2, 3), source=0)])
    with pytest.raises(ValueError, match="layer 1 with 30 inputs does not fit its source, layer -1"):
        FusedMLP([MLPLayer(rand(4, 32)), MLPLayer(rand(2, 30))])
    with pytest.raises(ValueError, match="layer 0 has the slope 2; it must be at most 1"):
        FusedMLP([MLPLayer(rand(4, 3), slope=2)])
    with pytest.raises(ValueError, match="does not fit its source"):
        FusedMLP([MLPLayer(rand(2, 3), source=0)])


def test_without_a_library_mlps_run_in_plain_pytorch(monkeypatch):
    monkeypatch.setattr(custom_ops, "load", lambda name, device_type: None)
    layers, x = branching(10), rand(10, 7)
    assert not has_fused_mlp(CPU)
    assert torch.equal(FusedMLP(layers)(x, keep=[4])[0], FusedMLP(layers, impl="ref")(x, keep=[4])[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_copies_pack_weights_of_their_own(precision):
    """Packed weights depend on the processor, and libraries cannot be pickled."""
    x = rand(60, 7)
    mlp = FusedMLP(branching(60), precision=precision)
    expected = mlp(x, keep=[2, 4])
    for twin in (copy.deepcopy(mlp), pickle.loads(pickle.dumps(mlp))):
        assert twin.native == mlp.native and twin.precision == precision
        assert all(torch.equal(*pair) for pair in zip(twin(x, keep=[2, 4]), expected, strict=True))
    assert "_packed" not in mlp.__getstate__()


def test_means_that_another_thread_measures_meanwhile_do_not_count(monkeypatch):
    """Biases with the share of one frame's means and means of another would be a wrong frame, not a rounding error."""

    class Exact:
        """The native operator without rounding."""

        has_bfloat16 = staticmethod(lambda: True)
        pack_weight = staticmethod(lambda weight, half: weight)

        @staticmethod
        def dense_rows(x, tensors, integers, numbers, keep):
            count, results = len(integers) // 2, []
            weights, biases, means = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
            for i, source in enumerate(integers[count:]):
                inputs, mean, bias = x if source < 0 else results[source], means[source], biases[i]
                y = (inputs - mean if mean.numel() else inputs) @ weights[i].t() + (bias if bias.numel() else 0)
                results.append(torch.nn.functional.leaky_relu(y, numbers[i]))
            return [results[i] for i in keep]

    monkeypatch.setattr(custom_ops, "load", lambda *_: Exact)
    monkeypatch.setattr(custom_ops, "require", lambda *_: Exact)
    layers = [MLPLayer(rand(32, 64) / 8, rand(32, seed=1), slope=0.2), MLPLayer(rand(16, 32, seed=2) / 6, source=0)]
    mlp, bias = FusedMLP(layers, precision="bfloat16", remeasures_means=True), rand(32, seed=3)
    one, other = 5 + rand(40, 64, seed=4), rand(40, 64, seed=5) - 5
    expected = doubled(layers)(one.double(), keep=[1], biases={0: bias.double()})

    class Biases(dict):
        """Read while the arguments of the operator are collected."""

        def __getitem__(self, layer):
            mlp(other, keep=[1])  # as another thread
            return super().__getitem__(layer)

    assert_close(mlp(one, keep=[1], biases=Biases({0: bias})), expected, 1e-5)
