"""From clips to rows: values against direct computation, caches, batches, and detectors from files."""

import dataclasses

import numpy as np
import pytest
import torch

from dnnlib import UserError
from metrics import evaluator, feature_extractors
from metrics.detectors import find_detector
from metrics.distances import (
    KernelDistance,
    frame_similarity,
    frechet_distance_of_features,
    inception_score,
    subset_distances,
)
from metrics.evaluator import Evaluator
from metrics.features import compute_features, holds_features, open_features
from metrics.generated_videos import GeneratedClips, GeneratedVideos
from metrics.metric_functions import STATISTICS
from metrics.random_features import RandomFeatures
from metrics.registry import METRICS
from metrics.video_measures import flicker, mean_flow_length
from renderer.cameras import CameraPrior
from tests.metrics.detector_files import (
    SmallI3D,
    SmallIdentity,
    SmallInception,
    save_i3d,
    save_inception,
    save_torchscript,
)
from tests.metrics.memory_videos import MemoryClips, MemoryVideos
from tests.metrics.synthetic import blurred, waves
from tests.small_network import small_generator

REAL = waves(20, size=16)
INCEPTION_WIDTH = 64
FAKE = blurred(waves(16, size=16, seed=1), 0.8)


@pytest.fixture(autouse=True)
def narrow_inception(monkeypatch):
    """With 2048 features a Fréchet distance takes seconds; their number is checked in test_detectors."""
    detector, arguments = feature_extractors.FILES["inception"]
    monkeypatch.setitem(feature_extractors.FILES, "inception", (detector, {**arguments, "width": INCEPTION_WIDTH}))


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detectors")
    paths = {
        "i3d": save_i3d(folder / "i3d.pt"),
        "inception": save_inception(folder / "inception.pt", width=INCEPTION_WIDTH),
        "identity": save_torchscript(SmallIdentity(), folder / "identity.pt"),
    }
    return {name: find_detector(name, path=path) for name, path in paths.items()}


def make_evaluator(**arguments):
    options = {"real": MemoryVideos(REAL), "fake": MemoryVideos(FAKE), "replicates": 0, **arguments}
    return Evaluator(**options)


def i3d_features(clips):
    return SmallI3D(400)(clips, rescale=True, resize=True, return_features=True).numpy()


def images(clips):
    return clips.transpose(1, 2).flatten(0, 1)


def test_fvd_and_kvd(detectors):
    both = make_evaluator(detectors=detectors, replicates=5)
    real, fake = i3d_features(REAL), i3d_features(FAKE)
    row = both.evaluate("fvd64_16f")
    assert row["value"] == pytest.approx(frechet_distance_of_features(real, fake), rel=1e-5)
    assert row["interval"][0] < row["value"] < row["interval"][1] and row["replicates"] == 5
    assert (row["num_real"], row["num_fake"]) == (20, 16)
    assert row["detector"]["sha256"] == detectors["i3d"].sha256 and row["detector"]["published_file"] is False
    assert row["protocol"]["frames"] == 16 and row["higher_is_better"] is False
    assert set(row["versions"]) == {"python", "torch", "numpy"} and row["seconds"] > 0 and "warning" not in row
    loads = both._fake.loads
    row = both.evaluate("kvd64_16f")
    assert row["value"] == pytest.approx(KernelDistance(real, fake).value(), rel=1e-4)
    assert row["interval"][0] < row["value"] < row["interval"][1]
    assert both._fake.loads == loads == 16  # the same clips: nothing is generated twice


def test_fid_kid_and_is(detectors):
    both = make_evaluator(detectors=detectors)
    network = SmallInception(INCEPTION_WIDTH)
    real, fake = (network(images(clips), return_features=True).numpy() for clips in (REAL, FAKE))
    assert both.evaluate("fid1k_full")["value"] == pytest.approx(frechet_distance_of_features(real, fake), rel=1e-5)
    row = both.evaluate("kid1k_full")
    assert row["value"] == pytest.approx(subset_distances(real, fake).mean(), rel=1e-4)
    assert (row["num_real"], row["num_fake"], row["subsets"]) == (320, 256, 100)
    probabilities = network(images(FAKE), no_output_bias=True).numpy()
    row = both.evaluate("is1k")
    splits = np.random.RandomState(1).permutation(256)  # of random frames
    assert row["value"] == pytest.approx(inception_score(probabilities, rows=splits), rel=1e-5)
    assert row["higher_is_better"] is True and row["num_real"] is None


