"""Checkpoints from web addresses, Google Drive and the Hub: downloaded once, checked, and read as data."""

import concurrent.futures
import fnmatch
import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import click
import pytest

import generate
from dnnlib import UserError
from tests.small_network import save_small_run
from training.checkpoints.sources import is_remote, local_checkpoint, upload_folder
from training.inference.video_generator import load_generator

ROOT = Path(__file__).resolve().parents[3]
DRIVE = "https://drive.google.com/file/d/1JlYxZH5UPFov9-bLv7cqXn-3_EqWGQgJ"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with a snapshot, and what servers send in the place of one."""
    folder = tmp_path_factory.mktemp("files")
    save_small_run(folder)
    (folder / "page.pkl").write_text("<!DOCTYPE html><html>Sign in</html>")
    (folder / "lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4\n")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "error.pt").write_text('{"error": "rate limit"}')
    return folder


class Server(http.server.ThreadingHTTPServer):
    """A web server on this machine that counts the files that it sends."""

    def __init__(self, folder: Path):
        owner = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                owner.sent.append(self.path)
                super().do_GET()

            def log_message(self, *arguments):
                pass

        self.sent: list[str] = []
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Server(files) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def snapshot(folder: Path) -> Path:
    return next(folder.glob("network-snapshot-*"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "source, remote",
    [
        ("https://host/a.pkl", True),
        ("HTTP://host/a", True),
        ("hf://user/name", True),
        ("user/name", True),
        ("user/name.pkl", False),
        ("/user/name", False),
        ("./name", False),
        ("name", False),
        ("a/b/c", False),
        ("tests/name", False),  # the folder is there: a mistyped path
        ("tests/training", False),
    ],
)
def test_what_is_remote(source, remote, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert is_remote(source) is remote


def test_local_paths_stay_as_they_are(tmp_path):
    assert local_checkpoint(tmp_path) == tmp_path
    assert local_checkpoint("nowhere.pkl") == Path("nowhere.pkl")


def test_processes_that_ask_at_once_share_a_download(files, server):
    """As those of torchrun do, each of which checks the options."""
    address = f"{server.url}/{snapshot(files).name}"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # locks are those of open files, of threads as of processes
        assert len(set(pool.map(local_checkpoint, [address] * 4))) == 1
    assert len(server.sent) == 1


def test_a_web_address_is_fetched_once(files, server):
    name = snapshot(files).name
    path = local_checkpoint(f"{server.url}/{name}")
    assert path.name == name and path.read_bytes() == snapshot(files).read_bytes()
    assert local_checkpoint(f"{server.url}/{name}") == path
    assert local_checkpoint(f"{server.url}/{name}#sha256={digest(path)}") == path
    assert server.sent == [f"/{name}"]


def test_a_checksum_is_compared(files, server):
    address = f"{server.url}/{snapshot(files).name}"
    with pytest.raises(UserError, match=f"its SHA-256 is {digest(snapshot(files))}, not {'0' * 64}"):
        local_checkpoint(f"{address}#sha256={'0' * 64}")
    path = local_checkpoint(f"{address}#sha256={digest(snapshot(files)).upper()}")
    path.write_bytes(b"PK damaged later")
    assert digest(local_checkpoint(f"{address}#sha256={digest(snapshot(files))}")) == digest(snapshot(files))
    with pytest.raises(UserError, match="after '#' only sha256="):
        local_checkpoint(f"{address}#md5=0")


def test_what_is_no_checkpoint_is_not_kept(server, tmp_path):
    for name, what in {
        "page.pkl": r"is a web page, not a checkpoint \(an error page of a download\?\); download the file itself",
        "lfs.pt": "is a Git-LFS pointer, not a checkpoint itself",
        "empty.pt": "is empty",
        "error.pt": "is not a checkpoint: its first bytes belong to no known format",
    }.items():
        with pytest.raises(UserError, match=f"^{server.url}/{name} {what}"):
            local_checkpoint(f"{server.url}/{name}")
    with pytest.raises(UserError, match="Cannot download .*nothing.pkl.*not found"):
        local_checkpoint(f"{server.url}/nothing.pkl")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_commands_and_the_library_take_addresses(files, server, tmp_path):
    address = f"{server.url}/{snapshot(files).name}"
    words = ["--outdir", str(tmp_path / "out"), "--network_pkl", address, "--time_steps", "1", "--n_steps", "1"]
    generate.main(words, standalone_mode=False)
    assert (tmp_path / "out" / "rotation_camera_yaw_seed0000_motion0000.mp4").exists()
    assert load_generator(address).resolution == 32


def test_a_path_that_is_not_there(tmp_path):
    words = ["--outdir", str(tmp_path), "--network_pkl", str(tmp_path / "nowhere.pkl")]
    with pytest.raises(click.BadParameter, match="nowhere.pkl' does not exist"):
        generate.main(words, standalone_mode=False)


# ----------------------------------------------------------------------------------------------------------------------
# Google Drive


@pytest.mark.parametrize(
    "form", [DRIVE, DRIVE + "/view?usp=sharing", DRIVE.replace("file/d/", "uc?export=download&id=")]
)
def test_google_drive_by_gdown(files, monkeypatch, tmp_path, form):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def download(*, id, output):
        asked.append(id)
        Path(output).write_bytes(snapshot(files).read_bytes())
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))
    path = local_checkpoint(form)
    assert digest(path) == digest(snapshot(files)) and local_checkpoint(form) == path
    assert asked == ["1JlYxZH5UPFov9-bLv7cqXn-3_EqWGQgJ"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_failures_of_google_drive(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(*, id, output):
        raise RuntimeError("Too many\nusers have viewed this file")

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=refuse))
    with pytest.raises(UserError, match="from Google Drive: Too many users have viewed"):
        local_checkpoint(DRIVE)
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(UserError, match="pip install gdown"):
        local_checkpoint(DRIVE)


@pytest.mark.parametrize(
    "end, error, message",
    [
        (OSError("the connection broke off"), UserError, "the connection broke off"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_a_broken_download_from_google_drive_leaves_nothing(monkeypatch, tmp_path, end, error, message):
    """gdown 6.5 writes to `<output>XXXXXXXX.part`, which it keeps after an error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def download(*, id, output):
        Path(f"{output}k3xz0_1a.part").write_bytes(b"x" * 1000)
        raise end

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))
    with pytest.raises(error, match=message):
        local_checkpoint(DRIVE)
    [folder] = (tmp_path / "video-3d-gan" / "checkpoints").iterdir()
    assert list(folder.iterdir()) == []


