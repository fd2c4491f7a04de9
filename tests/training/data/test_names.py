"""Natural order of names, decimal numbers in them, and their compact storage."""

import numpy as np
import pytest

from training.data.names import StringTable, disordered_decimals, natural_key, natural_order


def test_natural_order():
    names = ["f", "f1", "f01", "f2", "f10", "g0", "2", "10", "é", "f1a2", "f1a10"]
    assert sorted(names, key=natural_key) == ["2", "10", "f", "f01", "f1", "f1a2", "f1a10", "f2", "f10", "g0", "é"]
    padded = [f"frame_{number:05d}.png" for number in np.random.default_rng(0).permutation(3000)]
    assert sorted(padded, key=natural_key) == sorted(padded)


def test_the_quick_order_is_the_natural_one():
    generator = np.random.default_rng(0)
    for pattern in ("{:03d}.png", "{}.png", "f{:02d}a{}.png"):
        names = [pattern.format(*generator.integers(0, 300, 2)) for _ in range(200)]
        assert natural_order(names) == sorted(names, key=natural_key)


def test_natural_order_of_numbers_of_any_length():
    names = ["f10.png", "f9.png", "f009.png", "f0.png", "f1" + "0" * 5000 + ".png"]
    expected = ["f0.png", "f009.png", "f9.png", "f10.png", "f1" + "0" * 5000 + ".png"]
    assert natural_order(names) == expected


@pytest.mark.parametrize(
    "stems, pair",
    [
        (["t0.9", "t0.10"], ("t0.9.png", "t0.10.png")),
        (["2", "1.5"], None),  # 1.5 precedes 2
        (["0.5", "0.25", "1"], ("0.5.png", "0.25.png")),
        (["1.2", "1.9", "2.1"], None),
        (["0.105", "0.210"], None),  # equally many decimals
        (["0.5", "0.75"], None),  # in order
        (["a0.5", "b0.25"], None),  # two series
        (["0.5", "0.25", "last"], ("0.5.png", "0.25.png")),  # one other picture
        (["0.5", "0.25", "first", "last"], None),
        (["a0.5", "a0.25", "b0.5", "b0.25"], None),
        (["0.3s", "0.21s", "0.105s"], ("0.3s.png", "0.21s.png")),
        (["t0.21_left", "t0.105_left"], ("t0.21_left.png", "t0.105_left.png")),
        (["0.3", "0.21", "0.105", "5e-05"], ("0.3.png", "0.21.png")),
        (["0.25", "0.50", "1e-05"], ("0.50.png", "1e-05.png")),
        (["0.0", "0.25", "-0.5", "-0.25"], ("0.25.png", "-0.5.png")),
        (["t=0.1", "t=-0.1"], ("t=0.1.png", "t=-0.1.png")),
        (["f-0.5", "f-0.25"], ("f-0.5.png", "f-0.25.png")),  # not a sign
        (["f-0.25", "f-0.50"], None),
        (["1", "2", "10"], None),
        ([], None),
    ],
)
def test_disordered_decimals(stems, pair):
    names = natural_order(f"{stem}.png" for stem in stems)
    assert disordered_decimals(names) == pair


def test_string_table():
    texts = ["", "a", "ümlaut", "", "x" * 300, "b\udcff"]
    table = StringTable.of(texts)
    assert len(table) == 6 and list(table) == texts and table[4] == "x" * 300
    assert len(StringTable.of([])) == 0
