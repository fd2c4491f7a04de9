"""Names of metrics and their meaning."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from dnnlib import UserError
from metrics.detectors import DETECTORS
from metrics.distances import SPLITS, SUBSET_SIZE, SUBSETS
from metrics.feature_extractors import detector_of
from metrics.metric_functions import STATISTICS
from metrics.registry import METRICS, Metric, extrapolation_note, find_metric

ROOT = Path(__file__).resolve().parents[2]


def test_the_names_of_the_specification():
    clips = {"16f": (16, 1), "32f": (32, 1), "128f": (128, 1), "128f_subsample8f": (128, 8)}
    for text, (frames, subsample) in clips.items():
        metric = METRICS[f"fvd2048_{text}"]
        assert (metric.statistic, metric.network, metric.count) == ("frechet", "i3d", 2048)
        assert (metric.frames, metric.subsample, metric.better) == (frames, subsample, "lower")
    assert METRICS["kvd2048_16f"].statistic == "kernel" and METRICS["kvd2048_16f"].network == "i3d"
    for name, measure in (("fid50k_full", "frechet"), ("kid50k_full", "kernel_subsets"), ("is50k", "inception_score")):
        assert (METRICS[name].statistic, METRICS[name].count, METRICS[name].samples) == (measure, 50_000, "images")
        assert detector_of(METRICS[name].network) == "inception"
    assert METRICS["is50k"].better == "higher" and not METRICS["is50k"].uses_real
    assert METRICS["fvd64_16f"].count == 64


def test_every_entry_can_be_computed():
    assert {metric.statistic for metric in METRICS.values()} == set(STATISTICS)
    for name, metric in METRICS.items():
        assert metric.name == name and metric.samples in ("clips", "images", "views", "pairs")
        assert metric.better in ("lower", "higher", "")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'better'"):
        Metric("bright_1f", "mean", "bright", "clips", 1, "an added metric")


def test_metrics_of_several_views():
    several = {name for name, metric in METRICS.items() if metric.several_views}
    assert several == {name for name in METRICS if name.endswith(("_2v", "_5v"))} and "warping32_2v" in several
    assert several >= {name for name, metric in METRICS.items() if metric.samples == "views"}


def test_the_protocol_holds_what_determines_the_value():
    assert METRICS["warping32_2v"].protocol() == {
        "measure": "mean",
        "network": "warping",
        "samples": "pairs",
        "count": 32,
        "frames": 1,
        "subsample": 1,
        "uses_real": False,
    }


def test_names_and_descriptions_agree_with_the_computation():
    assert f"kernel distance ({SUBSETS} subsets of {SUBSET_SIZE})" in METRICS["kid1k_full"].about
    assert METRICS["is1k"].about.endswith(f", {SPLITS} splits")
    for name in ("pr50k3_full", "pr1k3_full", "pr64k3_16f", "rpr2048k3_16f"):
        assert "(3 nearest neighbours)" in METRICS[name].about
    assert STATISTICS["precision_recall"].least == 3 + 1


def test_names_say_what_is_not_the_real_thing():
    for name, metric in METRICS.items():
        random = metric.network.startswith("random")
        rule = f"{name}: random features <=> a name that begins with r <=> a warning"
        assert random == name.startswith("r") == bool(metric.warning), rule
        if name.startswith("rfvd"):
            assert "NOT FVD" in metric.warning
        if name.startswith(("fvd", "kvd", "fid", "kid", "is")):
            assert detector_of(metric.network) in DETECTORS


def test_clips_that_are_longer_than_those_of_training():
    names = ["fvd2048_16f", "fvd2048_128f_subsample8f_videomae", "warping256_2v", "identity256_5v", "fid50k_full"]
    assert extrapolation_note(names, nframes=8) == [
        "fvd2048_16f, fvd2048_128f_subsample8f_videomae: generated clips show times from 0 to 17.1. Training clips of "
        "8 frames covered 0 to 1, the rest is extrapolated."
    ]
    assert extrapolation_note(names, nframes=16) == [
        "fvd2048_128f_subsample8f_videomae: generated clips show times from 0 to 8. Training clips of 16 frames "
        "covered 0 to 1, the rest is extrapolated."
    ]
    for nframes in (1, 121):  # single images have no frame rate, and no metric of clips
        assert extrapolation_note(names, nframes=nframes) == []
    assert extrapolation_note(names[2:], nframes=2) == []


def test_extractors_of_the_users():
    metric = find_metric("fvd2048_128f_subsample8f_videomae")
    base = find_metric("fvd2048_128f_subsample8f")
    assert dataclasses.replace(metric, name=base.name, network="i3d", about=base.about, warning="") == base
    assert metric.network == "videomae" and "'videomae', not I3D" in metric.warning
    assert find_metric("pr256k3_16f_vmae2").statistic == "precision_recall"
    assert "fvd64_16f_videomae" not in list(METRICS) and "fvd64_16f_videomae" in METRICS
    for name in ("fvd64_16f_", "fvd64_16f_Mae", "fvd64_16f_inception", "rfvd64_16f_videomae", "fid1k_full_videomae",
                 "videomae", "fvd_videomae", "fvd64_16f_video-mae", 3, None):  # fmt: skip
        assert name not in METRICS
    for network in {metric.network for metric in METRICS.values()}:
        assert f"fvd64_16f_{network}" not in METRICS, "of the program's own"
    bright = Metric("bright_1f", "mean", "bright", "clips", 1, "an added metric", better="")
    own = type(METRICS)(METRICS | {"bright_1f": bright})
    assert "fvd64_16f_bright" not in own and "fvd64_16f_bright" in METRICS


@pytest.mark.parametrize(
    "name, hint",
    [
        ("fvd2048_16f_vgg16", "'vgg16' is a feature extractor of this program: give yours another name."),
        ("fvd64_16f_i3d", "'i3d' is a feature extractor of this program: give yours another name."),
        (
            "fvd2048_128f_subsample8f_video-mae",
            "the name of a feature extractor, after fvd2048_128f_subsample8f_, is a letter a-z and then letters a-z or "
            "digits.",
        ),
        (
            "pr1k3_full_dino",
            "feature extractors of your own replace I3D only, in metrics of clips such as fvd2048_16f_videomae.",
        ),
    ],
)
def test_names_with_an_extractor_that_cannot_be(name, hint):
    with pytest.raises(UserError) as error:
        find_metric(name)
    assert str(error.value) == f"metrics: there is no metric '{name}'; {hint}"


def test_unknown_names():
    with pytest.raises(
        UserError, match="no metric 'fvd'; did you mean fvd2048_16f. python -m metrics --list shows all"
    ):
        find_metric("fvd")


def test_several_names():
    with pytest.raises(UserError) as error:
        find_metric(["fvd64_16f"])
    assert str(error.value) == "metrics: give the name of one metric, got ['fvd64_16f']."


@pytest.mark.parametrize("module", ["metrics.registry", "metrics.results"])
def test_the_tables_need_no_pytorch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