def test_metrics_share_all_real_images_but_not_other_numbers_of_generated_ones(detectors, monkeypatch):
    monkeypatch.setitem(METRICS, "fid1k_full", dataclasses.replace(METRICS["fid1k_full"], count=100))
    real, network = MemoryVideos(REAL), SmallInception(INCEPTION_WIDTH)
    both = make_evaluator(real=real, detectors=detectors)
    real_features, fake_features = (network(images(clips), return_features=True).numpy() for clips in (REAL, FAKE))
    for name, count in (("fid50k_full", 256), ("fid1k_full", 100)):  # 256 frames are all there are
        row = both.evaluate(name)
        expected = frechet_distance_of_features(real_features, fake_features[:count])
        assert (row["num_real"], row["num_fake"]) == (320, count)
        assert row["value"] == pytest.approx(expected, rel=1e-5)
    assert real.loads == 320


def test_all_real_frames_are_no_sample(detectors):
    """A complete set is not resampled: the interval covers the generated frames alone."""
    few = FAKE[:2]
    row = make_evaluator(detectors=detectors, fake=MemoryVideos(few), replicates=3).evaluate("fid1k_full")
    assert row["interval"][0] < row["value"] < row["interval"][1]
    assert row["num_real"] == 320


def test_both_sides_are_videos_of_one_resolution():
    larger = MemoryVideos(REAL.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4))
    with pytest.raises(ValueError, match="^fake and real must have the same resolution, got 16 and 32 pixels"):
        make_evaluator(real=larger)
    with pytest.raises(ValueError, match=r"^real must be videos, such as .*StoredVideos\(path.*, got 'clips'\.$"):
        make_evaluator(real="clips")
    make_evaluator(fake=larger, real=None)


def test_rfvd_says_what_it_is():
    network = RandomFeatures()
    row = make_evaluator().evaluate("rfvd64_16f")
    expected = frechet_distance_of_features(network(REAL).numpy(), network(FAKE).numpy())
    assert row["value"] == pytest.approx(expected, rel=1e-9)
    assert "NOT FVD" in row["warning"] and row["interval"] is None
    assert make_evaluator(fake=MemoryVideos(REAL)).evaluate("rfvd64_16f")["value"] < 1e-8


def test_motion_and_identity(detectors):
    both = make_evaluator(detectors=detectors, replicates=2)
    row = both.evaluate("motion32_16f")
    assert row["value"] == pytest.approx(float(mean_flow_length(FAKE).mean()))
    assert row["real"] == pytest.approx(float(mean_flow_length(REAL).mean()))
    assert row["num_measured"] == 16 and row["higher_is_better"] is None
    assert both.evaluate("flicker32_16f")["value"] == pytest.approx(float(flicker(FAKE).mean()))
    row = both.evaluate("ridentity32_16f")
    frames = RandomFeatures()(images(FAKE)[:, :, None]).reshape(16, 16, -1).numpy()
    assert row["value"] == pytest.approx(frame_similarity(frames, centre=True).mean(), rel=1e-6)
    assert "not of a face recognition network" in row["warning"]
    row = both.evaluate("identity32_16f")
    colours = (FAKE.float() / 127.5 - 1).mean(dim=[3, 4]).transpose(1, 2).numpy()
    assert row["value"] == pytest.approx(frame_similarity(colours, centre=False).mean(), rel=1e-5)
    row = both.evaluate("identity32_5v")
    assert row["value"] == pytest.approx(frame_similarity(colours[:, :5], centre=False).mean(), rel=1e-5)
    assert row["num_real"] is None


def without_times(row):
    return {key: value for key, value in row.items() if key not in ("seconds", "timestamp")}


def test_metrics_given_together_load_the_same_samples_once(tmp_path, detectors):
    names = ["motion32_16f", "flicker32_16f", "ridentity32_16f", "ridentity32_5v", "fid1k_full", "is1k", "rfvd64_16f"]

    def run(folder, together):
        real = MemoryVideos(REAL, key="a")
        both = make_evaluator(real=real, detectors=detectors, replicates=2, cache=tmp_path / folder)
        rows = [without_times(both.evaluate(name, together=together)) for name in names]
        loads = [[len(samples) for samples in side.asked if samples.loads] for side in (both._fake, real)]
        return rows, loads, {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}

    rows, loads, files = run("together", names)
    assert loads == [[16, 16, 256, 16], [20, 320, 20]]  # clips, views, frames, clips of another choice
    expected, more, cached = run("one by one", [])
    assert rows == expected and files == cached and len(files) == 5
    assert more == [[16, 16, 16, 16, 256, 256, 16], [20, 20, 20, 320, 20]]
    assert run("together", names)[1][1] == []


