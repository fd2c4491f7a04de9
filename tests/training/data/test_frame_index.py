"""Listings: what is remembered, and every change that must be noticed."""

import io
import os
import re
import shutil
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from dnnlib import UserError
from training.data import frame_index
from training.data.dataset import VideoPairDataset
from training.data.frame_index import list_files
from training.data.frame_store import FrameStore
from training.dataset_tool.validate import check_dataset


@pytest.fixture(autouse=True)
def memory(tmp_path_factory, monkeypatch):
    """Small listings are remembered too, at once, in a folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(frame_index, "MIN_CACHED", 1)
    monkeypatch.setattr(frame_index, "SETTLE_SECONDS", -1.0)
    return folder / "video-3d-gan" / "listings"


@pytest.fixture
def root(tmp_path):
    for video in ("a/v9", "a/v10", "b"):
        folder = tmp_path / "set" / video
        folder.mkdir(parents=True)
        for frame in range(3):
            Image.new("RGB", (2, 2), (frame, 0, 0)).save(folder / f"{frame}.png")
    (tmp_path / "set" / "movie.mp4").write_bytes(b"")
    return tmp_path / "set"


def content(path):
    store = FrameStore(path)
    return {video.path: [store.frame_name(video, i) for i in range(len(video))] for video in store.videos}


@pytest.fixture
def scans(monkeypatch):
    """Counts the folders that are looked into."""
    seen = []
    original = frame_index._scan
    monkeypatch.setattr(frame_index, "_scan", lambda path: seen.append(path) or original(path))
    return seen


def packed(root, target):
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
        archive.writestr("dataset.json", '{"labels": []}')
    return target


def folder_and_zip(root):
    """A folder and a zip of all its files, listed and then from the cache."""
    target = root.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(root))
    return root, root, target, target


def test_a_folder_is_listed_once(root, scans, memory):
    first = content(root)
    assert list(first) == ["a/v9", "a/v10", "b"] and first["b"] == ["0.png", "1.png", "2.png"]
    assert len(scans) == 5 and len(os.listdir(memory)) == 1
    scans.clear()
    assert content(root) == first and scans == [] and FrameStore(root).movies == ["movie.mp4"]


def test_every_change_of_names_is_noticed(root):
    def changed(change):
        before = content(root)
        assert content(root) == before  # now it is remembered
        change()
        after = content(root)
        shutil.rmtree(os.path.join(os.environ["XDG_CACHE_HOME"], "video-3d-gan"))
        assert after == content(root) != before

    changed(lambda: (root / "b" / "3.png").write_bytes(b""))
    changed(lambda: (root / "b" / "3.png").unlink())
    changed(lambda: (root / "a" / "v9" / "0.png").rename(root / "a" / "v9" / "00.png"))
    changed(lambda: (root / "b").rename(root / "c"))
    changed(lambda: shutil.copytree(root / "c", root / "a" / "new"))
    changed(lambda: shutil.rmtree(root / "a" / "new"))
    (root.parent / "elsewhere").mkdir()
    (root.parent / "elsewhere" / "9.png").write_bytes(b"")
    changed(lambda: (root / "link").symlink_to(root.parent / "elsewhere"))
    changed(lambda: (root.parent / "elsewhere" / "10.png").write_bytes(b""))  # behind the link


def test_times_that_are_set_back_do_not_deceive(root):
    before = content(root)
    status = os.stat(root / "b")
    (root / "b" / "3.png").write_bytes(b"")
    os.utime(root / "b", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content(root) != before


def test_fresh_folders_are_not_remembered(root, monkeypatch, memory):
    """A second change within the clock's resolution would not show."""
    monkeypatch.setattr(frame_index, "SETTLE_SECONDS", 2.0)
    content(root)
    assert not memory.exists()
    later = time.time() + 10
    monkeypatch.setattr(time, "time", lambda: later)
    content(root)
    assert len(os.listdir(memory)) == 1


