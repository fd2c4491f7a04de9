"""Grids, loops and pairs of contents and motions."""

import types
import zlib

import pytest
import torch

from training.inference.cli_options import OWN_PATH, parse_style_mix, path_name
from training.inference.interpolation import lerp, slerp
from training.inference.latents import seed_latents
from training.inference.layouts import SeedCodes, StyleMapping, file_content, join_names, lay_out, shows_several

SIZES = {"z_dim": 6, "motion_dim": 5, "background_dim": 4}


@pytest.fixture
def known():
    return SeedCodes(types.SimpleNamespace(**SIZES))


def mapping(z, c=None, *, truncation_psi=1.0):
    """Three styles of one, two and three times (z + label), shortened."""
    z = z if c is None else z + c
    return z[:, None] * truncation_psi * torch.tensor([1.0, 2.0, 3.0])[None, :, None]


STYLES = StyleMapping(mapping, label=None, truncation_psi=0.5, device="cpu")


def latents(seed, motion=0):
    return seed_latents(seed, motion, **SIZES)


def codes(layout, phase=0.0):
    return layout.codes(phase, STYLES)


def test_codes_of_seeds(known):
    content = known.content(7)
    assert content.name == "seed0007" and content.motion.name == "motion0007" and known.content(7) is content
    assert torch.equal(content.z, latents(7).z) and torch.equal(content.z_bg, latents(7).z_bg)
    assert torch.equal(known.motion(9).z, latents(0, 9).z_motion)
    assert torch.equal(STYLES(content), mapping(latents(7).z, truncation_psi=0.5))
    labelled = StyleMapping(mapping, label=torch.ones(1, 6), truncation_psi=1.0, device="cpu")
    assert torch.equal(labelled(content), mapping(latents(7).z + 1))
    with pytest.raises(ValueError, match="The seed must lie"):
        known.content(2**32)


def test_a_mixed_content_has_the_other_styles_in_its_layers_only(known):
    mixed = known.mix(parse_style_mix("3:5:1-2"), [1, 2])
    assert mixed.name == "mix0003-0005-1-2" and mixed.motion is known.motion(3)
    assert torch.equal(mixed.z_bg, latents(3).z_bg)
    ws = STYLES(mixed)
    assert torch.equal(ws[:, :1], STYLES(known.content(3))[:, :1])
    assert torch.equal(ws[:, 1:], STYLES(known.content(5))[:, 1:])


def test_the_content_of_a_file_is_not_truncated():
    saved = types.SimpleNamespace(ws=torch.randn(3, 6), z_motion=torch.randn(5), z_bg=torch.randn(4))
    content = file_content("/x/my codes.npz", saved)
    assert content.name == "codes-my-codes" and content.motion.name == "motion-my-codes"
    assert torch.equal(STYLES(content), saved.ws[None]) and torch.equal(content.motion.z, saved.z_motion[None])


def test_pairs(known):
    contents = [known.content(seed) for seed in (1, 2)]
    names = [layout.name for layout in lay_out(contents, None, grid=False, interpolate=None)]
    assert names == ["seed0001_motion0001", "seed0002_motion0002"]
    layouts = lay_out(contents, [known.motion(s) for s in (7, 8, 9)], grid=False, interpolate=None)
    assert len(layouts) == 6 and layouts[4].name == "seed0002_motion0008" and not layouts[4].moving
    (row,) = codes(layouts[4])
    assert torch.equal(row.ws, STYLES(contents[1])) and torch.equal(row.z_motion, latents(0, 8).z_motion)
    assert torch.equal(row.z_bg, latents(2).z_bg)


def test_a_grid_has_a_row_for_each_content_and_a_column_for_each_motion(known):
    contents = [known.content(seed) for seed in (1, 4)]
    (layout,) = lay_out(contents, [known.motion(s) for s in (7, 8, 9)], grid=True, interpolate=None)
    assert (layout.rows, layout.columns) == (2, 3)
    assert layout.name == "grid_seed0001+0004_motion0007-0009"
    rows = codes(layout)
    for row, content in zip(rows, (1, 4), strict=True):
        for column, motion in enumerate((7, 8, 9)):
            assert torch.equal(row.ws[column : column + 1], STYLES(known.content(content)))
            assert torch.equal(row.z_motion[column], latents(0, motion).z_motion[0])
            assert torch.equal(row.z_bg[column], latents(content).z_bg[0])
    (square,) = lay_out(contents, None, grid=True, interpolate=None)  # equally many are not paired here
    assert (square.rows, square.columns) == (2, 2) and square.name == "grid_seed0001+0004_motion0001+0004"


def test_a_loop_in_z(known):
    contents = [known.content(seed) for seed in (1, 2, 3)]
    (loop,) = lay_out(contents, [known.motion(9)], grid=False, interpolate="z")
    assert loop.moving and (loop.rows, loop.columns) == (1, 1)
    assert loop.name == "interpolate-z_seed0001-0003_motion0009"
    for phase, first, second, fraction in [(0, 1, 2, 0), (0.5, 2, 3, 0.5), (0.75, 3, 1, 0.25)]:
        (row,) = codes(loop, phase)
        z = slerp(latents(first).z, latents(second).z, fraction)
        assert torch.allclose(row.ws, mapping(z, truncation_psi=0.5), atol=1e-6)
        assert torch.allclose(row.z_bg, slerp(latents(first).z_bg, latents(second).z_bg, fraction), atol=1e-6)
        assert torch.equal(row.z_motion, latents(0, 9).z_motion)


