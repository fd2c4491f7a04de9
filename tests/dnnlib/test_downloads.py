"""Identities of files, and downloads that are whole or not there."""

import hashlib
import os
import socket
import stat
import subprocess
import threading
import time

import pytest

from dnnlib import UserError
from dnnlib.downloads import cache_folder, fetch, git_blob_id, make_cache_folder, sha256_of


def test_identities(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    assert git_blob_id(path) == "ce013625030ba8dba906f756967f9e9ca394464a"  # as `git hash-object` says
    assert sha256_of(path) == hashlib.sha256(b"hello\n").hexdigest()
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 10_000)
    try:
        answer = subprocess.run(["git", "hash-object", large], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git here")
    assert git_blob_id(large) == answer.stdout.strip()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache_folder("a", "b")) == "/somewhere/video-3d-gan/a/b"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "video-3d-gan"


def test_fetch(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    seen = []
    target = tmp_path / "new" / "folder" / "file"
    fetch(source.as_uri(), target, check=lambda path: seen.append(path.read_bytes()))
    assert target.read_bytes() == source.read_bytes() == seen[0]
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_nothing_is_left_of_a_wrong_or_broken_download(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"wrong")

    def object_to_it(path):
        raise UserError("that is something else")

    target = tmp_path / "folder" / "file"
    with pytest.raises(UserError, match="something else"):
        fetch(source.as_uri(), target, check=object_to_it)
    with pytest.raises(UserError, match="^Cannot download .*nowhere to .*file: "):
        fetch((tmp_path / "nowhere").as_uri(), target, check=object_to_it)
    assert list(target.parent.iterdir()) == []


@pytest.fixture
def answer(request):
    """A server that answers one request with the bytes given, and hangs up: its address, and what it was asked."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with server.accept()[0] as connection:
                asked.append(connection.recv(4096).split(b" ")[1].decode())
                connection.sendall(request.param)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked


@pytest.mark.parametrize(
    "answer, reason",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this", "broke off after 9 of 1000 bytes; try again."),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\nonly", "IncompleteRead.*"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nthis", "invalid literal .*"),
        (b"good morning\r\n\r\n", "good morning."),
    ],
    indirect=["answer"],
)
def test_an_answer_that_is_not_whole_is_not_kept(answer, reason, tmp_path):
    target = tmp_path / "folder" / "file"
    with pytest.raises(UserError, match=f"^Cannot download {answer[0]}/file to {target}: .*{reason}$"):
        fetch(f"{answer[0]}/file", target, check=lambda path: None)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nthis"], indirect=True)
def test_addresses_are_encoded_once(answer, tmp_path):
    fetch(f"{answer[0]}/my é%20f.pt?a=b c&d=%C3", tmp_path / "file", check=lambda path: None)
    assert answer[1] == ["/my%20%C3%A9%20f.pt?a=b%20c&d=%C3"] and (tmp_path / "file").read_bytes() == b"this"


def test_an_address_that_is_none(tmp_path):
    with pytest.raises(UserError, match="^Cannot download http://.::1 to .*: Invalid IPv6 URL.$"):
        fetch("http://[::1", tmp_path / "file", check=lambda path: None)


# ----------------------------------------------------------------------------------------------------------------------
# Where there is no home


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """A user that the system does not know, as in a container, with a folder for temporary files."""

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary" / f"video-3d-gan-{os.getuid()}"


@pytest.mark.parametrize("home", [None, "", "home", "/nonexistent", "~"])
def test_without_a_home_the_cache_is_among_the_temporary_files(stranger, monkeypatch, home):
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert cache_folder("ops", "x") == stranger / "ops" / "x"
    assert stat.S_IMODE(stranger.stat().st_mode) == 0o700
    assert sorted(path.name for path in stranger.parent.parent.iterdir()) == ["temporary"]  # no '~', no '.cache'


def test_in_a_home_that_cannot_be_written_to(stranger, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert cache_folder("ops") == stranger / "ops"
    filled = tmp_path / ".cache" / "video-3d-gan"
    filled.mkdir(parents=True)  # it may have been filled while that was possible
    assert cache_folder("ops") == filled / "ops"
    with pytest.raises(UserError, match=r"Cannot use the cache folder .*: use --cache, or set XDG_CACHE_HOME to"):
        make_cache_folder(filled, instead="use --cache")


def test_a_cache_is_freed_of_what_killed_processes_have_left(tmp_path):
    now = time.time()
    ages = {
        ".a.npy.123-0123abcd.tmp": 90_000,
        "..b.pt.7.download.7-0123abcd.tmp": 90_000,
        ".b.pt.7.download": 90_000,
        ".c.npy.124-0123abcd.tmp": 3600,  # a process may be writing it
        "d.npy": 90_000,
        ".e.tmp": 90_000,  # not ours
    }
    folders = {".f.pkl.8.download": 90_000, ".g.pkl.9.download": 3600}  # of gdown
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "f.pkl0123abcd.part").touch()
    for name, age in {**ages, **folders}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now - age, now - age))
    make_cache_folder(tmp_path)
    kept = {".c.npy.124-0123abcd.tmp", "d.npy", ".e.tmp", ".g.pkl.9.download"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_temporary_cache_of_others_is_not_used(stranger):
    stranger.mkdir(mode=0o777)
    stranger.chmod(0o777)
    with pytest.raises(UserError, match="others may have changed .*: set XDG_CACHE_HOME to a folder"):
        cache_folder()
    stranger.rmdir()
    stranger.symlink_to("/")
    with pytest.raises(UserError, match="others may have changed"):
        cache_folder()


def test_no_place_at_all(stranger, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(UserError, match="There is no place for a cache, .*: set XDG_CACHE_HOME to a folder"):
        cache_folder()


def test_relative_settings(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    with pytest.raises(UserError, match="XDG_CACHE_HOME=cache is not an absolute path"):
        cache_folder()
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")  # from a file that no shell reads
    assert str(cache_folder()) == "/home/me/cache/video-3d-gan"


def test_a_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/x \(Not a directory\): set XDG_CACHE_HOME to a folder that can"):
        make_cache_folder(tmp_path / "file" / "x")
