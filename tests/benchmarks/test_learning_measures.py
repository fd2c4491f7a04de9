"""The measures of the learning study on constructed cases with known answers."""

import math

import pytest
import torch

from benchmarks.learning.evaluation import Sizes, Views, figures_of_scenes, geometry_figures, mean_maps
from benchmarks.learning.measures import (
    correlation,
    frame_differences,
    interpolate_depth,
    motion_and_content,
    shuffled,
    warping_errors,
)
from renderer.cameras import CameraPrior, camera_rays, pixel_centers

PRIOR = CameraPrior(fov=18, yaw=(-0.3, 0.3))
SIZE = 32


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------------------------
# Time


def test_differences_of_a_steady_ramp_are_its_step_times_the_lag():
    clip = (torch.arange(16) * 3).to(torch.uint8).reshape(1, 1, 16, 1, 1).expand(2, 3, 16, 4, 4)
    for lag in (1, 5, 15):
        assert frame_differences(clip, lag).tolist() == [3.0 * lag] * 2


def test_a_clip_that_stands_still_has_none():
    clip = torch.full([1, 3, 4, 4, 4], 200, dtype=torch.uint8)
    assert frame_differences(clip, 1).item() == 0


# ----------------------------------------------------------------------------------------------------------------------
# Motion and content


def table(*, inside: float, outside: float, content: float) -> torch.Tensor:
    """4 contents × 8 motions, 8×8 pixels, of which the top quarter moves more than the rest."""
    contents, motions, frames = 4, 8, 5
    base = content * random(contents, 1, 1, 1, 8, 8)
    course = random(contents, motions, 1, frames, 8, 8, seed=1) - 0.5
    strength = torch.full([8, 8], outside)
    strength[:2] = inside
    return (base + course * strength).expand(-1, -1, 3, -1, -1, -1)


def test_the_motion_ratio_is_that_of_the_strengths_in_and_outside_the_moving_region():
    value = motion_and_content(table(inside=0.3, outside=0.05, content=0.0))["motion_ratio"]
    assert value == pytest.approx(6, rel=0.1)


def test_motion_that_is_everywhere_has_a_ratio_of_one():
    value = motion_and_content(table(inside=0.2, outside=0.2, content=0.0))["motion_ratio"]
    assert value == pytest.approx(1, rel=0.1)  # the region is found in other videos than it is judged by


def test_the_content_ratio_is_a_mean_difference_over_another():
    videos = torch.zeros(2, 4, 3, 2, 4, 4)
    videos[1] += 0.6  # contents differ by 0.6 everywhere
    videos[:, :, :, 1] += torch.arange(4.0).reshape(1, 4, 1, 1, 1) * 0.1  # motions differ in the second frame
    # Pairs of 0, 1, 2, 3 differ by 5/3 on average; half of the frames; times 0.1.
    assert motion_and_content(videos)["content_ratio"] == pytest.approx(0.6 / (5 / 3 * 0.1 / 2), rel=1e-4)


def test_shuffled_videos_have_no_contents_and_no_motions():
    videos = table(inside=0.3, outside=0.02, content=1.0)
    assert motion_and_content(videos)["content_ratio"] > 3
    mixed = shuffled(videos, torch.Generator().manual_seed(0))
    assert sorted(mixed.flatten(0, 1).sum(dim=[1, 2, 3, 4]).tolist()) == pytest.approx(
        sorted(videos.flatten(0, 1).sum(dim=[1, 2, 3, 4]).tolist())
    )
    assert motion_and_content(mixed)["content_ratio"] == pytest.approx(1, abs=0.25)


def test_too_few_codes_are_refused():
    with pytest.raises(ValueError, match="at least 2 contents and 4 motions"):
        motion_and_content(torch.zeros(2, 3, 3, 2, 4, 4))


# ----------------------------------------------------------------------------------------------------------------------
# Geometry


def textured_surface(cameras, height):
    """Picture and depth of the surface x = height(y, z), textured by place, found by bisection along the rays."""
    origins, directions = camera_rays(cameras, pixel_centers(SIZE))

    def above(s):
        p = origins + s[..., None] * directions
        return p[..., 0] - height(p[..., 1], p[..., 2])

    low, high = torch.full(directions.shape[:2], 0.6), torch.full(directions.shape[:2], 1.4)
    for _ in range(40):
        middle = (low + high) / 2
        outside = above(middle) > 0
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    p = origins + low[..., None] * directions
    texture = torch.stack(
        [torch.sin(60 * p[..., 1]), torch.sin(60 * p[..., 2]), torch.sin(45 * (p[..., 1] + p[..., 2]))]
    )
    image = (0.5 + 0.5 * texture).movedim(0, 1).reshape(-1, 3, SIZE, SIZE)
    return image, low.reshape(-1, SIZE, SIZE)


def bump(y, z):
    return 0.08 * torch.exp(-(y * y + z * z) / (2 * 0.05**2))