def test_small_sets_are_not_remembered(root, monkeypatch, memory):
    monkeypatch.setattr(frame_index, "MIN_CACHED", 10)
    content(root)
    assert not memory.exists()


def test_links_that_lead_nowhere(root, tmp_path):
    """They are named, and what they stand for is there as soon as its disk is."""
    (root / "c").symlink_to(tmp_path / "disk")
    (root / "a" / "d10").symlink_to(tmp_path / "disk")
    expected = "2 links, such as 'a/d10', lead nowhere: their videos are left out"
    assert list_files(str(root)).dangling == ["a/d10", "c"] and FrameStore(root).dangling == expected
    (root / "a" / "d10").unlink()
    expected = "the link 'c' leads nowhere: its videos are left out"
    assert FrameStore(root).dangling == expected
    assert VideoPairDataset(path=str(root), resolution=2, nframes=2).notes[-1] == f"'{root}': {expected}."
    assert check_dataset(str(root), nframes=2).problems == [expected]
    shutil.copytree(root / "b", tmp_path / "disk")
    assert list(content(root)) == ["a/v9", "a/v10", "b", "c"] and FrameStore(root).dangling is None
    for path in (root / "a", root / "b", tmp_path / "disk"):
        shutil.rmtree(path)
    (root / "movie.mp4").unlink()
    with pytest.raises(UserError, match="holds no images .*; the link 'c' leads nowhere: its videos are left out: exp"):
        FrameStore(root).require_videos()


def test_folders_of_systems_are_no_videos(root, tmp_path):
    """Thumbnails of network storage, which lie in folders named as the images, and deleted frames."""
    (root / "movie.mp4").unlink()
    expected = content(root)
    for folder in ("a/v9/@eaDir/0.png", "#recycle/a/v9", "$RECYCLE.BIN/S-1-5/v9", "lost+found"):
        shutil.copytree(root / "b", root / folder)
    assert content(root) == expected and content(packed(root, tmp_path / "set.zip")) == expected
    assert list_files(str(root)).folders[0] == "a/v9" and not FrameStore(root).notes()


def test_replaced_frames_are_read_as_they_are(root):
    store = FrameStore(root)
    Image.new("RGB", (2, 2), (77, 0, 0)).save(root / "b" / "0.png")
    for one in (store, FrameStore(root)):
        assert one.read_frame(one.videos[2], 0).getpixel((0, 0)) == (77, 0, 0)


def test_zips_are_listed_once_and_anew_when_they_change(root, tmp_path, monkeypatch, memory):
    file = packed(root, tmp_path / "set.zip")
    first = content(file)
    with monkeypatch.context() as patch:
        patch.setattr(frame_index, "_index_zip", None)  # it must not be needed
        assert content(file) == first == content(root)
        store = FrameStore(file)
        assert store.read_frame(store.videos[1], 2).getpixel((0, 0)) == (2, 0, 0)
        assert store.read_bytes("dataset.json") == b'{"labels": []}'
    shutil.rmtree(root / "b")
    assert content(packed(root, file)) == content(root) != first


def test_suffixes_that_are_added_later_are_found(root, tmp_path, monkeypatch, memory):
    """Remembered lists depend on the suffixes of frames and videos."""
    (root / "b" / "3.raw").write_bytes(b"x")
    (root / "other.npy").write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in root.rglob("*.*"):
            archive.write(file, file.relative_to(root))
    for path in (root, tmp_path / "set.zip"):
        before = list_files(str(path))
        with monkeypatch.context() as patch:
            patch.setattr(frame_index, "MOVIE_SUFFIXES", (*frame_index.MOVIE_SUFFIXES, ".npy"))
            assert list_files(str(path)).movies == [*before.movies, "other.npy"]
            patch.setattr(frame_index, "IMAGE_SUFFIXES", (*frame_index.IMAGE_SUFFIXES, ".raw"))
            assert len(list_files(str(path)).names) == len(before.names) + 1
        assert list_files(str(path)).movies == before.movies
    assert len(os.listdir(memory)) == 2