def test_a_loop_in_w_with_motions_of_their_own_pace(known):
    contents = [known.content(1), known.mix(parse_style_mix("2:5:0"), [0])]
    (loop,) = lay_out(contents, [known.motion(seed) for seed in (7, 8, 9)], grid=False, interpolate="w")
    (row,) = codes(loop, 0.25)
    assert torch.allclose(row.ws, lerp(STYLES(contents[0]), STYLES(contents[1]), 0.5))
    assert torch.allclose(row.z_motion, slerp(latents(0, 7).z_motion, latents(0, 8).z_motion, 0.75))


def test_loops_that_cannot_be(known):
    content, mixed = known.content(1), known.mix(parse_style_mix("1:2:0"), [0])
    with pytest.raises(ValueError, match="two or more contents or motions"):
        lay_out([content, content], None, grid=False, interpolate="z")
    with pytest.raises(ValueError, match="no z to interpolate; use w"):
        lay_out([content, mixed], None, grid=False, interpolate="z")
    (loop,) = lay_out([mixed], [known.motion(1), known.motion(2)], grid=False, interpolate="z")
    assert torch.equal(codes(loop, 0.3)[0].ws, STYLES(mixed))  # one content: nothing to interpolate in z


def test_a_sheet_has_a_cell_for_each_video_and_a_shorter_last_row(known):
    contents = [known.content(seed) for seed in range(5)]
    for motions, name, expected in [
        (None, "sheet_seed0000-0004_motion0000-0004", [0, 1, 2, 3, 4]),  # paired one to one
        ([known.motion(9)], "sheet_seed0000-0004_motion0009", [9] * 5),
    ]:
        (sheet,) = lay_out(contents, motions, grid=False, interpolate=None, columns=3)
        assert (sheet.rows, sheet.columns, sheet.name, sheet.moving) == (2, 3, name, False)
        rows = codes(sheet)
        assert [len(row.ws) for row in rows] == [3, 2]
        for i, motion in enumerate(expected):
            cell = rows[i // 3][i % 3]
            assert torch.equal(cell.ws, STYLES(contents[i])) and torch.equal(cell.z_bg, latents(i).z_bg)
            assert torch.equal(cell.z_motion, latents(0, motion).z_motion)
    (pairs,) = lay_out(contents[:2], [known.motion(s) for s in (7, 8, 9)], grid=False, interpolate=None, columns=3)
    (grid,) = lay_out(contents[:2], [known.motion(s) for s in (7, 8, 9)], grid=True, interpolate=None)
    for row, expected in zip(codes(pairs), codes(grid), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(row).values(), vars(expected).values()))
    (wide,) = lay_out(contents[:2], None, grid=False, interpolate=None, columns=4)
    assert (wide.rows, wide.columns) == (1, 2)


@pytest.mark.parametrize(
    "motions, name", [(None, "motion0000-0005"), ([9], "motion0009"), ([4, 5, 6], "motion0004-0006")]
)
def test_a_sheet_of_loops_gives_each_its_own_seeds(known, motions, name):
    contents = [known.content(seed) for seed in range(6)]
    moves = None if motions is None else [known.motion(seed) for seed in motions]
    (sheet,) = lay_out(contents, moves, grid=False, interpolate="z", columns=3)
    assert sheet.moving and (sheet.rows, sheet.columns) == (1, 3)
    assert sheet.name == f"sheet3_interpolate-z_seed0000-0005_{name}"
    (other,) = lay_out(contents, moves, grid=False, interpolate="z", columns=1)
    assert other.name == f"sheet1_interpolate-z_seed0000-0005_{name}"  # passes others in its first column
    for phase in (0, 0.25, 0.8):
        (row,) = codes(sheet, phase)
        for i in range(3):
            own = None if moves is None else moves[i::3] or moves
            (loop,) = lay_out([contents[i], contents[i + 3]], own, grid=False, interpolate="z")
            (expected,) = codes(loop, phase)
            assert all(torch.equal(a, b) for a, b in zip(vars(row[i]).values(), vars(expected).values()))


def test_loops_that_make_no_sheet(known):
    def sheet(count, motions, columns):
        contents = [known.content(seed) for seed in range(count)]
        moves = None if motions is None else [known.motion(seed) for seed in range(motions)]
        return lay_out(contents, moves, grid=False, interpolate="w", columns=columns)

    few = "^each of 3 loops needs two or more contents or motions, 6 in all; give more seeds or fewer columns$"
    for count, motions in [(5, None), (3, None), (2, 5)]:
        with pytest.raises(ValueError, match=few):
            sheet(count, motions, 3)
    for count, motions, name in [(8, None, "8 contents"), (8, 3, "8 contents"), (6, 7, "7 motions")]:
        with pytest.raises(ValueError, match=f"^{name} do not make 3 equal loops; give a multiple of 3, or one$"):
            sheet(count, motions, 3)
    with pytest.raises(ValueError, match="^an interpolation needs two or more contents or motions; give more seeds$"):
        sheet(1, None, 3)
    assert sheet(1, 6, 3)[0].columns == 3


