import pytest

import dnnlib


@pytest.mark.parametrize(
    "text, expected",
    [("7", [7]), ("1,2,5-8", [1, 2, 5, 6, 7, 8]), (" 3 - 4 , 1", [3, 4, 1]), ("0-0", [0]), ("5,5", [5, 5])],
)
def test_parse_int_list(text, expected):
    assert dnnlib.parse_int_list(text, name="--seeds") == expected


@pytest.mark.parametrize(
    "text", ["", "a", "1,,2", "1-", "-1", "1.5", "1-2-3", "1 2", "8-5", "0-99999999999", "9" * 5000]
)
def test_parse_int_list_refuses(text):
    with pytest.raises(dnnlib.UserError, match="^--seeds: "):
        dnnlib.parse_int_list(text, name="--seeds")


@pytest.mark.parametrize(
    "seconds, expected",
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (185, "3m 05s"), (7510, "2h 05m 10s"), (93900, "1d 02h 05m")],
)
def test_format_time(seconds, expected):
    assert dnnlib.format_time(seconds) == expected


@pytest.mark.parametrize(
    "count, expected",
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (20 << 20, "20.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 50, "1024.0 TiB"),
    ],
)
def test_format_bytes(count, expected):
    assert dnnlib.format_bytes(count) == expected


def test_nearest_name():
    known = ["rotation_camera_yaw", "front_zoom", "fvd2048_16f", "fvd64_16f"]
    assert dnnlib.nearest_name("rotation-camera-yaw", known) == "rotation_camera_yaw"
    assert dnnlib.nearest_name("FVD64-16f", known) == "fvd64_16f"
    assert dnnlib.nearest_name("fvd", known) == "fvd2048_16f"
    assert dnnlib.nearest_name("zoom", known) == "front_zoom"
    assert dnnlib.nearest_name("x", known) is None


def test_choices_hint():
    many = [f"name{i}" for i in range(20)]
    assert dnnlib.choices_hint("rgd", ["rgb", "depth"]) == "choose from rgb, depth. Did you mean rgb?"
    assert dnnlib.choices_hint("x", ["rgb", "depth"], everything="--list shows all.") == "choose from rgb, depth."
    assert (
        dnnlib.choices_hint("name_7", many, everything="--list shows all.") == "did you mean name7? --list shows all."
    )
    assert dnnlib.choices_hint("x", many, everything="--list shows all.") == "--list shows all."
    assert dnnlib.choices_hint("x", many) == f"choose from {', '.join(many)}."