def test_errors_are_those_of_the_metric_that_is_evaluated(tmp_path, detectors):
    """Also if its samples are those of the metrics before it."""
    names = ["motion32_16f", "identity32_16f", "flicker32_16f", "fvd64_16f"]
    wrong = {"identity": find_detector("identity", path=save_i3d(tmp_path / "wrong.pt"))}
    both = make_evaluator(detectors=wrong)  # and no I3D
    expected = [without_times(make_evaluator().evaluate(name)) for name in (names[0], names[2])]
    assert without_times(both.evaluate(names[0], together=names)) == expected[0]
    with pytest.raises(UserError, match=r"wrong.pt cannot be used as identity: its call failed \("):
        both.evaluate(names[1], together=names)
    loads = both._fake.loads, both._real.loads
    assert without_times(both.evaluate(names[2], together=names)) == expected[1]
    assert (both._fake.loads, both._real.loads) == loads  # were made with those of motion
    assert len(list(both._folder.iterdir())) == 4
    with pytest.raises(UserError, match="there is no metric 'motion'"):
        both.evaluate(names[0], together=["motion"])
    for wrong in (names[1], None):
        with pytest.raises(ValueError) as error:
            both.evaluate(names[0], together=wrong)
        assert str(error.value) == f"together must be a list of names of metrics, got {wrong!r}."


def test_a_network_that_squeezes_a_single_sample_passes_the_check(detectors):
    both = make_evaluator(detectors=detectors)
    network, shapes = both._network(METRICS["rfvd64_16f"]), []

    class Squeezing:
        key = network.key

        def __call__(self, samples):
            found = network(samples).squeeze()
            shapes.append(found.ndim)
            return found

    both._networks = dict.fromkeys(both._networks, Squeezing())
    both.check(["rfvd64_16f"])
    assert shapes == [2]


def test_samples_that_are_enough_for_another_metric():
    both = make_evaluator(real=MemoryVideos(REAL[:3]))
    together = ["rfvd64_16f", "rpr64k3_16f"]
    assert both.evaluate(together[0], together=together)["num_real"] == 3
    with pytest.raises(UserError) as error:
        both.evaluate(together[1], together=together)
    assert str(error.value) == "rpr64k3_16f needs at least 4 real clips, there are 3."


def test_means_of_what_could_be_measured():
    """Pairs of views without anything to compare are left out of the mean, and counted."""
    columns = np.array([[0.1, 0.4, 0.5], [np.nan, np.nan, 0.0], [0.3, 0.6, 0.7]], dtype=np.float32)
    found = STATISTICS["mean"](None, columns, METRICS["warping32_2v"], 2)
    assert found.value == pytest.approx(0.2) and found.interval == pytest.approx(
        (0.2 - 1.386 * 0.1, 0.2 + 1.386 * 0.1), abs=1e-4
    )
    assert found.further["num_measured"] == 2 and found.further["error_without_warping"] == pytest.approx(0.5)
    assert found.further["compared"] == pytest.approx(0.6)
    nothing = STATISTICS["mean"](None, columns[1:2], METRICS["warping32_2v"], 2)
    assert np.isnan(nothing.value) and nothing.interval is None and nothing.further == {"num_measured": 0}


def test_no_column_is_lost():
    for name, width in (("motion256_16f", 2), ("warping32_2v", 4)):
        with pytest.raises(AssertionError, match=f"^_COLUMNS must name the {width} columns of "):
            STATISTICS["mean"](None, np.ones([3, width]), METRICS[name], 2)


# ----------------------------------------------------------------------------------------------------------------------
# Settings that must not matter, and the cache


def test_any_batch_size(detectors):
    for name in ("rfvd64_16f", "fvd64_16f", "is1k"):
        values = [make_evaluator(detectors=detectors, batch_size=n).evaluate(name)["value"] for n in (1, 3, 64)]
        assert values[0] == values[1] == values[2]


def test_no_more_than_a_batch_is_in_memory():
    both = make_evaluator(batch_size=4)
    both.evaluate("rfvd64_16f")
    assert max(samples.largest for samples in both._fake.asked + both._real.asked) == 4