def test_broken_memories_are_ignored(root, memory):
    expected = content(root)
    (file,) = memory.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        assert content(root) == expected
    np.savez(file, version=np.array(1))
    assert content(root) == expected


def test_a_cache_that_cannot_be_written_does_no_harm(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert content(root) == content(root)


def test_zip_members_are_checked(root, tmp_path):
    file = packed(root, tmp_path / "set.zip")
    data = file.read_bytes()
    place = data.index(b"IDAT")
    file.write_bytes(data[:place] + b"XXXX" + data[place + 4 :])
    store = FrameStore(file)
    with pytest.raises(UserError, match="its checksum differs"):
        store.read_frame(store.videos[1], 0)  # a/v10 comes first in the file


def test_zips_that_cannot_be_read_are_refused_before_anything_is_made(root, tmp_path):
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w") as archive:
        archive.write(root / "b" / "0.png", "v/0.png")
        archive.write(root / "b" / "0.png", "v/1.png", compress_type=zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match=r"1 of 2 images in '.*lzma.zip' are encrypted, or compressed in another way"):
        FrameStore(tmp_path / "lzma.zip")
    whole = packed(root, tmp_path / "set.zip")
    (tmp_path / "half.zip").write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"half.zip' is only the first part of a zip file: copy, download or pack"):
        FrameStore(tmp_path / "half.zip")


def test_members_of_one_name(root, tmp_path):
    """The last one counts, as where a zip is unpacked, and others than copies of it are told."""
    first, second = (root / "b" / "0.png").read_bytes(), (root / "b" / "1.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for name, data in (("v/0.png", first), ("v\\0.png", second), ("v/1.png", first), ("v/1.png", first)):
            archive.writestr(name, data)
    for _ in range(2):  # listed, and from the cache
        store = FrameStore(tmp_path / "twice.zip")
        assert store.notes() == ["1 entries of the zip are left out: later ones have the same names"]
        assert store.frame_bytes(store.videos[0], 0) == second and len(store.videos[0]) == 2


def test_members_of_one_name_and_size(tmp_path):
    """Of BMP files, which have no compression, the sizes tell nothing."""
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for level in (10, 200):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (level,) * 3).save(buffer, "BMP")
            archive.writestr("v/0.bmp", buffer.getvalue())
    assert FrameStore(tmp_path / "twice.zip").notes() == [
        "1 entries of the zip are left out: later ones have the same names"
    ]


def test_members_with_backslashes(root, tmp_path):
    """As tools on Windows have written them."""
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        archive.writestr("a\\v9\\", "")
        for file in root.rglob("*.png"):
            archive.writestr(str(file.relative_to(root)).replace("/", "\\"), file.read_bytes())
        archive.writestr(".hidden\\0.png", b"")
        archive.writestr("a\\..\\..\\0.png", b"")
    store = FrameStore(tmp_path / "windows.zip")
    assert content(tmp_path / "windows.zip") == content(root) and store.unsafe == 1
    assert store.read_frame(store.videos[0], 1).size == (2, 2)


def test_members_with_empty_or_dotted_folders(root, tmp_path):
    """'a//b' and 'a/./b' are unpacked as 'a/b'."""
    with zipfile.ZipFile(tmp_path / "joined.zip", "w") as archive:
        for file, between in zip(sorted(root.rglob("*.png")), ("//", "/./", "/.//./") * 3):
            archive.writestr(str(file.relative_to(root)).replace("/", between), file.read_bytes())
        archive.writestr("/b/9.png", b"")  # a path from the root of the system still leads out
    assert content(tmp_path / "joined.zip") == content(root) and FrameStore(tmp_path / "joined.zip").unsafe == 1


