"""Views as pixels."""

import types

import numpy as np
import pytest
import torch

from renderer.cameras import CameraPrior
from renderer.trajectory_files import PathCamera
from renderer.viewer.pictures import (
    BACKDROPS,
    MARGIN,
    SQUARES,
    VIEWS,
    draws_field,
    field_picture,
    layers_of,
    letterbox,
    picture,
)

CAMERA = PathCamera(0.2, 1.5, 1.0, 18.0, 0.0)
WIDTH, FIELD = 32, 8
SOURCE = types.SimpleNamespace(
    depth_range=(0.9, 1.1), widths=(FIELD, 16, WIDTH), has_background=True, prior=CameraPrior()
)


def frame(depth=1.0, opacity=1.0, width=WIDTH):
    """A grey-blue image whose foreground lies at a single depth."""
    opacity = torch.as_tensor(opacity).expand(1, 1, FIELD, FIELD)
    return types.SimpleNamespace(
        image=torch.tensor([0.0, 0.2, 0.4])[:, None, None].expand(1, 1, 3, width, width),
        image_raw=torch.full([1, 1, 3, FIELD, FIELD], -0.5),
        depth=depth * opacity,
        opacity=opacity,
    )


def show(view, output=None, backdrop="black"):
    output = output or frame()
    if draws_field(view):
        return field_picture(view, output, CAMERA, SOURCE)
    return picture(view, output, backdrop=backdrop)


def pixel(value):
    return round((value + 1) * 127.5)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_a_picture(view):
    image = show(view)
    assert image.shape == (3, WIDTH, WIDTH) and image.dtype == torch.uint8
    assert layers_of(view) == {"foreground only": "foreground", "background only": "background"}.get(view, "both")


def test_colour_is_the_image_and_the_field_image_is_its_own():
    assert show("colour")[:, 0, 0].tolist() == [pixel(v) for v in (0.0, 0.2, 0.4)]
    assert set(show("field image").flatten().tolist()) == {pixel(-0.5)}
    assert show("colour", frame(width=16)).shape == (3, 16, 16), "a draft stays small"
    assert draws_field("field image") and not draws_field("colour")


def test_depth_is_light_near_and_dark_far_and_black_where_there_is_nothing():
    for depth, value in ((0.9, 255), (1.0, 128), (1.05, 64), (1.1, 0), (0.8, 255)):
        levels = show("depth", frame(depth=depth)).unique().tolist()
        assert len(levels) == 1 and abs(levels[0] - value) <= 1, depth
    assert show("depth", frame(depth=0.95, opacity=0.2)).max() == 0
    half = show("depth", frame(depth=1.0, opacity=0.6)).unique().tolist()
    assert half in ([127], [128]), "the expected depth is divided by the opacity"
    farther = field_picture("depth", frame(depth=1.65), PathCamera(0.2, 1.5, 1.6, 18.0, 0.0), SOURCE)
    assert (farther.int() - 64).abs().max() <= 1, "the range moves with the camera"


def test_normals_of_a_plane_before_the_camera_point_to_it():
    image = show("normals")
    assert (image.int() - torch.tensor([128, 128, 255])[:, None, None]).abs().max() <= 1


def test_opacity():
    assert show("opacity", frame(opacity=0.25)).unique().tolist() == [64]


def test_the_foreground_is_blended_over_the_backdrop():
    image, black = frame().image[0, 0, :, 0, 0], -1.0
    for opacity in (0.0, 0.25, 1.0):
        found = show("foreground only", frame(opacity=opacity))[:, 5, 5]
        expected = [pixel(opacity * float(v) + (1 - opacity) * black) for v in image]
        assert found.tolist() == pytest.approx(expected, abs=1)
    board = show("foreground only", frame(opacity=0.0), "checkerboard")
    side = WIDTH // SQUARES
    assert board[0, 0, 0] == board[0, side, side] != board[0, 0, side] == board[0, side, 0]
    assert BACKDROPS == ("checkerboard", "black")


def test_unknown_views_are_refused():
    for view in ("x", "depth"):
        with pytest.raises(ValueError, match=f"no view '{view}'"):
            picture(view, frame(), backdrop="black")
    with pytest.raises(ValueError, match="no view 'colour'"):
        field_picture("colour", frame(), CAMERA, SOURCE)


@pytest.mark.parametrize(
    "aspect, shape", [(1.0, (10, 10)), (2.0, (10, 20)), (0.5, (20, 10)), (1.33, (10, 13)), (1000.0, (10, 100))]
)
def test_a_picture_stands_in_the_middle_of_its_window(aspect, shape):
    image = torch.full([3, 10, 10], 200, dtype=torch.uint8)
    window = letterbox(image, aspect)
    assert window.shape == (*shape, 3)
    top, left = (shape[0] - 10) // 2, (shape[1] - 10) // 2
    assert (window[top : top + 10, left : left + 10] == 200).all()
    assert np.count_nonzero(window == MARGIN) == 3 * (shape[0] * shape[1] - 100)


@pytest.mark.parametrize("aspect", [0.0, -1.0, float("nan")])
def test_a_window_has_an_area(aspect):
    with pytest.raises(ValueError, match="aspect"):
        letterbox(torch.zeros([3, 4, 4], dtype=torch.uint8), aspect)
