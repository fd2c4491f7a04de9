"""The geometry command on a generator whose foreground is a known body, and its errors."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dnnlib import UserError
from renderer.mesh import __main__ as mesh_command
from renderer.mesh.extraction import extract_surface
from renderer.mesh.trained_volume import TrainedVolume
from tests.full_memory import REASON, loading_message, no_memory
from tests.renderer.ball import GROWTH, RADIUS, Ball, build, load_instead, put_ball, runs_of
from tests.small_network import small_generator
from training.inference import meshes
from training.inference.meshes import PREVIEW_SIZE, GeneratedMeshes
from training.inference.video_generator import VideoGenerator


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def generator(untouched, monkeypatch):
    return put_ball(untouched, monkeypatch, slope=800)


@pytest.fixture
def run(generator, tmp_path, monkeypatch):
    load_instead(generator, monkeypatch)
    return runs_of(mesh_command.main, tmp_path, "--resolution", "48")


def test_a_ball_that_grows_comes_out_with_its_size_and_colours_and_covers_the_opacity(run):
    names = run("--seeds", "3", "--times", "0,1", "--format", "ply", "--check", "--level", "25")
    stem = "geometry_seed0003_motion0003"
    assert names == [f"{stem}.json", f"{stem}_0000.ply", f"{stem}_0001.ply"]
    about = json.loads((run.out / f"{stem}.json").read_text())
    assert about["level"] == 25 and [row["time"] for row in about["meshes"]] == [0, 1]
    for row, radius in zip(about["meshes"], (RADIUS, RADIUS + GROWTH)):
        mesh = trimesh.load(run.out / row["file"], process=False)
        assert mesh.is_watertight and mesh.volume > 0
        assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - radius).max() < about["cell"] / 2
        assert row["enclosed_volume"] == pytest.approx(mesh.volume, rel=1e-4)
        assert row["area"] == pytest.approx(mesh.area, rel=1e-4)
        assert row["high"] == pytest.approx([radius] * 3, abs=about["cell"])
        expected = (mesh.vertices * [0, 8, 8] + [0.3, 0, 0] + 1) * 127.5
        difference = np.abs(mesh.visual.vertex_colors[:, :3] - expected)
        assert difference[:, 0].max() <= 1 and difference[mesh.vertices[:, 0] > 0].max() < 6
        assert len(row["overlap"]) == 5 and min(row["overlap"]) > 0.85
    assert "outline IoU from left to right" in run.output


def test_a_preview_shows_the_rendered_views_the_colours_and_the_shape(run):
    names = run("--level", "25", "--preview")
    assert "geometry_seed0000_motion0000_0000.png" in names
    picture = np.asarray(Image.open(run.out / "geometry_seed0000_motion0000_0000.png")).astype(int)
    size = PREVIEW_SIZE
    assert picture.shape == (3 * size, 3 * size, 3)
    middle = picture[size + size // 2, size + size // 2]  # where y = z = 0
    expected = np.array([0.3, 0, 0]) * 127.5 + 127.5
    assert np.abs(middle - expected).max() < 8
    assert picture[2 * size + size // 2, size + size // 2].min() > 230 and (picture[size, size] == 255).all()


def test_the_level_is_found_where_the_field_turns_opaque(run):
    run("--times", "0.5", "--check")
    about = json.loads((run.out / "geometry_seed0000_motion0000.json").read_text())
    assert 0.5 < about["level"] < 50
    assert min(about["meshes"][0]["overlap"]) > 0.9


def test_the_level_is_matched_at_times_of_the_whole_video(generator, monkeypatch):
    seen, original = [], meshes.point_field
    monkeypatch.setattr(meshes, "point_field", lambda *given: seen.append(given[-1]) or original(*given))
    maker = GeneratedMeshes(generator, resolution=8)
    maker.level(VideoGenerator(generator).codes(0), [i / 19 for i in range(20)], name="")
    assert seen == [i / 19 for i in range(0, 20, 3)]


def test_a_sequence_is_one_file(run):
    names = run("--seeds", "1", "--motion_seeds", "5", "--time_steps", "3", "--sequence", "--level", "25")
    assert names == ["geometry_seed0001_motion0005.glb", "geometry_seed0001_motion0005.json"]
    scene = trimesh.load(run.out / names[0])
    sizes = sorted(float(mesh.extents.max()) for mesh in scene.geometry.values())
    cell = json.loads((run.out / names[1]).read_text())["cell"]
    assert sizes == pytest.approx([2 * RADIUS, 2 * RADIUS + GROWTH, 2 * RADIUS + 2 * GROWTH], abs=cell / 2)
    note = "--sequence: the animation has one time step, so nothing moves; --time_steps N gives it more."
    assert note not in run.output
    run("--seeds", "1", "--motion_seeds", "5", "--sequence", "--resolution", "12", "--level", "25")
    assert note in run.output


@pytest.fixture
def conditional(run, monkeypatch):
    """A generator of three classes in place of the ball."""
    prior = {"peak": 60, "radius": 0.06}  # for a surface
    generator = small_generator(c_dim=3, foreground={"density_prior": prior}).requires_grad_(False)
    load_instead(generator, monkeypatch)
    return VideoGenerator(generator)


def test_codes_of_a_file_give_the_mesh_of_their_seeds(run, conditional, tmp_path):
    """No class or truncation is needed: the file has the styles. A motion seed replaces its motion."""
    path, few = str(tmp_path / "my clip.npz"), ["--resolution", "12", "--level", "20", "--format", "ply"]
    conditional.save_codes(path, conditional.codes(seed=3, motion_seed=5, class_idx=2, truncation_psi=0.7))
    run("--seeds", "3", "--motion_seeds", "5,6", "--class_idx", "2", "--truncation_psi", "0.7", *few)
    run("--codes", path, *few)
    names = run("--codes", path, "--motion_seeds", "6", *few)
    own, other = "geometry_codes-my-clip_motion-my-clip", "geometry_codes-my-clip_motion0006"
    of_seeds = ["geometry_seed0003_motion0005", "geometry_seed0003_motion0006"]
    assert names == sorted(f"{stem}{end}" for stem in (own, other, *of_seeds) for end in (".json", "_0000.ply"))
    meshes = [(run.out / f"{stem}_0000.ply").read_bytes() for stem in (own, of_seeds[0], other, of_seeds[1])]
    assert meshes[0] == meshes[1] != meshes[2] == meshes[3]
    about = {stem: json.loads((run.out / f"{stem}.json").read_text()) for stem in (own, other, *of_seeds)}
    for stem, found in about.items():
        assert [row.pop("file") for row in found["meshes"]] == [f"{stem}_0000.ply"]
    figures = {name: about[of_seeds[0]][name] for name in ("level", "volume", "cell", "views", "meshes")}
    assert about[of_seeds[0]] == {"seed": 3, "motion_seed": 5} | figures
    assert about[own] == {"codes": path} | figures
    assert about[other] == {"codes": path, "motion_seed": 6} | figures | {"meshes": about[of_seeds[1]]["meshes"]}


def test_seeds_beside_codes_need_a_class(run, conditional, tmp_path):
    path, few = str(tmp_path / "a.npz"), ["--resolution", "8", "--level", "20"]
    conditional.save_codes(path, conditional.codes(seed=3, class_idx=2))
    with pytest.raises(UserError, match=r"^--class_idx: this generator needs the number of a class, 0 to 2\.$"):
        run("--codes", path, "--seeds", "1", *few)
    names = run("--codes", path, "--seeds", "1", "--class_idx", "0", *few)
    assert names[1::2] == ["geometry_codes-a_motion-a_0000.glb", "geometry_seed0001_motion0001_0000.glb"]


def test_codes_of_another_network_are_told_from_its_own(run, conditional, tmp_path):
    path, few = str(tmp_path / "a.npz"), ["--resolution", "8", "--level", "20"]
    conditional.save_codes(path, conditional.codes(seed=3, class_idx=2))
    run("--codes", path, *few)
    assert "warning" not in run.output
    conditional.network.mapping.layers[0].bias.add_(1)
    run("--codes", path, *few)
    assert (
        f"warning: the codes in {path} were fitted to another network; they may look different here."
        in run.output.splitlines()
    )


def test_two_files_of_codes_of_one_name(run, generator, tmp_path):
    G, paths = VideoGenerator(generator), [str(tmp_path / folder / "codes.npz") for folder in "ab"]
    for path in paths:
        Path(path).parent.mkdir()
        G.save_codes(path, G.codes(seed=[3]))
    message = "2 contents would be called codes-codes: name the files of codes differently, each once."
    with pytest.raises(UserError, match=f"^{message}$"):
        run("--codes", paths[0], "--codes", paths[1])
    assert not run.out.exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--sequence", "--format", "ply"], "--sequence: only glb files can be animated"),
        (["--fps", "8"], "--fps is the rate of a sequence: add --sequence"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(run, words, message):
    with pytest.raises(UserError, match=message):
        run(*words)
    assert not run.out.exists()


def test_a_full_memory_is_one_line(run, generator, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(generator.mapping, "forward", no_memory)  # libraries take their memory at their first call
        with pytest.raises(UserError) as caught:
            run()
    assert str(caught.value) == loading_message(run.out.parent / "network.pt")
    monkeypatch.setattr(meshes, "sample", no_memory)
    with pytest.raises(UserError) as caught:
        run()
    assert str(caught.value) == f"The memory is full ({REASON}). Lower --chunk or --resolution."
    assert not run.out.exists()


def test_no_surface_at_that_level(run):
    density = r"the density is nowhere in the trained volume above (50|49\.\d+)"
    with pytest.raises(UserError, match=rf"no surface at time 0.5: {density}, and the level is 51\.$"):
        run("--level", "51")
    assert not run.out.exists()


def test_density_outside_the_trained_volume_makes_no_surface_and_is_not_named(run, generator, monkeypatch):
    volume = TrainedVolume(generator.camera_prior, near=generator.settings.near, far=generator.settings.far)

    def denser_outside(self, points, directions):
        density = torch.where(volume.signed_distance(points.reshape(-1, 3)).reshape(points.shape[:-1]) > 0, 20, 100)
        density = torch.where(points[..., 2] > 0.1, torch.nan, density)  # counts as empty
        return density, (points.new_zeros([*points.shape[:-1], 3 + self.feature_dim]),)

    monkeypatch.setattr(Ball, "__call__", denser_outside)
    message = "There is no surface at time 0.5: the density is nowhere in the trained volume above 20, and the level is"
    with pytest.raises(UserError, match=rf"{message} 51\.$"):
        run("--level", "51")


def test_no_foreground_at_all(run, generator, monkeypatch):
    def nothing(self, points, directions):
        return points[..., 0] * 0, (points.new_zeros([*points.shape[:-1], 3 + self.feature_dim]),)

    monkeypatch.setattr(Ball, "__call__", nothing)
    with pytest.raises(UserError, match="No ray of geometry_seed0000_motion0000 is half opaque"):
        run()


def test_steps_of_an_earlier_and_longer_call_are_removed(run):
    few, stem = ["--resolution", "16", "--level", "25"], "geometry_seed0000_motion0000"
    run(*few, "--time_steps", "3", "--preview", "--seeds", "0-1")
    other = sorted(path.name for path in run.out.glob("geometry_seed0001_*"))
    names = run(*few, "--time_steps", "2", "--preview")
    steps = [f"{stem}_000{i}.{suffix}" for i in range(2) for suffix in ("glb", "png")]
    assert names == [f"{stem}.json", *steps, *other]
    pictures = [name for name in steps if name.endswith("png")]
    assert run(*few, "--time_steps", "2", "--sequence") == [f"{stem}.glb", f"{stem}.json", *steps, *other]
    assert run(*few, "--times", "0") == [f"{stem}.glb", f"{stem}.json", f"{stem}_0000.glb", *pictures, *other]


def test_videos_and_times_without_a_surface_do_not_keep_the_others_from_being_written(run, monkeypatch):
    stems = [f"geometry_seed{seed:04d}_motion{seed:04d}" for seed in range(3)]
    calls = []

    def extract(*arguments, **options):
        calls.append(None)
        return None if len(calls) in (2, 3, 4) else extract_surface(*arguments, **options)

    monkeypatch.setattr("training.inference.meshes.extract_surface", extract)
    words = ["--seeds", "0-2", "--times", "0,1", "--level", "25"]
    with pytest.raises(UserError, match=rf"Not all meshes .*: {stems[0]}: .* at time 1: .* 2 further ones are listed"):
        run(*words)
    names = [f"{stems[0]}.json", f"{stems[0]}_0000.glb"]
    names += [f"{stems[2]}.json", f"{stems[2]}_0000.glb", f"{stems[2]}_0001.glb"]
    assert sorted(path.name for path in run.out.iterdir()) == names
    about = json.loads((run.out / names[0]).read_text())
    assert [(row["time"], row["file"]) for row in about["meshes"]] == [(0, names[1])]
    calls.clear()
    shutil.rmtree(run.out)
    with pytest.raises(UserError, match="Not all meshes"):
        run(*words, "--sequence", "--preview")  # a sequence without one of its steps would run too fast
    assert sorted(path.name for path in run.out.iterdir()) == [
        *(f"{stems[2]}.{suffix}" for suffix in ("glb", "json")),
        *(f"{stems[2]}_000{i}.png" for i in range(2)),
    ]


def test_missing_packages_are_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(UserError, match="pip install scikit-image trimesh"):
        run()
    assert not run.out.exists()
