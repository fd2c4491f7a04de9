"""Throughput of metrics: figures per clip, products that are those of the network."""

import json

import torch
from click.testing import CliRunner

from benchmarks import evaluation
from benchmarks.products import multiply_adds, record_products
from metrics.feature_extractors import make_network
from metrics.random_features import CHANNELS


def test_the_products_of_the_random_network_are_its_convolutions():
    clips = torch.zeros(2, 3, 4, 32, 32, dtype=torch.uint8)
    with record_products() as found:
        make_network("random", device="cpu", detectors={})(clips)
    pixels = [4 * size**2 for size in (32, 16, 8)]
    expected = 27 * CHANNELS * (3 * pixels[0] + CHANNELS * (pixels[1] + pixels[2]))
    assert multiply_adds(found) == 2 * expected  # one by one, for each clip


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.measure, "__kwdefaults__", evaluation.measure.__kwdefaults__ | {"rows": 50})
    words = ["--resolution", "32", "--rounds", "1", "--json", str(tmp_path / "m.json")]
    result = CliRunner().invoke(evaluation.main, words, catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads((tmp_path / "m.json").read_text())
    assert len(rows) == 7 and all(row["seconds"] > 0 for row in rows.values())
    shares = {name: row["fraction_of_limit"] for name, row in rows.items() if "fraction_of_limit" in row}
    assert list(shares) == ["random 3D features (rfvd), a clip"]
    assert all(f"| {name} |" in result.output for name in rows)