def test_colons_in_names_of_members(tmp_path):
    """As in a folder."""
    for folder in ("clip 00:00:01", "b:1", "c/d:2"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "set" / folder / "0.png")
    zipped = packed(tmp_path / "set", tmp_path / "set.zip")
    assert content(zipped) == content(tmp_path / "set") and len(FrameStore(zipped).videos) == 3
    assert FrameStore(zipped).unsafe == 0


def test_other_images_and_movies_beside_frames_are_told(root, tmp_path):
    for name in ("3.avif", "4.PPM", "mask.npz"):
        (root / "b" / name).write_bytes(b"")
    (root / "preview.avif").write_bytes(b"")  # not among frames
    for path in folder_and_zip(root):
        assert FrameStore(path).notes() == [
            "2 images of other formats than .png .jpg .jpeg .webp .bmp .tif .tiff are left out: convert them",
            "1 encoded videos (movie.mp4) are left out: `python -m training.dataset_tool` turns them into frames",
        ]
    (tmp_path / "other" / "v").mkdir(parents=True)
    (tmp_path / "other" / "v" / "0.avif").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no images \(.*\); 1 images of other formats are not read: expected"):
        FrameStore(tmp_path / "other").require_videos()


def test_archives_and_files_of_unknown_kinds_are_told_where_videos_are_read(root, tmp_path):
    for name in (
        "a.unknown",
        "b/b.unknown",
        "b/more.zip",
        "more.tar",
        "b/nothing",
        "LICENSE",
        "b/Readme",
        "b/SHA256SUMS",
        "note.txt",
        "b/0.json",
        ".hidden.zip",
    ):
        (root / name).write_bytes(b"")
    for path in folder_and_zip(root):
        assert FrameStore(path).notes(movies_are_read=True) == [
            "2 archives (.tar, .zip) are left out: unpack them if they hold videos",
            "3 files of unknown kinds (no suffix, .unknown) are left out: if they are videos, give each a usual "
            "suffix, such as .mp4 or .mkv",
        ]
    (tmp_path / "other").mkdir()
    for number in range(6):
        (tmp_path / "other" / f"a.u{number}").write_bytes(b"")
    message = r"; 6 files of unknown kinds \(.u0, .u1, .u2, .u3, .u4, …\) are not read: expected"
    with pytest.raises(UserError, match=message):
        FrameStore(tmp_path / "other").require_videos()


def test_frames_in_two_formats_are_told(root):
    """As after a conversion to another format: every frame would be there twice, and all motion half as fast."""
    (root / "movie.mp4").unlink()
    for frame in range(3):
        Image.new("RGB", (2, 2)).save(root / "b" / f"{frame}.JPG")
    expected = (
        "3 frames have the name of another one with another suffix, such as 'b/0.JPG' and '0.png', and all of them are "
        "used: if they show the same, remove one of each"
    )
    for path in folder_and_zip(root):
        assert FrameStore(path).notes() == [expected]
    assert f"'{root}': {expected}." in VideoPairDataset(path=str(root), resolution=2, nframes=2).notes
    assert expected in check_dataset(str(root), nframes=2).notes


def test_names_without_a_suffix_are_no_twins(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_index, "IMAGE_SUFFIXES", ("",))
    (tmp_path / "set" / "v").mkdir(parents=True)
    for name in ("0", "1", "1.png"):
        (tmp_path / "set" / "v" / name).write_bytes(b"")
    store = FrameStore(tmp_path / "set")
    assert store.twins == 1 and "1 frames have the name of another one" in store.notes()[0]
    (tmp_path / "set" / "v" / "1.png").unlink()
    store = FrameStore(tmp_path / "set")
    assert store.twins == 0 and store.notes() == []


