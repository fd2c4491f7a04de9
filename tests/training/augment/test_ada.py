"""Adaptive augmentation: measured values at fixed parameters, closed forms, probabilities, what frames share."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.streams import FixedStream
from torch_utils.rng import RandomStream
from torch_utils.training_stats import Statistics
from training.augment import ada, ada_transforms
from training.augment.ada import OPERATIONS, PIPELINES, AdaAugment, AdaController, AdaFeedback
from training.augment.ada_transforms import filter_bank

GOLDENS = np.load(Path(__file__).parents[2] / "data" / "augmentation.npz")
VALUES = [key for key in GOLDENS.files if "/q" in key]
GRADIENTS = [key for key in GOLDENS.files if "/grad" in key]


def quantile_stream(q):
    """Every draw at its q-quantile. The quantiles of normals lack a factor sqrt(2), and the second rotation is held at
    zero, because the measured values were taken so."""
    normal = float(torch.erfinv(torch.tensor(2 * q - 1)))
    return FixedStream(uniform=q, normal=normal, rotate_after=0.5)


def augmentation(pipeline, p=1.0, **arguments):
    augment = AdaAugment(pipeline=pipeline, **arguments)
    augment.p.fill_(p)
    return augment


def videos(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def measured_input(height):
    return torch.from_numpy(GOLDENS["x"])[:, None, :, :height]


def measured_pipeline(name):
    return {name: 1} if name in OPERATIONS else name


@pytest.mark.parametrize("key", VALUES)
def test_measured_values(key):
    name, quantile = key.split("/")[:2]
    height = 40 if name == "rotate90" or name in PIPELINES and name != "cutout" else 48
    augment = augmentation(measured_pipeline(name))
    y = augment(measured_input(height), quantile_stream(float(quantile[1:])))[:, 0]
    expected = torch.from_numpy(GOLDENS[key])
    if key.endswith("/projections"):
        # Products with 16 random vectors. Their deviation for an error of 1e-5 at each pixel is 1e-3.
        directions = torch.from_numpy(np.random.RandomState(7).randn(16, y.numel()))
        torch.testing.assert_close(directions @ y.double().flatten(), expected.double(), rtol=0, atol=4e-3)
    else:
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("key", GRADIENTS)
def test_measured_gradients(key):
    x = measured_input(40).clone().requires_grad_()
    y = augmentation(key.split("/")[0])(x, quantile_stream(0.65))
    cotangent = torch.from_numpy(np.random.RandomState(501).randn(2, *y.shape[2:])[:1, None]).float()
    (gradient,) = torch.autograd.grad((y * cotangent).sum(), x)
    torch.testing.assert_close(gradient[:, 0], torch.from_numpy(GOLDENS[key]), rtol=0, atol=1e-4)


def test_filter_bank():
    bank = filter_bank()
    torch.testing.assert_close(bank, torch.from_numpy(GOLDENS["imgfilter/fbank"]), rtol=0, atol=1e-7)
    identity = torch.zeros(43)
    identity[21] = 1
    torch.testing.assert_close(bank.sum(0), identity, rtol=0, atol=1e-6)


def smooth_videos():
    """[1, 2, 3, 24, 24] with waves of at least twelve pixels, the same on neither flip nor turn."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    phases = torch.arange(6.0)[:, None, None]
    return (torch.sin(0.25 * x + phases) + torch.cos(0.4 * y + 0.3 * x + 2 * phases)).reshape(1, 2, 3, 24, 24)


def test_flips_quarter_turns_and_whole_shifts():
    # The filter is not symmetric, so that mirrored frames come out slightly blurred and displaced.
    frames = smooth_videos()
    for operation, values, expected in (
        ("xflip", {"xflip": 0.7}, frames.flip(4)),
        ("rotate90", {"rotate90": 0.3}, frames.rot90(1, (3, 4))),
        ("rotate90", {"rotate90": 0.6}, frames.flip(3).flip(4)),
    ):
        y = augmentation({operation: 1})(frames, FixedStream(coin=0.0, **values))
        torch.testing.assert_close(y, expected, rtol=0, atol=0.15)
        assert (frames - expected).abs().max() > 1
    frames = videos(1, 2, 3, 24, 24)
    # 3 to the right, -1.8 (rounded) down
    shifted = augmentation({"xint": 1})(frames, FixedStream(coin=0.0, xint=[1.0, 0.2]))
    torch.testing.assert_close(shifted[..., :21, 3:], frames[..., 2:23, :21], rtol=0, atol=1e-4)


