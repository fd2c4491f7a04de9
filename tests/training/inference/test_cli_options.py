"""Meaning of the render command's options."""

import click
import pytest

from dnnlib import UserError
from dnnlib.command_line import Command
from training.inference.cli_options import (
    check_combinations,
    parse_style_mix,
    parse_time_range,
    path_name,
    scene_options,
    scenes_of,
)


def test_style_mixes():
    mix = parse_style_mix(" 3:12:1,5-7 ")
    assert (mix.seed, mix.other, mix.name) == (3, 12, "mix0003-0012-1+5-7")
    sizes = {"foreground": 4, "total": 10}
    assert mix.numbers(**sizes) == [1, 5, 6, 7]
    assert parse_style_mix("3:5:foreground").numbers(**sizes) == [0, 1, 2, 3]
    assert parse_style_mix("3:5:upsampler").numbers(**sizes) == [4, 5, 6, 7, 8, 9]
    assert parse_style_mix("3:5:9,9").numbers(**sizes) == [9]
    assert parse_style_mix("3:5:2,0-1") == parse_style_mix("3:5:0,1,2")
    with pytest.raises(UserError, match=r"no layer 10; this generator has 0-3 \(foreground\) and 4-9 \(upsampler\)"):
        parse_style_mix("3:5:8-10").numbers(**sizes)


@pytest.mark.parametrize("text", ["", "3:5", "3:5:", "a:5:1", "3:-5:1", "3:5:1:2", "3:5:hair", "3:5:2-1", "3:5:1-"])
def test_other_style_mixes_are_refused(text):
    with pytest.raises(UserError, match="--style_mix: "):
        parse_style_mix(text)


def test_time_ranges():
    assert parse_time_range("0:1") == (0.0, 1.0) and parse_time_range("-0.5:2e0") == (-0.5, 2.0)


def test_times_without_any_sense_are_refused():
    with pytest.raises(UserError, match="beyond ±1000"):
        parse_time_range("0:1e300")


@pytest.mark.parametrize("text", ["", "1", "0:1:2", "a:1", "0:inf", "nan:1", ":"])
def test_other_time_ranges_are_refused(text):
    with pytest.raises(UserError, match="is not START:END"):
        parse_time_range(text)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"grid", "interpolate"}, "--grid and --interpolate exclude each other"),
        ({"grid", "columns"}, "^--grid and --columns exclude each other: a grid has a column for each motion.$"),
        ({"camera_path", "render_program"}, "--render_program has no place here"),
        ({"camera_path", "fov"}, "--fov has no place here: --camera_path says where the cameras stand"),
        ({"camera_path", "relative_range_pitch_scale"}, "--relative_range_pitch_scale has no place"),
        ({"eye_distance"}, "add --stereo"),
        ({"codes", "truncation_psi"}, "--truncation_psi: the codes of a file are rendered as they are"),
        ({"codes", "class_idx"}, "--class_idx: the codes"),
    ],
)
def test_options_that_do_not_go_together(given, message):
    with pytest.raises(UserError, match=message):
        check_combinations(given)


def test_options_that_do():
    check_combinations({"columns", "interpolate"})
    check_combinations(
        {"stereo", "eye_distance", "grid", "seeds", "codes", "truncation_psi", "outputs", "time_range", "camera_path"}
    )


def test_a_file_of_codes_that_is_given_twice_is_one_content():
    @click.command(cls=Command)
    @scene_options
    def command(**options):
        return scenes_of(options)

    words = [word for name in ("a.npz", "b.npz", "a.npz") for word in ("--codes", name)]
    assert command.main(["--network_pkl", "hf://user/name", *words], standalone_mode=False).codes == ("a.npz", "b.npz")


def test_names_of_paths():
    assert path_name("/a b/my path (2).json") == "path-my-path-2-"
    assert len(path_name("x" * 200)) < 50
