"""Running statistics: reporting, reduction, and the state of a resumed run."""

import math

import pytest
import torch

from torch_utils.training_stats import Statistics


def test_moments_of_scalars_and_tensors():
    statistics = Statistics()
    statistics.report("a", torch.tensor([1.0, 2.0, 3.0]))
    statistics.report("a", 6.0)
    statistics.report("b", torch.full([2, 2], 0.5, requires_grad=True))
    result = statistics.reduce()
    assert list(result) == ["a", "b"]
    assert result["a"] == (3.0, pytest.approx(math.sqrt(3.5)), 4)
    assert result["b"] == (0.5, 0.0, 4)


def test_reduce_starts_afresh():
    statistics = Statistics()
    statistics.report("a", 1.0)
    statistics.reduce()
    assert statistics.reduce() == {}
    statistics.report("a", 5.0)
    assert statistics.reduce()["a"].mean == 5.0


def test_an_empty_tensor_is_no_value():
    statistics = Statistics()
    statistics.report("a", torch.zeros(0))
    moments = statistics.reduce()["a"]
    assert moments.count == 0 and math.isnan(moments.mean)


def test_a_nan_shows():
    statistics = Statistics()
    statistics.report("a", torch.tensor([1.0, math.nan]))
    assert math.isnan(statistics.reduce()["a"].mean)


def test_many_small_values_keep_their_precision():
    statistics = Statistics()
    for _ in range(1000):
        statistics.report("a", torch.full([1000], 0.1))
    moments = statistics.reduce()["a"]
    assert moments.mean == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)
    assert moments.std < 1e-7


def test_state_continues_where_it_was():
    first, second = Statistics(), Statistics()
    first.report("a", 1.0)
    state = first.state_dict()
    first.report("a", 100.0)  # must not reach into the saved state
    second.load_state_dict(state)
    second.report("a", 3.0)
    assert second.reduce()["a"] == (2.0, 1.0, 2)
    assert state["a"].tolist() == [1.0, 1.0, 1.0]


def test_what_a_graph_records_counts_when_it_is_replayed():
    statistics = Statistics()
    statistics.report("a", 1.0)
    statistics.report("b", 2.0)
    statistics.reduce()
    with statistics.watch() as names:
        statistics.report("a", 5.0)
    assert names == {"a"}
    assert statistics.state_dict() == {} and statistics.reduce() == {}
    statistics.mark(names)
    assert statistics.reduce()["a"] == (5.0, 0.0, 1)


def test_sums_keep_their_memory():
    statistics = Statistics()
    statistics.report("a", 1.0)
    address = statistics._sums["a"].data_ptr()
    statistics.reduce()
    statistics.report("a", 3.0)
    assert statistics._sums["a"].data_ptr() == address
    assert statistics.reduce()["a"] == (3.0, 0.0, 1)
