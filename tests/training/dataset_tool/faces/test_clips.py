"""Tracks and clips of synthetic heads: gaps, cuts, crossings, limits, counts."""

import numpy as np
import pytest

from tests.training.dataset_tool.faces.heads import NAMES, head, video
from training.dataset_tool.faces.clips import Selection, select_clips, summary
from training.dataset_tool.faces.detections import parse_video
from training.dataset_tool.faces.tracking import MAX_GAP, link_tracks

CHOICE = Selection(min_side=20, min_frames=16)


def clips_of(frames, *, cuts=(), **choice):
    settings = Selection(**{"min_side": 20, "min_frames": 16, **choice})
    return select_clips(video(frames, cuts=cuts), NAMES, settings)


def spans(found):
    return [(clip.first, clip.stop) for clip in found.clips]


def test_one_still_head_is_one_clip():
    found = clips_of([[head(0.2, 1.5, 0.1)] for _ in range(40)])
    assert spans(found) == [(0, 40)] and found.left_out == {}
    entry = found.clips[0].entry(Selection(remove_roll=True))
    assert entry["first"] == 0 and entry["frames"] == 40
    assert entry["box"] == pytest.approx([39, 29, 81, 71]) and entry["roll"] == pytest.approx(0.1)
    assert np.allclose(entry["camera"], [[0.2, 1.5]] * 40)
    assert "roll" not in found.clips[0].entry(Selection())


def test_jitter_does_not_move_the_box():
    generator = np.random.default_rng(0)
    frames = [[head(center=generator.normal((60, 50), 1.0), side=42 + generator.normal())] for _ in range(100)]
    found = clips_of(frames)
    assert spans(found) == [(0, 100)]
    assert found.clips[0].entry(Selection())["box"] == pytest.approx([39, 29, 81, 71], abs=0.5)
    boxes = found.clips[0].entry(Selection(follow=True))["box"]
    assert len(boxes) == 100


def test_short_gaps_are_bridged_and_long_ones_are_not():
    for gap, expected in ((MAX_GAP, [(0, 60)]), (MAX_GAP + 1, [(0, 30), (30 + MAX_GAP + 1, 60)])):
        frames = [[head(yaw=0.01 * k)] for k in range(60)]
        frames[30 : 30 + gap] = [[]] * gap
        found = clips_of(frames)
        assert spans(found) == expected and found.empty == gap
        if gap == MAX_GAP:  # interpolated
            assert found.clips[0].angles[:, 0] == pytest.approx(0.01 * np.arange(60))


def test_clips_end_at_cuts():
    assert spans(clips_of([[head()]] * 60, cuts=[20])) == [(0, 20), (20, 60)]
    found = clips_of([[head()]] * 60, cuts=[20, 30])
    assert spans(found) == [(0, 20), (30, 60)] and found.left_out == {"too short": 10} and found.cuts == 2


def test_a_head_that_walks_away_starts_a_new_clip():
    frames = [[head(center=(40 + 0.5 * k, 50))] for k in range(160)]  # half a box (21 pixels) in 42 frames
    found = clips_of(frames)
    assert len(found.clips) == 4 and sum(len(clip.sides) for clip in found.clips) == 160
    assert max(np.ptp(clip.centers[:, 0]) for clip in found.clips) <= 0.5 * 42 + 1
    assert spans(clips_of(frames, follow=True)) == [(0, 160)]
    nearer = [[head(side=30 * 1.01**k)] for k in range(80)]
    assert all(clip.sides.max() / clip.sides.min() <= 1.36 for clip in clips_of(nearer).clips)


def test_several_people():
    frames = [[head(0.1, center=(40, 50)), head(-0.1, center=(110, 50), side=48)] for _ in range(30)]
    largest = clips_of(frames)
    assert [clip.side for clip in largest.clips] == [pytest.approx(48)]
    assert largest.left_out == {"beside a larger face": 30}
    everyone = clips_of(frames, which="all")
    assert sorted(round(float(np.median(clip.angles[:, 0])), 6) for clip in everyone.clips) == [-0.1, 0.1]


def test_a_larger_face_for_a_moment_takes_only_its_frames():
    frames = [[head(center=(40, 50))] for _ in range(100)]
    for k in range(45, 65):
        frames[k] = [head(center=(40, 50)), head(center=(110, 50), side=48)]
    frames[50] = frames[50][1:]  # interpolated there
    found = clips_of(frames)
    assert spans(found) == [(0, 45), (45, 65), (65, 100)] and found.left_out == {"beside a larger face": 19}
    assert [clip.side for clip in found.clips] == pytest.approx([42, 48, 42])
    long = clips_of(frames, min_frames=20)
    assert spans(long) == spans(found)
    longer = clips_of([*frames[30:], *frames[:10]], min_frames=20)  # the first 15 frames are too few
    assert spans(longer) == [(15, 35), (35, 80)]
    assert longer.left_out == {"beside a larger face": 19, "too short": 15}
    for k in range(45):  # the median of all 80 is certain, that of the first 45 is not
        frames[k] = [head(center=(40, 50), score=0.6)]
    uncertain = clips_of([*frames, *[[head(center=(40, 50))]] * 20])
    assert spans(uncertain) == [(45, 65), (65, 120)]
    assert uncertain.left_out == {"beside a larger face": 19, "uncertain": 45}