@pytest.mark.parametrize(
    "options",
    [{}, {"grid": True}, {"columns": 2}, {"interpolate": "w"}, {"interpolate": "w", "columns": 1}],
)
def test_different_contents_never_have_one_name(known, options):
    saved = types.SimpleNamespace(ws=torch.zeros(3, 6), z_motion=torch.zeros(5), z_bg=torch.zeros(4))
    contents = [file_content(path, saved) for path in ("a/codes.npz", "b/codes.npz")]
    options = {"grid": False, "interpolate": None, **options}
    message = "^2 contents would be called codes-codes: name the files of codes differently, each once.$"
    for motions in (None, [known.motion(1)], [known.motion(1), known.motion(2)]):
        with pytest.raises(ValueError, match=message):
            lay_out(contents, motions, **options)
    twice = [contents[0], known.content(1), contents[0], known.content(2)]
    assert len(lay_out(twice, None, **options)) == (1 if set(options.values()) - {False, None} else 3)


def test_different_sheets_never_have_one_name(known):
    def sheet(contents, motions):
        contents = [known.content(seed) for seed in contents]
        moves = [known.motion(seed) for seed in motions]
        return lay_out(contents, moves, grid=False, interpolate=None, columns=2)[0]

    assert {sheet(*seeds).name: len(sheet(*seeds).videos) for seeds in [
        ((3, 5, 3, 5), (1, 1, 2, 2)), ((3, 5), (1, 2, 2)), ((3, 5), (1, 2)), ((3, 5), (1, 1)), ((3,), (1, 2)),
        ((3, 5), (1, 2, 4)),
    ]} == {
        "sheet_seed0003+0005+0003+0005_motion0001+0001-0002+0002": 4,
        "sheet_seed0003+0003+0005+0005_motion0001-0002+0001-0002": 4,
        "sheet_seed0003+0005_motion0001-0002": 2,
        "sheet_seed0003+0005_motion0001": 2,
        "sheet_seed0003_motion0001-0002": 2,
        "sheet_seed0003+0005_motion0001-0002+0004": 6,  # all pairs, as of numbers that differ
    }  # fmt: skip


def test_a_loop_that_passes_a_content_twice_has_a_name_of_its_own(known):
    contents = [known.content(seed) for seed in (3, 5, 3, 7)]
    (loop,) = lay_out(contents, [known.motion(1)] * 2, grid=False, interpolate="z")
    assert loop.name == "interpolate-z_seed0003+0005+0003+0007_motion0001"
    (other,) = lay_out([contents[0], contents[1], contents[3]], [known.motion(1)], grid=False, interpolate="z")
    assert other.name == "interpolate-z_seed0003+0005+0007_motion0001"
    (sheet,) = lay_out(contents, None, grid=False, interpolate=None, columns=2)  # has each pair once
    assert sheet.name == "sheet_seed0003+0005+0007_motion0003+0005+0007"


@pytest.mark.parametrize("track", ["rotation_camera_yaw", "front_inverse", OWN_PATH, path_name("a/my path.json")])
def test_grids_and_sheets_are_known_by_their_names(known, track):
    contents, motions = [known.content(seed) for seed in range(4)], [known.motion(seed) for seed in (8, 9)]
    for options in ({"grid": True}, {"columns": 2}, {"columns": 2, "interpolate": "w"}):
        (layout,) = lay_out(contents, motions, **{"grid": False, "interpolate": None, **options})
        assert shows_several(f"{track}_{layout.name}") and shows_several(f"{track}_{layout.name}_stereo.mp4")
    single = types.SimpleNamespace(ws=torch.zeros(3, 6), z_motion=torch.zeros(5), z_bg=torch.zeros(4))
    for content in (contents[0], file_content("my_sheet_1.npz", single)):
        for interpolate in (None, "w"):
            for layout in lay_out([content], motions, grid=False, interpolate=interpolate):
                assert not shows_several(f"rotation_camera_yaw_{layout.name}")
                assert not shows_several(f"path-side_sheet_2_{layout.name}")


def test_names_stay_short():
    assert join_names(["seed0001", "seed0002", "seed0003", "seed0007", "seed12345"]) == "seed0001-0003+0007+12345"
    assert join_names(["seed0001", "mix0001-0002-3"]) == "seed0001+mix0001-0002-3"
    many, numbers = [f"seed{2 * i:04d}" for i in range(100)], "+".join(f"{2 * i:04d}" for i in range(100))
    assert join_names(many) == f"seed0000-to-seed0198-x100-{zlib.crc32(f'seed{numbers}'.encode()):08x}"
    assert join_names([many[0], *many[-2:0:-1], many[-1]]) != join_names(many)