def test_times_that_are_not_in_order_are_told(root):
    """As written by f"{t}.png": 0.105 has more decimals than 0.21, and comes after it as 1.10 does after 1.2."""
    (root / "movie.mp4").unlink()
    shutil.rmtree(root / "b")
    (root / "b").mkdir()
    for frame in range(16):
        Image.new("RGB", (2, 2)).save(root / "b" / f"{round(0.105 * frame, 3)}.png")
    expected = (
        "the frames of 1 videos are in the order of the integers in their names, 'b/0.84.png' before '0.105.png': if "
        "these are decimal numbers, write all of them with the same number of decimals, and none below 0"
    )
    for path in folder_and_zip(root):
        assert FrameStore(path).notes() == [expected]
    assert f"'{root}': {expected}." in VideoPairDataset(path=str(root), resolution=2, nframes=2).notes
    assert expected in check_dataset(str(root), nframes=2).notes


@pytest.mark.parametrize("packed", [False, True])
def test_annotations_in_another_folder_are_told(root, tmp_path, packed):
    """A folder that was packed instead of its content, and the tool's folder of videos without what lies beside it."""
    (root / "dataset.json").write_text('{"labels": [["a/v9", 0], ["a/v10", 1], ["b", 1]]}')
    outer = tmp_path / "outer"
    shutil.copytree(root, outer / "set")
    if packed:
        outer = shutil.make_archive(str(outer), "zip", outer)
    expected = f"The dataset.json in '{outer}/set' is not used, only one in the root would be: give that folder itself"
    with pytest.raises(UserError, match=f"Or train without labels. {re.escape(expected)}, or a zip of its content.$"):
        VideoPairDataset(path=str(outer), resolution=2, nframes=2, use_labels=True)
    assert any(note.startswith(expected) for note in check_dataset(str(outer), nframes=2).notes)
    root.rename(root.with_name("videos"))
    shutil.move(root.with_name("videos") / "dataset.json", tmp_path / "dataset.json")
    with pytest.raises(UserError, match=f"The dataset.json in '{re.escape(str(tmp_path))}' is not used"):
        VideoPairDataset(path=str(root.with_name("videos")), resolution=2, nframes=2, use_labels=True)


def test_tar_files_are_no_frames(tmp_path):
    (tmp_path / "shard-000000.tar").write_bytes(b"")
    (tmp_path / "manifest.json").write_text('{"format": "square-video-clips"}')
    for path in (tmp_path, tmp_path / "shard-000000.tar", tmp_path / "shard-{000000..000003}.tar"):
        with pytest.raises(UserError, match="': only training reads tar files: give a folder or zip of frames"):
            FrameStore(path).require_videos()