def test_gdown_takes_what_it_is_given():
    """The real package, whose download needs the network."""
    import inspect

    gdown = pytest.importorskip("gdown")
    assert {"id", "output"} <= set(inspect.signature(gdown.download).parameters)


# ----------------------------------------------------------------------------------------------------------------------
# The Hub


@pytest.fixture(scope="module")
def hub(files, tmp_path_factory) -> Path:
    """A cache of the Hub with the model tester/small, as huggingface-hub lays it out."""
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("safetensors")
    cache = tmp_path_factory.mktemp("hub")
    model, commit = cache / "models--tester--small", "0123456789abcdef0123456789abcdef01234567"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    load_generator(files).save_pretrained(model / "snapshots" / commit)
    return cache


@pytest.fixture
def offline(hub, monkeypatch):
    """The Hub's cache in the place of the user's, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("source", ["hf://tester/small", "tester/small", "https://huggingface.co/tester/small"])
def test_a_model_of_the_hub(offline, source):
    assert load_generator(source).frame(seed=3).shape == (3, 32, 32)


@pytest.mark.parametrize(
    "source, name, revision",
    [
        ("hf://user/name", "user/name", None),
        ("hf://user/name/", "user/name", None),
        ("hf://user/name@refs/pr/1", "user/name", "refs/pr/1"),
        ("https://huggingface.co/user/name@v1.0/", "user/name", "v1.0"),
    ],
)
def test_names_and_revisions_of_the_hub(monkeypatch, tmp_path, source, name, revision):
    hub, asked = pytest.importorskip("huggingface_hub"), []

    def snapshot_download(*arguments, **named):
        asked.append((*arguments, named["revision"]))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert local_checkpoint(source) == tmp_path and asked == [(name, revision)]
    with pytest.raises(UserError, match="^hf://user/name@: no revision follows the '@'"):
        local_checkpoint("hf://user/name@")


def test_a_model_that_the_hub_does_not_have(offline):
    with pytest.raises(UserError, match="^Cannot download hf://tester/none from the Hugging Face Hub: "):
        local_checkpoint("hf://tester/none")
    with pytest.raises(
        UserError,
        match="^There is no file or folder tester/none here; if .* meant, it cannot be downl",
    ):
        local_checkpoint("tester/none")
    with pytest.raises(UserError, match="^Cannot download hf://tester/small.* from"):
        local_checkpoint("hf://tester/small@other-branch")


class TransportError(Exception):
    """An error of the Hub's HTTP library, which is neither an OSError nor a ValueError."""