def flat(y, z):
    return 0.0 * y


def errors_of(height):
    source_camera, target_camera = PRIOR.at_angles([0.0], [math.pi / 2]), PRIOR.at_angles([0.35], [math.pi / 2])
    source, _ = textured_surface(source_camera, height)
    target, depth = textured_surface(target_camera, height)
    return warping_errors(source, source_camera, target, target_camera, depth, torch.ones_like(depth))[0].tolist()


def test_a_curved_surface_is_warped_by_its_depth_and_not_by_a_plane():
    by_depth, by_plane, by_facing, unmoved = errors_of(bump)
    assert by_plane > 3 * by_depth
    assert by_facing > 3 * by_depth and unmoved > 3 * by_depth


def test_a_plane_is_warped_as_well_by_the_plane_that_fits_it():
    by_depth, by_plane, by_facing, unmoved = errors_of(flat)
    assert by_plane == pytest.approx(by_depth, rel=1e-3)
    assert unmoved > 2 * by_depth


def test_depth_without_meaning_is_no_better_than_a_plane():
    source_camera, target_camera = PRIOR.at_angles([0.0], [math.pi / 2]), PRIOR.at_angles([0.35], [math.pi / 2])
    source, _ = textured_surface(source_camera, flat)
    target, depth = textured_surface(target_camera, flat)
    wrong = depth + 0.2 * (random(1, SIZE, SIZE) - 0.5)
    by_depth, by_plane, *_ = warping_errors(
        source, source_camera, target, target_camera, wrong, torch.ones_like(depth)
    )[0].tolist()
    assert by_depth > 2 * by_plane


def test_interpolation_ignores_what_is_no_surface():
    depth, weights = torch.full([1, 4, 4], 0.9), torch.ones(1, 4, 4)
    depth[:, :, 2:], weights[:, :, 2:] = 55.0, 0.0
    larger, mask = interpolate_depth(depth, weights, 8)
    assert mask[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    torch.testing.assert_close(larger[mask > 0], torch.full([32], 0.9))


def test_correlation_is_pearsons_over_the_chosen_pixels():
    a = torch.tensor([1.0, 2.0, 3.0, 100.0])
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert correlation(a, 2 * a + 1, weights) == pytest.approx(1)
    assert correlation(a, -a, weights) == pytest.approx(-1)
    assert correlation(a, torch.tensor([1.0, 2.0, 1.0, 0.0]), weights) == pytest.approx(0, abs=1e-12)
    assert math.isnan(correlation(a, torch.ones(4), weights))


def test_the_scenes_themselves_meet_the_targets():
    sizes = Sizes(clips=0, frames=4, contents=3, motions=4, views=4)
    figures, truth = figures_of_scenes(PRIOR, 32, 16, sizes)
    assert figures["warp_ratio"] > 1.5 and figures["warp"]["none"] > figures["warp"]["depth"]
    assert figures["convex_share"] == 1
    assert figures["depth_correlation"] == pytest.approx(1) and figures["relief_correlation"] == pytest.approx(1)
    assert figures["motion_ratio"] > 2 and figures["content_ratio"] > 2
    assert figures["parallax"] > 0.01 and 0.3 < figures["surface"] < 0.8
    assert truth["depth"].shape == (16, 16)


def test_a_billboard_has_a_ratio_of_one_whatever_is_painted_on_it():
    cameras = [PRIOR.at_angles([math.radians(angle)], [math.pi / 2]) for angle in (-20, 0, 20)]
    images, depths = zip(*(textured_surface(camera, flat) for camera in cameras))
    depth = torch.stack(depths)
    views = Views(torch.stack(images), depth, torch.ones_like(depth), cameras)
    truth = mean_maps(views)
    figures = geometry_figures(views, PRIOR, truth)
    assert figures["warp_ratio"] == pytest.approx(1, abs=0.01)
    assert figures["relief"] < 1e-5 and figures["parallax"] < 1e-5


def test_hollow_faces_are_distinguished_from_heads():
    cameras = [PRIOR.at_angles([math.radians(angle)], [math.pi / 2]) for angle in (-20, 0, 20)]
    images, depths = zip(*(textured_surface(camera, bump) for camera in cameras))
    heads = Views(torch.stack(images), torch.stack(depths), torch.ones(3, 1, SIZE, SIZE), cameras)
    hollow = Views(heads.images, 2 - heads.depth, heads.weights, cameras)  # mirrored at the distance of one
    truth = mean_maps(heads)
    assert geometry_figures(heads, PRIOR, truth)["convex_share"] == 1
    turned = geometry_figures(hollow, PRIOR, truth)
    assert turned["convex_share"] == 0 and turned["relief_correlation"] < -0.95
    assert turned["warp_ratio"] < 1 < geometry_figures(heads, PRIOR, truth)["warp_ratio"]
