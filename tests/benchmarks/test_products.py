"""Products are recorded with their shapes, whatever route computes them, and timed by library routes that agree."""

import types
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from benchmarks import library_routes
from benchmarks.library_routes import Limit, TimedProduct, time_products
from benchmarks.products import Convolution, MatrixProduct, multiply_adds, record_products
from torch_utils.ops.point_linear_ref import point_linear_ref


def test_a_layer_and_its_gradients():
    x, w = torch.ones(100, 20, requires_grad=True), torch.ones(30, 20, requires_grad=True)
    with record_products() as found:
        F.linear(x, w, torch.zeros(30)).sum().backward()
    assert found == {
        MatrixProduct(1, 100, 20, 30): 1,
        MatrixProduct(1, 100, 30, 20): 1,  # of x
        MatrixProduct(1, 30, 100, 20): 1,  # of w
    }
    assert multiply_adds(found) == 3 * 100 * 20 * 30


@pytest.mark.parametrize("threads", [1, 2])
def test_point_layers_count_the_same_by_either_route(threads):
    """With several threads the product is a 1×1 convolution."""
    x, w = torch.ones(1, 100, 16, requires_grad=True), torch.ones(24, 16, requires_grad=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with record_products() as found:
            point_linear_ref(x, w, torch.zeros(24), act="lrelu").sum().backward()
    finally:
        torch.set_num_threads(before)
    assert set(found) == {MatrixProduct(1, *s) for s in [(100, 16, 24), (100, 24, 16), (24, 100, 16)]}
    assert set(found.values()) == {1}


@pytest.mark.skipif(torch.__version__ < (2, 5), reason="PyTorch 2.4 does not show products in inference mode")
def test_batched_products_and_inference_mode():
    a, b = torch.ones(4, 5, 6), torch.ones(4, 6, 7)
    with torch.inference_mode(), record_products() as found:
        a @ b
        torch.baddbmm(torch.zeros(1), a, b)
        F.linear(a, torch.ones(3, 6))
    assert found == {MatrixProduct(4, 5, 6, 7): 2, MatrixProduct(1, 20, 6, 3): 1}


def test_convolutions_forward_backward_and_transposed():
    x, w = torch.ones(2, 3, 8, 8, requires_grad=True), torch.ones(5, 3, 3, 3, requires_grad=True)
    geometry = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    with record_products() as found:
        y = F.conv2d(x, w, stride=2, padding=1)
        y.sum().backward()
    shapes = {"image": (2, 3, 8, 8), "weight": (5, 3, 3, 3), "output": (2, 5, 4, 4)}
    assert found == {Convolution(wanted=w, **shapes, **geometry): 1 for w in ("output", "input", "weight")}
    assert multiply_adds(found) == 3 * (2 * 5 * 4 * 4) * (3 * 3 * 3)
    with record_products() as turned:
        F.conv_transpose2d(y.detach(), w, stride=2, padding=1, output_padding=1).sum().backward()
    assert turned == {  # its own derivative is the plain convolution
        Convolution(wanted=w, **shapes, **geometry): 1 for w in ("input", "weight")
    }


def test_depthwise_filters_are_no_products():
    with record_products() as found:
        F.conv2d(torch.ones(1, 4, 8, 8), torch.ones(4, 1, 3, 3), groups=4)
    assert not found


def test_second_derivatives_of_a_convolution_stay_weight_gradients():
    """A penalty on a gradient: autograd would convolve with a kernel as large as the image."""
    x, w = torch.ones(2, 3, 8, 8, requires_grad=True), torch.ones(5, 3, 3, 3, requires_grad=True)
    (dx,) = torch.autograd.grad(F.conv2d(x, w, padding=1).sum(), x, create_graph=True)
    with record_products() as found:
        torch.autograd.grad(dx.square().sum(), w)
    by_kind = {p.wanted: p for p in found}
    assert by_kind["weight"].image == (2, 3, 8, 8) and by_kind["weight"].weight == (5, 3, 3, 3)
    assert all(p.multiply_adds == 2 * 5 * 8 * 8 * 27 and p.weight == (5, 3, 3, 3) for p in found)


PRODUCTS = [
    MatrixProduct(1, 64, 8, 16),
    MatrixProduct(1, 8, 64, 16),
    MatrixProduct(3, 4, 5, 6),
    *(
        Convolution(w, (2, 3, 8, 8), (5, 3, 3, 3), (2, 5, 4, 4), (2, 2), (1, 1), (1, 1), 1)
        for w in ("output", "input", "weight")
    ),
    Convolution("output", (1, 4, 4, 6, 6), (6, 2, 3, 3, 3), (1, 6, 4, 6, 6), (1,) * 3, (1,) * 3, (1,) * 3, 2),
]


@pytest.mark.parametrize("product", PRODUCTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_library_route_makes_that_product(product, dtype):
    """Of ones, results are counts of terms; together they are all multiplications and additions."""
    routes = library_routes._matrix_routes if isinstance(product, MatrixProduct) else library_routes._convolution_routes
    found = dict(routes(product, dtype))
    assert len(found) >= 2
    for name, run in found.items():
        result = run()
        result = result.to_dense() if result.layout != torch.strided else result
        if isinstance(product, MatrixProduct) or product.padding[0] == 0:
            assert result.numel() * product.inner == product.multiply_adds, name
            assert result.eq(product.inner).all(), name
        else:  # padding multiplies zeros
            assert 0 < float(result.float().sum()) < product.multiply_adds, name


def test_the_limit_adds_up_the_fastest_routes(monkeypatch):
    a, b = MatrixProduct(1, 10, 10, 10), MatrixProduct(1, 20, 10, 10)
    monkeypatch.setattr(library_routes, "time_product", lambda product, *_: (product.rows / 1e3, "linear"))
    limit = time_products(Counter({a: 3, b: 2}))
    assert limit.products == [TimedProduct(b, 2, 0.02, "linear"), TimedProduct(a, 3, 0.01, "linear")]
    assert limit.seconds == pytest.approx(0.07)
    assert limit.multiply_adds == 7000 and limit.rate == pytest.approx(200_000)
    assert limit.report(dearest=1)["dearest"][0]["product"] == str(b)
    assert Limit([]).seconds == 0


def test_the_rest_is_as_fast_as_what_was_timed(monkeypatch):
    large, small = MatrixProduct(1, 90, 10, 10), MatrixProduct(1, 10, 10, 10)
    timed = []
    monkeypatch.setattr(library_routes, "time_product", lambda product, *_: (timed.append(product) or 0.9, "linear"))
    limit = time_products(Counter({small: 1, large: 1}), covered=0.9)
    assert timed == [large] and limit.seconds == pytest.approx(1.0)
    assert limit.products[1].route == "as the others"


@pytest.fixture
def work(monkeypatch):
    """Takes so many seconds of the clock of `library_routes`, and of no other: `work(0.004)`."""
    seconds = [0.0]
    monkeypatch.setattr(library_routes, "time", types.SimpleNamespace(perf_counter=lambda: seconds[0]))

    def pass_by(duration: float) -> None:
        seconds[0] += duration

    return pass_by


def test_large_products_of_a_batch_may_be_made_one_by_one(monkeypatch, work):
    monkeypatch.setattr(
        library_routes,
        "_matrix_routes",
        lambda product, _: iter([("only", lambda: work(0.02 if product.batch > 1 else 0.003))]),
    )
    seconds, name = library_routes.time_product(MatrixProduct(2, 1024, 128, 128), torch.float32)
    assert name == "only, one by one" and seconds == pytest.approx(0.006)
    seconds, name = library_routes.time_product(MatrixProduct(2, 8, 8, 8), torch.float32)
    assert name == "only"


def test_the_fastest_of_routes_is_taken(monkeypatch, work):
    def failing():
        raise RuntimeError("not in this library")

    routes = [("slow", lambda: work(0.004)), ("none", failing), ("fast", lambda: work(0.001))]
    monkeypatch.setattr(library_routes, "_matrix_routes", lambda *_: iter(routes))
    seconds, name = library_routes.time_product(MatrixProduct(1, 1, 1, 1), torch.float32)
    assert name == "fast" and seconds == pytest.approx(0.001)