def test_faces_that_cross_are_not_confused():
    """One looks left, one right: no clip may hold both."""
    frames = [[head(0.4, center=(20 + 2 * k, 50)), head(-0.4, center=(160 - 2 * k, 52))] for k in range(71)]
    found = clips_of(frames, which="all", follow=True)
    assert len(found.clips) == 4 and found.left_out["covered by another"] > 5
    assert all(np.ptp(clip.angles[:, 0]) < 1e-6 for clip in found.clips)


def test_both_faces_that_cover_each_other_are_counted():
    apart, together = ([head(center=(30, 50)), head(center=(x, 50))] for x in (120, 50))
    found = clips_of([*[apart] * 20, *[together] * 8, *[apart] * 20], which="all")
    assert spans(found) == [(0, 20), (0, 20), (28, 48), (28, 48)] and found.left_out == {"covered by another": 16}


def test_faces_that_swap_between_two_frames():
    left, right = (30, 50), (120, 50)
    frames = [[head(0.4, center=left), head(-0.4, center=right, side=44)]] * 20
    frames += [[head(0.4, center=right), head(-0.4, center=left, side=44)]] * 20
    found = clips_of(frames, which="all", cuts=[20])
    assert len(found.clips) == 4 and all(np.ptp(clip.angles[:, 0]) < 1e-6 for clip in found.clips)


def test_the_same_face_twice_is_one():
    found = clips_of([[head(score=0.9), head(center=(61, 50), score=0.7)]] * 20)
    assert spans(found) == [(0, 20)] and found.left_out == {}


def test_small_turned_short_and_uncertain_faces_are_counted():
    small = clips_of([[head(side=12)]] * 20)
    assert small.clips == [] and small.left_out == {"too small": 20}
    assert small.reason(CHOICE) == (
        "detections in 20 frames: 20 too small (the largest head's box has 12 pixels, --min-face is 20)"
    )
    turned = clips_of([[head(yaw=0.1 * k)] for k in range(30)], max_yaw=1.65, follow=True)
    assert spans(turned) == [(0, 17)] and turned.left_out == {"turned away": 13}
    uncertain = clips_of([[head(score=0.6)]] * 20)
    assert uncertain.reason(CHOICE) == "detections in 20 frames: 20 uncertain (score below --min-score 0.65)"
    assert clips_of([[head(score=0.4)]] * 20).left_out == {"uncertain": 20}
    assert spans(clips_of([[head(score=0.4)]] * 20, min_score=0.3)) == [(0, 20)]
    away = clips_of([[head(center=(140 + k, 50))] for k in range(30)])
    assert spans(away) == [(0, 21)] and away.left_out == {"outside of the frame": 9}
    assert clips_of([[]] * 20).reason(CHOICE) == "no detection in 20 frames"
    short = clips_of([[head()]] * 15 + [[]] * 20)
    assert short.reason(CHOICE) == "detections in 35 frames: 15 too short (in one place for fewer than 16 frames)"
    assert clips_of([[head()]]).reason(CHOICE) == "1 frame, fewer than 16"
    noise = [{**head(), "points": np.random.default_rng(0).normal(50, 30, [len(NAMES), 3]).tolist()}]
    assert clips_of([noise] * 20).left_out == {"not fitted by a head": 20}


def test_the_summary_adds_up():
    videos = {
        "a": clips_of([[head(roll=0.6)]] * 20 + [[]] * 5),
        "b": clips_of([[head(side=12)]] * 20, cuts=[10]),
        "c": clips_of([[]] * 30),
    }
    assert summary(videos, CHOICE) == [
        "1 clip(s), 20 frames, in 1 of 3 video(s) with 1 scene cut(s)",
        "left out: 35 frames without a detection, 1 video(s) without any",
        "left out: 20 detections too small",
        "in 1 clip(s) the head leans by more than 0.5 rad: --remove-roll turns it upright",
    ]


def test_people_have_boxes_and_no_cameras():
    person = {"score": 0.9, "box": [10, 20, 40, 100]}
    people = parse_video({"size": [160, 120], "frames": [[person]] * 20}, names=0, where="v")
    (clip,) = select_clips(people, [], CHOICE).clips
    assert clip.entry(CHOICE) == {"first": 0, "frames": 20, "box": [-15, 20, 65, 100]}


def test_tracks_prefer_the_nearest():
    frames = [[head(center=(40 + 3 * k, 50)), head(center=(100 - 3 * k, 50))] for k in range(7)]
    tracks, covered = link_tracks(video(frames), min_score=0.5)
    assert [len(track.frames) for track in tracks] == [7, 7] and covered == 0
    steps = [np.diff([detection.points[0, 0] for detection in track.detections]) for track in tracks]
    assert np.allclose(steps[0], steps[0][0]) and np.allclose(steps[1], -steps[0][0])
