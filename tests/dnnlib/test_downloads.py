"""What identifies a file, and downloads that are whole or not there."""

import hashlib
import subprocess

import pytest

from dnnlib import UserError
from dnnlib.downloads import cache_folder, fetch, git_blob_id, sha256_of


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


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache_folder("a", "b")) == "/somewhere/video-3d-gan/a/b"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache_folder()) == "/home/me/.cache/video-3d-gan"


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