@pytest.mark.parametrize("height, width", [(24, 32), (9, 9), (1, 5)])
def test_padding_as_on_a_gpu_changes_no_pixel(monkeypatch, height, width):
    """There, images are padded by all of their mirror image; on a CPU as far as the transforms of a batch reach."""
    images = videos(6, 3, height, width, dtype=torch.float64)
    random = torch.Generator().manual_seed(1)
    angle, scale, x, y = torch.rand(4, 6, generator=random, dtype=torch.float64) * 2 - 1
    scaling = ada_transforms.scale2d(0.6 * scale.exp2(), 0.8 * scale.exp2())
    transform = ada_transforms.rotate2d(angle * math.pi) @ scaling
    transform = transform @ ada_transforms.translate2d(x * width / 4, y * height / 4)
    wavelet = ada_transforms.wavelet_filter()
    near = ada_transforms.warp_affine(images, transform, wavelet)
    whole = (width - 1, width - 1, height - 1, height - 1)
    assert ada_transforms._margins(transform.to("meta"), height, width, 3) == whole
    monkeypatch.setattr(ada_transforms, "_margins", lambda *_: whole)
    torch.testing.assert_close(ada_transforms.warp_affine(images, transform, wavelet), near, rtol=0, atol=1e-11)


def test_constants_on_a_gpu_are_copied_once():
    like = torch.ones(2, device="meta")
    rows = ((1.0, 2.0), (3.0, 4.0))
    assert ada_transforms.constant(rows, like) is ada_transforms.constant(rows, like)
    assert ada_transforms.constant(rows, like.double()).dtype == torch.float64
    assert ada_transforms.constant(rows, torch.ones(2)).tolist() == [[1, 2], [3, 4]]


def test_geometry_is_computed_without_tensorfloat32(monkeypatch):
    """Products of coordinates would be rounded to 11 bits with allow_tf32=true."""
    seen, warp = [], ada_transforms.warp_affine
    products = torch.backends.cuda.matmul
    monkeypatch.setattr(ada_transforms, "warp_affine", lambda *a: seen.append(products.allow_tf32) or warp(*a))
    before, products.allow_tf32 = products.allow_tf32, True
    try:
        augmentation("bgc")(videos(1, 2, 3, 8, 8), RandomStream(0))
        assert seen == [False] and products.allow_tf32
    finally:
        products.allow_tf32 = before


def test_results_do_not_depend_on_autocast_and_the_default_type():
    frames = torch.rand(4, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def augmented():
        augment = AdaAugment(pipeline="bgcfnc")
        augment.p.fill_(0.9)
        return augment(frames, RandomStream(0))

    expected = augmented()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmented(), expected)
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            found = augmented()
        finally:
            torch.set_default_dtype(torch.float32)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_corruptions_in_closed_form():
    frames = videos(2, 2, 3, 8, 6)
    image = videos(2, 1, 3, 8, 6, seed=1)
    noisy = augmentation({"noise": 1})(frames, FixedStream(coin=0.0, noise=-2.0, noise_image=image))
    torch.testing.assert_close(noisy, frames + 0.2 * image)
    cut = augmentation({"cutout": 1})(frames, FixedStream(coin=0.0, cutout=[0.0, 0.5]))  # (x, y)
    expected = frames.clone()
    expected[..., 2:6, :1] = 0  # pixel centres closer than a quarter of the image: only the first of six columns
    assert torch.equal(cut, expected)