def test_cache(tmp_path, detectors):
    def run(key, *, name="rfvd64_16f", files=detectors):
        real = MemoryVideos(REAL, key=key)
        row = make_evaluator(real=real, cache=tmp_path / "cache", detectors=files).evaluate(name)
        return row["value"], real.loads

    value, loads = run("a")
    assert loads == 20
    assert run("a") == (value, 0)  # the same content
    assert run("b") == (value, 20)  # other content
    assert run(None) == (value, 20) and run(None)[1] == 20  # cannot be told from others
    assert run("a", name="motion32_16f")[1] == 20  # another network
    assert run("a", name="motion32_16f")[1] == 0
    assert run("a", name="rfvd256_16f")[1] == 20  # another protocol
    assert run("a", name="fvd64_16f")[1] == 20
    other = {**detectors, "i3d": find_detector("i3d", path=save_changed(tmp_path))}
    assert run("a", name="fvd64_16f", files=other)[1] == 20  # another detector file


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: b"",
        lambda data: data[:10] + b"{" * 40 + data[50:],  # a header that is no Python
        lambda data: b"PK\x03\x04" + data,
        lambda data: data[:-4000] + bytes(4000),  # of a block that never reached the disk
        lambda data: data[:-2000] + bytes([data[-2000] ^ 64]) + data[-1999:],
        lambda data: data[:-32],  # as written by earlier versions
        lambda data: data[:-1000] + b"\xff" * 4 + data[-996:],  # NaN
    ],
    ids=["cut off", "empty", "header", "archive", "zeros", "one bit", "no checksum", "NaN"],
)
def test_a_damaged_cache_is_made_again(damage, tmp_path):
    def run():
        real = MemoryVideos(REAL, key="a")
        row = make_evaluator(real=real, cache=tmp_path / "cache").evaluate("rfvd64_16f")
        return row["value"], real.loads

    value, _ = run()
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert run() == (value, 20)
    assert run() == (value, 0)


def save_changed(folder):
    module = SmallI3D(400)
    module.weight[0, 0] += 1
    return save_torchscript(module, folder / "changed.pt")


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot use the cache folder .*cache_metrics_dir=.*, or set XDG_CACHE_HOME"):
        make_evaluator(real=MemoryVideos(REAL, key="a"), cache=tmp_path / "file").evaluate("rfvd64_16f")


def test_features_file(tmp_path):
    path = tmp_path / "x.npy"
    compute_features(MemoryClips(REAL), {path: lambda clips: clips.float().mean(dim=[2, 3, 4])}, batch_size=3)
    found = open_features(path)
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    np.testing.assert_array_equal(found, REAL.float().mean(dim=[2, 3, 4]))
    assert holds_features(path, 20) and not holds_features(path, 21)


def test_nothing_is_left_of_features_that_failed(tmp_path):
    def network(clips):
        if len(clips) < 8:
            raise UserError("the last frame is damaged")
        return torch.zeros(len(clips), 2)

    with pytest.raises(UserError, match="the last frame is damaged"):
        compute_features(MemoryClips(REAL), {tmp_path / "x.npy": network}, batch_size=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["weights", "cameras", "samples"])
def test_a_generator_that_has_changed_is_measured_again(change, monkeypatch):
    """As in a training loop with one Evaluator."""
    generator, loads = small_generator(), []
    load = GeneratedClips.load
    monkeypatch.setattr(GeneratedClips, "load", lambda self, indices: loads.extend(indices) or load(self, indices))

    def make():
        return Evaluator(fake=GeneratedVideos(generator), replicates=0)

    both = make()
    before = both.evaluate("ridentity32_5v")["value"]
    assert both.evaluate("ridentity32_5v")["value"] == before and loads == [*range(32)]
    if change == "weights":
        with torch.no_grad():
            for weight in generator.foreground.parameters():
                weight.mul_(1.5)
    elif change == "cameras":
        generator.camera_prior = CameraPrior(yaw=(-0.1, 0.1))
    else:
        generator.settings = dataclasses.replace(generator.settings, num_samples=20)
    after = both.evaluate("ridentity32_5v")["value"]
    assert after == make().evaluate("ridentity32_5v")["value"] != before
    assert both.evaluate("ridentity32_5v")["value"] == after and loads == [*range(32)] * 3
    assert len(list(both._folder.iterdir())) == 1  # earlier features are replaced


