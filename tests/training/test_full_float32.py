"""With `allow_tf32=true` no coordinates pass through matrix products, which a GPU would round to 11 bits."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from benchmarks.scaling import Shapes
from renderer.cameras import CameraPrior, camera_rays, pixel_centers
from renderer.depth import normals_from_depth, parallax, project, relief
from tests.training.test_no_waiting import CORRUPTIONS, META, make_loop
from torch_utils.rng import RandomStream

# Functions of products, and which of their arguments has the inner dimension as its last one.
PRODUCTS = {
    "matmul": 0,
    "__matmul__": 0,
    "mm": 0,
    "bmm": 0,
    "mv": 0,
    "linear": 0,
    "addmm": 1,
    "baddbmm": 1,
    "einsum": 1,
}


class Products(TorchFunctionMode):
    """Inner dimensions of the products in float32 for which TensorFloat-32 is allowed."""

    def __init__(self):
        super().__init__()
        self.inner = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in PRODUCTS and torch.backends.cuda.matmul.allow_tf32:
            factor = args[PRODUCTS[name]]
            if factor.dtype == torch.float32:
                self.inner.append(factor.shape[-1])
        return function(*args, **(kwargs or {}))


@pytest.fixture
def tf32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def test_products_are_noticed(tf32):
    a = torch.ones(2, 4, 3)
    with Products() as products:
        a @ torch.ones(2, 3, 5)
        a[0] @ torch.ones(3)
        torch.nn.functional.linear(a, torch.ones(2, 3))
        torch.einsum("nij,jk->nik", a, torch.ones(3, 2))
        a.double() @ torch.ones(3, 3).double()
    assert products.inner == [3, 3, 3, 3]


WIDER = [
    "spec.fmaps=0.0625", "model.generator.background_dim=8", "model.generator.rendering.num_samples=8",
    "model.generator.rendering.num_background=8",
]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["model.generator.foreground.view_directions=true", "model.generator.rendering.num_importance=8"],
        ["model.generator.foreground.encoding=octaves", "model.generator.foreground.density_prior=null"],
        CORRUPTIONS,
    ],
    ids=["isotropic", "octaves", "augmentation"],
)
def test_generated_and_augmented_videos(tmp_path, monkeypatch, tf32, words):
    """Products of layers have more terms than the four of homogeneous coordinates."""
    loss = make_loop(tmp_path, monkeypatch, *WIDER, *words).loss
    stream = Shapes()
    with torch.no_grad(), Products() as products:
        videos, _, _ = loss.fake_videos(loss.fake_styles(torch.zeros(4, 0, device=META), stream), stream)
        loss._augmented(videos.image, stream, "fake/")
    assert len(products.inner) > 5 and min(products.inner) > 4


def test_rays_projections_and_normals(tf32):
    prior = CameraPrior(yaw=(-0.5, 0.5), pitch=(1.2, 1.8))
    cameras, others = prior.sample(3, RandomStream(0)), prior.sample(3, RandomStream(1))
    depth = 1 + 0.1 * torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    with Products() as products:
        origins, directions = camera_rays(cameras, pixel_centers(8))
        points = origins + depth.flatten(1)[..., None] * directions
        place, found = project(cameras, points.unflatten(1, (8, 8)))
        normals_from_depth(cameras, depth)
        relief(depth, torch.ones_like(depth))
        parallax(cameras, others, depth, torch.ones_like(depth))
    assert products.inner == []
    torch.testing.assert_close(found, depth)
    torch.testing.assert_close(place, pixel_centers(8).expand(3, -1, -1).unflatten(1, (8, 8)), rtol=0, atol=1e-6)