@pytest.mark.parametrize(
    "names, shown",
    [
        (["a.tar"], "a.tar"),
        (["s-08.tar", "s-09.tar", "s-10.tar"], "s-{08..10}.tar"),
        (["9.tar", "10.tar"], "{9..10}.tar"),
        (["s-08.tar", "s-10.tar"], "NAME-{000000..000010}.tar"),
        (["a.tar", "b.tar"], "NAME-{000000..000010}.tar"),
    ],
)
def test_a_folder_of_tar_files_without_a_manifest(tmp_path, names, shown):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    expected = (
        f"'{tmp_path}' holds tar files but no manifest.json of the dataset tool: for training and --check give their "
        f"names, as '{tmp_path}/{shown}'; for anything else a folder or zip of frames of the same videos, as `python "
        "-m training.dataset_tool SOURCE OUT.zip` makes."
    )
    for read in (
        lambda: VideoPairDataset(path=tmp_path, resolution=4),
        lambda: check_dataset(str(tmp_path)),
        lambda: FrameStore(tmp_path).require_videos(),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
            read()


def test_a_video_is_no_set_of_frames(tmp_path):
    (tmp_path / "a.MOV").write_bytes(b"")
    expected = f"a.MOV' is an encoded video: turn it into frames with `python -m training.dataset_tool '{tmp_path}/a.MO"
    with pytest.raises(UserError) as error:
        FrameStore(tmp_path / "a.MOV")
    assert expected in str(error.value)


@pytest.mark.parametrize("run", ["", "00000-clips"])
def test_previews_of_a_run_are_no_videos(tmp_path, run):
    for frame in ("images/fakes_random_000000.png", "other/images/0.png"):
        (tmp_path / run / frame).parent.mkdir(parents=True)
        (tmp_path / run / frame).write_bytes(b"")
    FrameStore(tmp_path).require_videos()  # folders of images as any
    (tmp_path / run / "training_options.yaml").touch()
    with pytest.raises(UserError, match="its previews would be taken for videos: give a folder of videos") as caught:
        FrameStore(tmp_path).require_videos()
    assert str(caught.value).startswith(f"'{tmp_path / run}' is the folder of a training run")


def test_pipes_end_nothing(tmp_path):
    """Opening one would wait for its writer."""
    (tmp_path / "set" / "v").mkdir(parents=True)
    for pipe in (tmp_path / "set" / "v" / "0.png", tmp_path / "set.zip", tmp_path / "set" / "dataset.json"):
        os.mkfifo(pipe)
    store = FrameStore(tmp_path / "set")
    with pytest.raises(UserError, match=r"0\.png' \(it is not a regular file\): replace it or remove the video"):
        store.read_frame(store.videos[0], 0)
    with pytest.raises(UserError, match=r"dataset\.json' \(it is not a regular file\): repair or remove it"):
        store.root_file("dataset.json")
    with pytest.raises(UserError, match=r"set\.zip' is neither a folder nor a zip file"):
        FrameStore(tmp_path / "set.zip")


def test_members_with_a_dot_before_their_path(root, tmp_path):
    with zipfile.ZipFile(tmp_path / "dots.zip", "w") as archive:
        for file in root.rglob("*.png"):
            archive.writestr(zipfile.ZipInfo(f"./{file.relative_to(root)}"), file.read_bytes())
        archive.writestr(zipfile.ZipInfo("./dataset.json"), "{}")
        archive.writestr(zipfile.ZipInfo("./.hidden/0.png"), b"")
        archive.writestr(zipfile.ZipInfo("./../0.png"), b"")
    store = FrameStore(tmp_path / "dots.zip")
    assert content(tmp_path / "dots.zip") == content(root) and store.unsafe == 1
    assert store.read_bytes("dataset.json") == b"{}" and store.read_frame(store.videos[0], 1).size == (2, 2)


def test_members_that_no_single_call_reads(root, tmp_path, monkeypatch):
    """Linux reads at most 2 GiB at a time; here it is 50 bytes."""
    file = packed(root, tmp_path / "set.zip")
    original = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: original(descriptor, min(size, 50), offset))
    store = FrameStore(file)
    assert [store.read_frame(store.videos[2], k).getpixel((0, 0))[0] for k in range(3)] == [0, 1, 2]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="Cannot read the frame"):
        FrameStore.read_frame(store, store.videos[2], 2)


def test_listing_reads_no_frame(root, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    assert len(list_files(str(root)).names) == 9


def test_names_in_zips_that_do_not_say_that_they_are_utf8(tmp_path):
    """As Info-ZIP's zip writes them: the flag of the members is not set."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("videos/Café/0.png", b"x")
        archive.writestr("videos/plain/0.png", b"x")
    content = (tmp_path / "a.zip").read_bytes()
    name = "videos/Café/0.png".encode()
    assert content.count(name) == 2
    for offset, header in ((6, b"PK\x03\x04"), (8, b"PK\x01\x02")):
        place = content.index(name) if header == b"PK\x03\x04" else content.rindex(name)
        start = content.rindex(header, 0, place) + offset
        content = content[:start] + b"\0\0" + content[start + 2 :]
    (tmp_path / "b.zip").write_bytes(content)
    assert "Café" not in "".join(zipfile.ZipFile(tmp_path / "b.zip").namelist())
    for file in ("a.zip", "b.zip"):
        assert [video.path for video in FrameStore(tmp_path / file).videos] == ["videos/Café", "videos/plain"]