def test_colours_in_closed_form():
    frames = videos(1, 2, 3, 4, 4)
    gray = frames.mean(2, keepdim=True)
    for operation, values, expected in (
        ("brightness", {"brightness": 1.5}, frames + 0.3),
        ("contrast", {"contrast": -2.0}, frames / 2),
        ("lumaflip", {"lumaflip": 0.8}, frames - 2 * gray),
        ("hue", {"hue": 0.5 + 1 / 3}, frames.roll(1, 2)),  # a third of a turn: red becomes green
        ("saturation", {"saturation": 1.0}, gray + 2 * (frames - gray)),
    ):
        y = augmentation({operation: 1})(frames, FixedStream(coin=0.0, **values))
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_zero_probability_is_identity():
    frames = videos(2, 2, 3, 32, 32)
    augment = AdaAugment(pipeline="bgcfnc")
    assert float(augment.p) == 0
    assert torch.equal(augment(frames, RandomStream(0)), frames)
    # Also where the pipeline runs, but no coin falls for it.
    y = augmentation("bgcfnc", p=1e-6)(frames, RandomStream(0))
    torch.testing.assert_close(y, frames, rtol=0, atol=1e-4)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_frames_share_and_videos_differ(pipeline):
    picture = videos(1, 1, 3, 24, 32)
    y = augmentation(pipeline)(picture.expand(12, 3, 3, 24, 32), RandomStream(5))
    assert torch.equal(y[:, 0], y[:, 1]) and torch.equal(y[:, 0], y[:, 2])
    assert len({tuple(video.flatten().tolist()) for video in y[:, 0]}) > 6


def changed_fraction(multipliers, p, videos_count=4000):
    frames = videos(1, 1, 3, 8, 8, seed=2).expand(videos_count, 1, 3, 8, 8)
    y = augmentation(multipliers, p=p)(frames, RandomStream(11))
    return float(((y - frames).abs().amax([1, 2, 3, 4]) > 1e-3).float().mean())


@pytest.mark.parametrize(
    "multipliers, p, expected",
    [
        ({"contrast": 1}, 0.3, 0.3),
        ({"contrast": 0.5}, 0.3, 0.15),
        ({"lumaflip": 1}, 0.6, 0.3),  # half of the flips do not flip
        ({"xflip": 1}, 0.6, 0.3),
        ({"rotate90": 1}, 0.8, 0.6),
        ({"rotate": 1}, 0.36, 0.36),  # the two rotations together
        ({"rotate": 1}, 1.7, 1.0),
        ({"cutout": 0.5}, 1, 0.5),
        ({"noise": 1}, 0.2, 0.2),
    ],
)
def test_probabilities(multipliers, p, expected):
    deviation = math.sqrt(expected * (1 - expected) / 4000)
    assert abs(changed_fraction(multipliers, p) - expected) <= 4 * deviation + 0.004  # some changes are tiny