def test_a_broken_connection_to_the_hub_is_one_line(monkeypatch):
    def snapshot_download(*_, **__):
        raise TransportError("peer closed connection\nwithout sending complete message body")

    monkeypatch.setattr(pytest.importorskip("huggingface_hub"), "snapshot_download", snapshot_download)
    about = "peer closed connection without sending complete message body"
    with pytest.raises(UserError, match=f"^Cannot download hf://user/name from the Hugging Face Hub: .*{about}$"):
        local_checkpoint("hf://user/name")


def test_a_command_takes_a_model_of_the_hub(hub, tmp_path):
    variables = {**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    words = ["--outdir", tmp_path, "--network_pkl", "hf://tester/small", "--time_steps", "1", "--n_steps", "1"]
    command = [sys.executable, "generate.py", *map(str, words)]
    result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "rotation_camera_yaw_seed0000_motion0000.mp4").exists()


def test_without_the_package_of_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="^hf://user/name needs one more package: `pip install"):
        local_checkpoint("hf://user/name")
    with pytest.raises(
        UserError, match="^There is no file or folder user/name here; if a model of the .* Hub is meant, this n"
    ):
        local_checkpoint("user/name")
    with pytest.raises(UserError, match="An upload needs one more package"):
        upload_folder("folder", "user/name", private=False, message="")


class FakeApi:
    """The Hub's interface, which keeps what it is given."""

    calls: list = []

    def create_repo(self, name, *, private, exist_ok):
        self.calls.append((name, private, exist_ok))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        assert fnmatch.fnmatch("discriminator.safetensors", delete_patterns)  # those of an earlier generator
        names = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append((repo_id, names, (Path(folder_path) / "README.md").read_text(), commit_message))


def test_a_model_is_pushed_with_its_card(files, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "calls", [])
    G = load_generator(files)
    address = G.push_to_hub("me/heads", licence="cc-by-4.0", data="Synthetic heads.", private=True)
    assert address == "https://huggingface.co/me/heads"
    (name, private, exist_ok), (repo, names, card, message) = FakeApi.calls
    assert (name, private, exist_ok, repo, message) == ("me/heads", True, True, "me/heads", "Upload the generator")
    assert names == ["README.md", "config.json", "model.safetensors", "samples.png"]
    assert hub.ModelCard(card).data.license == "cc-by-4.0"
    assert "Synthetic heads." in card and "--network_pkl hf://me/heads" in card
    with pytest.raises(UserError, match="'heads' is not the name of a model"):
        G.push_to_hub("heads")


@pytest.mark.parametrize("kind", [OSError, TransportError])
def test_a_refused_upload_is_one_line(files, monkeypatch, kind):
    hub = pytest.importorskip("huggingface_hub")

    class Refusing(FakeApi):
        def create_repo(self, name, *, private, exist_ok):
            raise kind("401 Client Error.\n\nInvalid username or password.")

    monkeypatch.setattr(hub, "HfApi", Refusing)
    with pytest.raises(UserError, match="Cannot upload to me/heads on the Hugging Face Hub: 401 Client Error. Invalid"):
        upload_folder(files, "me/heads", private=False, message="")
