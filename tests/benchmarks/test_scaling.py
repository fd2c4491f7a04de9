"""The prediction of docs/scaling.md, against cases that can be worked out by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.scaling import FLOAT, ClusterRates, build_training, count_operations, predict
from training.launch.config import compose_options
from training.networks.model_summary import parameter_counts

MACHINE = ClusterRates(
    teraflops=10, utilisation=0.5, gpus_per_node=8, inside=100e9, between=10e9, latency=1e-5, host_latency=1e-4,
    disk=1e9,
)  # fmt: skip


def test_computing():
    assert MACHINE.compute(5e12) == 1.0


def test_an_exchange_within_a_node():
    assert MACHINE.all_reduce(8, 1e9) == pytest.approx(2 * 7 / 8 * 1e9 / 100e9 + 2 * 3 * 1e-5)


def test_an_exchange_between_nodes_comes_on_top():
    assert MACHINE.all_reduce(16, 1e9) == pytest.approx(MACHINE.all_reduce(8, 1e9) + 2 / 2 * 1e9 / 10e9 + 2 * 1e-5)
    assert MACHINE.flag(1) == 0 and MACHINE.flag(16) == pytest.approx(2 * 4 * 1e-4)


@pytest.fixture(scope="module")
def options():
    return compose_options(["outdir=.", "data=.", "spec=small", "model=stylenerf_small", "fp32=true"])


def test_counts_of_a_small_model(options):
    phases = count_operations(options, videos=4)
    assert [(name, phase["interval"]) for name, phase in phases.items()] == [
        ("Gmain", 1), ("Greg", 4), ("Dmain", 1), ("Dreg", 16)
    ]  # fmt: skip
    generator, discriminator, _, _ = build_training(options, "meta")
    sizes = parameter_counts({"generator": generator, "discriminator": discriminator})
    fixed = sum(value.numel() for value in generator.motion.input.parameters())  # the frequencies of waves
    assert phases["Gmain"]["bytes"] == FLOAT * (sizes["generator"] - fixed)
    assert phases["Dmain"]["bytes"] == FLOAT * sizes["discriminator"]
    assert phases["Dmain"]["flops"] > phases["Dreg"]["flops"] / 2 > 0
    # Operations per video do not depend on how many share a pass, but for those that all of them share.
    more = count_operations(options, videos=8)
    assert more["Dmain"]["flops"] == pytest.approx(phases["Dmain"]["flops"], rel=0.02)


def test_penalties_of_weight_zero_cost_nothing(options):
    """As in a training, which has no phases for them."""
    plain = dict(options, spec=options["spec"] | {"pl_weight": 0, "gamma": 0})
    assert [phase.name for phase in build_training(plain, "meta")[3]] == ["Gmain", "Dmain"]


def test_counted_operations_of_a_layer():
    layer = nn.Linear(3, 5, device="meta")
    with FlopCounterMode(display=False) as counter:
        layer(torch.empty(7, 3, device="meta")).sum().backward()
    assert counter.get_total_flops() == 2 * 7 * 3 * 5 * 2  # there, and back to the weight alone


def test_predictions(options):
    phases = {
        "Gmain": {"flops": 1e12, "bytes": 1e9, "interval": 1},
        "Greg": {"flops": 4e12, "bytes": 1e9, "interval": 4},
    }
    spec = dict(options["spec"], mb=32, mbstd=8, kimg=1000, kimg_per_tick=4, imgsnap=25)
    rows = predict(phases, dict(options, spec=spec), MACHINE, frame=(1e9, 100), file=1e9)
    one, four, node, two = (next(row for row in rows if row["gpus"] == n) for n in (1, 4, 8, 16))
    assert [row["batch"] for row in (one, four, node, two)] == [32, 32, 64, 128]
    assert one["compute"] == pytest.approx(32 * 2e12 / 5e12) and one["exchange"] == one["flag"] == 0
    assert one["alone"] == pytest.approx((1e11 / 5e12 + 1) / (25 * 125))
    assert four["compute"] == pytest.approx(8 * 2e12 / 5e12)
    assert two["exchange"] == pytest.approx(1.25 * MACHINE.all_reduce(16, 1e9))
    for row in rows:
        total = row["compute"] / row["efficiency"]
        assert total == pytest.approx(row["compute"] + row["exchange"] + row["flag"] + row["alone"])
        assert row["hours"] == pytest.approx(1e6 / row["batch"] * total / 3600)
    assert [row["efficiency"] for row in rows[2:]] == sorted((row["efficiency"] for row in rows[2:]), reverse=True)