def test_band_filter_probability_and_power():
    # With one band of four, the probability is the product with its multiplier.
    frames = videos(1, 1, 3, 24, 24).expand(600, 1, 3, 24, 24)
    augment = augmentation({"imgfilter": 1}, p=0.5, imgfilter_bands=[0, 0, 0.5, 0])
    changed = (augment(frames, RandomStream(1)) - frames).abs().amax([1, 2, 3, 4]) > 1e-3
    assert abs(float(changed.float().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 600)
    # Amplifying the lowest band of a constant image by 2^t, the power that is expected of natural images stays.
    augment = augmentation({"imgfilter": 1}, imgfilter_bands=[1, 0, 0, 0])
    y = augment(frames[:1] * 0 + 1, FixedStream(coin=0.0, normal=1.0))  # the gains of all bands alike
    torch.testing.assert_close(y, torch.full_like(y, (2 / math.sqrt((10 * 4 + 3) / 13)) ** 2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("pipeline", [*({name: 1} for name in OPERATIONS), "bgcfnc"], ids=[*OPERATIONS, "bgcfnc"])
def test_twice_differentiable(pipeline):
    frames = videos(2, 2, 3, 24, 22, dtype=torch.float64).requires_grad_()
    augment = augmentation(pipeline)

    def function(frames):
        return augment(frames, RandomStream(7))

    assert function(frames).dtype == torch.float64
    assert gradcheck(function, [frames], fast_mode=True)
    assert gradgradcheck(lambda frames: function(frames).pow(3), [frames], fast_mode=True)


def test_penalty_on_the_input_gradient_reaches_a_network_behind_it():
    frames = videos(2, 2, 3, 24, 24).requires_grad_()
    weight = torch.ones(1, 3, 3, 3, requires_grad=True)
    y = augmentation("bgc")(frames, RandomStream(1)).flatten(0, 1)
    logits = torch.nn.functional.conv2d(y, weight).square().sum([1, 2, 3])
    (gradient,) = torch.autograd.grad(logits.sum(), frames, create_graph=True)
    (penalty_gradient,) = torch.autograd.grad(gradient.square().sum(), weight)
    assert penalty_gradient.isfinite().all() and penalty_gradient.abs().min() > 0


def test_same_stream_same_result_and_prefix():
    frames = videos(2, 2, 3, 32, 32)
    augment = augmentation("bgcfnc", p=0.7)
    assert torch.equal(augment(frames, RandomStream(3)), augment(frames, RandomStream(3), prefix="real/"))
    assert not torch.equal(augment(frames, RandomStream(3)), augment(frames, RandomStream(4)))


def test_configuration_rebuilds_the_pipeline_and_state_holds_p_only():
    augment = augmentation({"xflip": 0.5, "noise": 1}, p=0.4, noise_std=0.3)
    again = AdaAugment(**augment.config)
    again.load_state_dict(augment.state_dict())
    assert again.config == augment.config
    assert list(augment.state_dict()) == ["p"] and float(again.p) == pytest.approx(0.4)
    frames = videos(3, 2, 3, 16, 16)
    assert torch.equal(again(frames, RandomStream(0)), augment(frames, RandomStream(0)))


def test_no_operation_and_no_argument_is_forgotten(monkeypatch):
    """A name in the table alone changes nothing, and what `config` leaves out would not be in snapshots."""
    monkeypatch.setattr(ada, "OPERATIONS", (*OPERATIONS, "grayscale"))
    with pytest.raises(AssertionError, match="an operation of OPERATIONS is not applied"):
        augmentation({"grayscale": 1})(videos(2, 2, 3, 16, 16), RandomStream(0))
    assert set(AdaAugment().config) == set(inspect.signature(AdaAugment).parameters)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_smallest_size_is_where_an_operation_begins_to_work(operation):
    """Also for sides that are unequal or no power of two."""
    augment = augmentation({operation: 1})
    smallest = augment.smallest_size
    assert smallest == (22 if operation == "imgfilter" else 1)
    for height, width in [(smallest, smallest), (smallest, smallest + 19), (smallest + 7, smallest)]:
        for seed in range(3):
            assert augment(videos(2, 2, 3, height, width), RandomStream(seed)).isfinite().all()
    if smallest > 1:
        for height, width in [(smallest - 1, smallest - 1), (smallest - 1, 40), (40, smallest - 1)]:
            with pytest.raises(ValueError, match="band filtering needs images of more than 21 pixels"):
                augment(videos(2, 2, 3, height, width), RandomStream(0))


def test_named_pipelines():
    blit, geom = {"xflip", "rotate90", "xint"}, {"scale", "rotate", "aniso", "xfrac"}
    color = {"brightness", "contrast", "lumaflip", "hue", "saturation"}
    expected = {
        "blit": blit,
        "geom": geom,
        "color": color,
        "filter": {"imgfilter"},
        "noise": {"noise"},
        "cutout": {"cutout"},
        "bg": blit | geom,
        "bgc": blit | geom | color,
        "bgcf": blit | geom | color | {"imgfilter"},
        "bgcfn": blit | geom | color | {"imgfilter", "noise"},
        "bgcfnc": blit | geom | color | {"imgfilter", "noise", "cutout"},
        "bgc0": {"xint", "scale", "aniso", "xfrac"} | color,
    }
    assert {name: set(AdaAugment(pipeline=name).multipliers) for name in expected} == expected
    assert set(PIPELINES) == set(expected)


def test_mistakes():
    with pytest.raises(ValueError, match="unknown augmentation pipeline 'bcg'"):
        AdaAugment(pipeline="bcg")
    with pytest.raises(ValueError, match="unknown augmentation 'blur'"):
        AdaAugment(pipeline={"blur": 1})
    with pytest.raises(ValueError, match="imgfilter_bands needs 4"):
        AdaAugment(imgfilter_bands=[1, 1])
    with pytest.raises(ValueError, match=r"\[B, T, 3, H, W\]"):
        augmentation("bgc")(videos(2, 7, 8, 8), RandomStream(0))
    for pipeline in ("color", "noise", "bgc"):  # pixels of 0 to 255 would wrap around
        with pytest.raises(ValueError, match="frames must be floats, not uint8"):
            augmentation(pipeline)(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), RandomStream(0))
    with pytest.raises(ValueError, match="stream must be a torch_utils.rng.RandomStream, got Generator"):
        augmentation("bgc")(videos(1, 2, 3, 8, 8), torch.Generator())
    with pytest.raises(ValueError, match="stream must be a torch_utils.rng.RandomStream, got 0"):
        AdaAugment(pipeline="bgc")(videos(1, 2, 3, 8, 8), 0)  # p is 0: nothing would be drawn
    with pytest.raises(ValueError, match="pipeline.'rotate'. must be a finite number, got '1'"):
        AdaAugment(pipeline={"rotate": "1"})
    spoilt = AdaAugment(pipeline="bgc")
    spoilt.p.fill_(float("nan"))
    with pytest.raises(ValueError, match="^AdaAugment: p must be a finite number, got nan.$"):
        spoilt(videos(1, 2, 3, 8, 8), RandomStream(0))
    with pytest.raises(ValueError, match="more than 21 pixels"):
        augmentation("filter")(videos(1, 2, 3, 16, 16), RandomStream(0))


def test_controller_moves_p_towards_the_target():
    controller = AdaController(target=0.6, kimg=500)
    assert controller.update(0.9, 128) == pytest.approx(128 / 500_000)
    assert controller.update(0.6, 128) == pytest.approx(128 / 500_000)  # at the target
    assert controller.update(float("nan"), 128) == pytest.approx(128 / 500_000)
    assert controller.update(0.1, 64) == pytest.approx(64 / 500_000)
    assert controller.update(-1, 640) == 0  # not below zero
    for _ in range(500):
        controller.update(1, 1000)
    assert controller.p == pytest.approx(1)  # 500 kimg for one unit
    again = AdaController()
    again.load_state_dict(controller.state_dict())
    assert again.p == controller.p


@pytest.mark.parametrize(
    "kind, wrong, message",
    [
        (AdaAugment, {"pipeline": None}, "pipeline must be a name, or multipliers by operation, got None"),
        (AdaAugment, {"pipeline": ["xflip"]}, "pipeline must be a name, or multipliers by operation, got ['xflip']"),
        (AdaAugment, {"scale_std": "0.2"}, "scale_std must be a finite number, got '0.2'."),
        (AdaAugment, {"imgfilter_bands": 4}, "imgfilter_bands needs 4 numbers, not 4"),
        (AdaAugment, {"imgfilter_bands": [1, 1, None, 1]}, "imgfilter_bands[2] must be a finite number, got None."),
        (AdaController, {"target": "0.6"}, "target must be a finite number, got '0.6'."),
        (AdaController, {"p": -0.1}, "AdaController: p must be at least 0 and kimg positive, not -0.1 and 500.0"),
        (AdaController, {"kimg": 0}, "AdaController: p must be at least 0 and kimg positive, not 0.0 and 0"),
    ],
)
def test_values_are_checked(kind, wrong, message):
    with pytest.raises(ValueError) as error:
        kind(**wrong)
    assert str(error.value) == message


def test_every_number_of_a_pipeline_is_checked():
    given = inspect.signature(AdaAugment).parameters
    assert set(ada.ADJUSTABLE) == set(given) - {"pipeline", "imgfilter_bands"}


def test_feedback_counts_the_signs_of_all_processes(monkeypatch):
    """Otherwise each of them would have its own p, and augment the fakes that they all train on differently."""
    augment, controller = AdaAugment(pipeline="blit"), AdaController(p=0.1, target=0.6)
    feedback = AdaFeedback(augment=augment, controller=controller, statistics=Statistics(), device="cpu")
    others = torch.tensor([-6.0, 6.0], dtype=torch.float64)  # sum and number of another process
    monkeypatch.setattr(ada.distributed, "all_reduce_sum", lambda signs: signs + others)
    feedback.report("Loss/signs/real", torch.ones(6))
    feedback.update(iteration=4, batch=32)
    assert float(augment.p) == pytest.approx(0.1 - 4 * 32 / 500_000, abs=1e-8)  # a mean of 0, below the target
