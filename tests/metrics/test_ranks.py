"""Several processes, over gloo, give the same value as one."""

import json

import pytest

from dnnlib import UserError
from tests.metrics import workers
from torch_utils.launch import launch


def test_two_processes_give_the_value_of_one(tmp_path):
    workers.evaluate(str(tmp_path))
    launch(workers.evaluate, args=[str(tmp_path)], processes=2, device_type="cpu")
    (alone, loads), *both = (json.loads((tmp_path / name).read_text()) for name in ("1-0.json", "2-0.json", "2-1.json"))
    assert loads == 11 and [part[1] for part in both] == [6, 5]  # in batches of two: 6 batches go round
    for row, _ in both:
        for key in ("value", "interval", "num_real", "num_fake", "protocol"):
            assert row[key] == alone[key]


def test_a_network_that_fails_in_one_process_is_left_out_by_all(tmp_path):
    workers.evaluate_together(str(tmp_path))
    launch(workers.evaluate_together, args=[str(tmp_path)], processes=2, device_type="cpu")
    alone, *both = (json.loads((tmp_path / name).read_text()) for name in ("1-0.json", "2-0.json", "2-1.json"))
    assert alone[1::2] == [11, 11, 11]
    for found, loads in zip(both, ([8, 8, 8], [7, 7, 7])):  # a batch of two before the error
        assert found[0::2] == [alone[0], "it does not fit", alone[4]]
        assert found[1::2] == loads


def test_an_unreadable_clip_is_told_by_all(tmp_path):
    with pytest.raises(UserError, match="^clip 5 is damaged$"):
        launch(workers.damaged, args=[str(tmp_path)], processes=2, device_type="cpu")
    assert list(tmp_path.iterdir()) == []