def test_temporary_features_are_removed():
    both = make_evaluator()
    both.evaluate("rfvd64_16f")
    folder = both._folder
    assert len(list(folder.iterdir())) == 2
    del both
    assert not folder.exists()


def test_mistakes():
    with pytest.raises(UserError, match="no metric 'fvd'"):
        make_evaluator().evaluate("fvd")
    with pytest.raises(UserError, match="rfvd64_16f compares with real videos"):
        make_evaluator(real=None).evaluate("rfvd64_16f")
    with pytest.raises(UserError, match=r"^flicker32_16f measures real videos, too: give their folder or zip\.$"):
        make_evaluator(real=None).evaluate("flicker32_16f")
    with pytest.raises(UserError, match="rfvd64_16f needs at least 2 generated clips, there are 1"):
        make_evaluator(fake=MemoryVideos(FAKE[:1])).evaluate("rfvd64_16f")
    with pytest.raises(UserError, match=r"^metrics: give the name of one metric, got \['rfvd64_16f'\]\.$"):
        make_evaluator().evaluate(["rfvd64_16f"])


ARGUMENTS = [
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0."),
    ({"batch_size": "8"}, "batch_size must be a whole number of at least 1, got '8'."),
    ({"replicates": None}, "replicates must be a whole number of at least 0, got None."),
    ({"replicates": 1}, "replicates must be 0 or at least 2: one resampling has no spread."),
    ({"detectors": "i3d.pt"}, "detectors must be files by the names of networks, got 'i3d.pt'."),
    ({"cache": 3}, "cache must be a path, got 3."),
]


@pytest.mark.parametrize("arguments, message", ARGUMENTS)
def test_arguments(arguments, message):
    with pytest.raises(ValueError) as error:
        make_evaluator(**arguments)
    assert str(error.value) == message


def test_a_device_that_there_is_not():
    with pytest.raises(ValueError, match="^device 'gpu' cannot be used here: [^\n]*$"):
        make_evaluator(device="gpu")


# TensorFloat-32.


@pytest.fixture
def tf32():
    """TensorFloat-32 as allow_tf32=true switches it on; reads what holds now."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = True
    yield lambda: tuple(flag.allow_tf32 for flag in flags)
    for flag, value in zip(flags, before):
        flag.allow_tf32 = value


@pytest.mark.parametrize("name", ["rfvd64_16f", "fvd256_16f", "motion32_16f"])
def test_no_tensorfloat_while_anything_is_computed(name, detectors, tf32, monkeypatch):
    """TF32 is off in convolutions and products, in detectors and in rendering the fakes; it is restored afterwards."""
    seen = []
    fake = MemoryVideos(FAKE)
    monkeypatch.setattr(MemoryClips, "load", lambda self, i: (seen.append(("load", *tf32())), self.clips[list(i)])[1])
    make = evaluator.make_network

    def watched(*arguments, **options):
        network = make(*arguments, **options)
        for part in ("_features", "__call__"):
            compute = getattr(type(network), part, None)
            if compute is not None:

                def spy(*arguments, compute=compute, part=part, **options):
                    seen.append((part, *tf32()))
                    return compute(*arguments, **options)

                monkeypatch.setattr(type(network), part, spy)
        return network

    monkeypatch.setattr(evaluator, "make_network", watched)
    make_evaluator(fake=fake, detectors=detectors).evaluate(name)
    assert {"load", "__call__"} <= {part for part, *_ in seen}
    assert all(states == [False, False] for _, *states in seen)
    assert tf32() == (True, True)


def test_tensorfloat_is_restored_after_an_error(detectors, tf32, monkeypatch):
    def fail(self, indices):
        assert tf32() == (False, False)
        raise UserError("a frame cannot be read")

    monkeypatch.setattr(MemoryClips, "load", fail)
    with pytest.raises(UserError, match="cannot be read"):
        make_evaluator().evaluate("rfvd64_16f")
    assert tf32() == (True, True)
    with pytest.raises(UserError, match="no metric"):
        make_evaluator().evaluate("fvd")
    assert tf32() == (True, True)


def test_random_features_alone_are_exact_too(tf32, monkeypatch):
    network, seen = RandomFeatures(), []
    features = network._features
    monkeypatch.setattr(network, "_features", lambda x: (seen.append(tf32()), features(x))[1])
    network(REAL[:2])
    assert seen == [(False, False)] * 2 and tf32() == (True, True)
