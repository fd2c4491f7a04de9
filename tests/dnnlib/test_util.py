import contextlib
import errno
import fcntl
import io
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest
import torch

import dnnlib

# ----------------------------------------------------------------------------------------------------------------------
# atomic_write


def test_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with dnnlib.atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"  # not before it is complete
        assert len(list(tmp_path.iterdir())) == 2  # in the same folder, or the rename could not be atomic
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_names_of_files_may_be_as_long_as_the_system_takes_them(tmp_path):
    name = "é" * 125 + ".json"  # 255 bytes
    with dnnlib.atomic_write(tmp_path / name, "w") as file:
        file.write("a")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_atomic_write_text_is_utf8_with_unix_line_ends(tmp_path):
    with dnnlib.atomic_write(tmp_path / "a.txt", "w") as file:
        file.write("é\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"


def test_atomic_write_honours_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with dnnlib.atomic_write(tmp_path / "a") as file:
            file.write(b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_write_keeps_the_old_file_on_errors(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), dnnlib.atomic_write(path) as file:
        file.write(b"half")
        raise error("stop")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_flushes_file_and_folder_around_the_rename(tmp_path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def replace(source, target):
        order.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with dnnlib.atomic_write(tmp_path / "a") as file:
        file.write(b"x")
    assert order == ["file", "rename", "folder"]


def test_atomic_write_says_so_when_the_disk_is_full(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(dnnlib.UserError, match=f"Cannot write {path}: there is no space left"):
        with dnnlib.atomic_write(path) as file:
            file.write(b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_sees_through_the_errors_of_torch_save(tmp_path):
    """torch.save turns the system's error into a RuntimeError of its own. A size limit stands in for a full disk."""
    script = """
import resource, sys, torch, dnnlib
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with dnnlib.atomic_write(sys.argv[1]) as file:
        torch.save({"a": torch.zeros(100_000)}, file)
except dnnlib.UserError as error:
    print(error)
"""
    path = tmp_path / "a.pkl"
    path.write_bytes(b"old")
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"Cannot write {path}: there is no space left")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_atomic_write_names_the_file_that_a_failing_disk_does_not_take(tmp_path, monkeypatch, number):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(dnnlib.UserError) as caught, dnnlib.atomic_write(path) as file:
        file.write(b"new")
    reason = f"{os.strerror(number)}; check that the folder exists and may be written to."
    assert str(caught.value) == f"Cannot write {path}: {reason}"
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux")
@pytest.mark.parametrize(
    "write", [lambda file: file.write(b"new"), lambda file: torch.save(torch.zeros(99), file)], ids=["write", "torch"]
)
def test_atomic_write_names_the_file_of_a_failing_write(tmp_path, write):
    """An address of this process that holds nothing stands in for a failing disk."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(dnnlib.UserError) as caught, dnnlib.atomic_write(path) as file:
        failing = os.open("/proc/self/mem", os.O_RDWR)
        os.dup2(failing, file.fileno())
        os.close(failing)
        write(file)
    reason = "Input/output error; check that the folder exists and may be written to."
    assert str(caught.value) == f"Cannot write {path}: {reason}"
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


class Slow(io.FileIO):
    """A file on a disk that takes `room` bytes more, at most seven at a time."""

    room, full = 10**9, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, data):
        if self.room == 0:
            raise self.full
        count = super().write(memoryview(data)[: min(7, self.room)])
        self.room -= count
        return count


def test_append_line(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    dnnlib.append_line(path, "first é \udce9")
    monkeypatch.setattr(dnnlib.util, "open", lambda path, mode, buffering: Slow(path, mode), raising=False)
    dnnlib.append_line(path, "second, which is longer")
    first = b"first \xc3\xa9 \\udce9\nsecond, which is longer\n"
    assert path.read_bytes() == first
    monkeypatch.setattr(Slow, "room", 10)
    with pytest.raises(OSError, match="No space left"):
        dnnlib.append_line(path, "third, which is longer")
    assert path.read_bytes() == first
    monkeypatch.setattr(Slow, "room", 10)
    monkeypatch.setattr(Slow, "full", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        dnnlib.append_line(path, "third, which is longer")
    assert path.read_bytes() == first
    monkeypatch.undo()
    path.write_bytes(first + b"cut")
    dnnlib.append_line(path, "last")
    assert path.read_bytes() == first + b"cut\nlast\n"


def test_a_limit_of_open_files_is_no_lack_of_space():
    with pytest.raises(dnnlib.UserError) as caught, dnnlib.explain_file_trouble("OUT"):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert str(caught.value) == "Cannot write OUT: Too many open files; raise the limit of this user (ulimit -n)."


def test_atomic_write_names_a_missing_folder(tmp_path):
    path = tmp_path / "missing" / "a"
    with pytest.raises(dnnlib.UserError, match=f"Cannot write {path}: No such file.*check that the folder exists"):
        with dnnlib.atomic_write(path):
            pass


def test_atomic_write_passes_errors_about_other_files_through(tmp_path):
    with pytest.raises(FileNotFoundError), dnnlib.atomic_write(tmp_path / "a"):
        open(tmp_path / "other").close()


# ----------------------------------------------------------------------------------------------------------------------
# run_cli


def leave_with(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, message",
    [
        (dnnlib.UserError("two\n  lines"), 2, "error: two lines\n"),
        (click.UsageError("No such option"), 2, "error: No such option\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            PermissionError(13, "Permission denied", b"/data/a"),
            2,
            "error: /data/a: Permission denied; check the permissions of this path and of the folders above it.\n",
        ),
    ],
)
def test_run_cli_turns_mistakes_into_one_line(capsys, error, code, message):
    with pytest.raises(SystemExit) as info:
        dnnlib.run_cli(leave_with(error))
    assert info.value.code == code
    assert capsys.readouterr().err == message


def test_a_command_in_a_deleted_folder_says_so(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit) as caught:
        dnnlib.run_cli(lambda: print("done"))
    assert caught.value.code == 2
    message = "error: The working folder is gone (No such file or directory): change to one that exists.\n"
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize(
    "error", [ValueError("a defect"), PermissionError(1, "Operation not permitted"), PermissionError(13, "No", 5)]
)
def test_run_cli_leaves_defects_their_traceback(error):
    with pytest.raises(type(error)) as info:
        dnnlib.run_cli(leave_with(error))
    assert info.value is error


def test_run_cli_succeeds():
    with pytest.raises(SystemExit) as info:
        dnnlib.run_cli(lambda: None)
    assert info.value.code == 0


# ----------------------------------------------------------------------------------------------------------------------
# Surroundings


@pytest.mark.parametrize("encoding, errors", [("ascii", "strict"), ("ascii", "surrogateescape"), ("latin-1", "strict")])
def test_run_cli_prints_in_any_encoding(monkeypatch, encoding, errors):
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="")
        monkeypatch.setattr(sys, name, stream)

    def main():
        print("2 \u2192 3 \udce9")
        raise dnnlib.UserError("no \u2192")

    with pytest.raises(SystemExit):
        dnnlib.run_cli(main)
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == rb"2 \u2192 3 \udce9" + b"\n"
    assert sys.stderr.buffer.getvalue() == rb"error: no \u2192" + b"\n"


def test_streams_that_are_no_text_files(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    dnnlib.print_any_text()


@pytest.fixture
def nowhere_temporary(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nonexistent"])


def test_no_temporary_folder(nowhere_temporary, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(dnnlib.UserError, match="There is no folder for temporary files .*; set TMPDIR to one"):
        dnnlib.temporary_folder()
    with pytest.raises(SystemExit) as info:
        dnnlib.run_cli(lambda: tempfile.mkdtemp())  # as in a library
    assert info.value.code == 2
    assert capsys.readouterr().err.startswith("error: There is no folder for temporary files")


def test_a_temporary_folder_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with dnnlib.temporary(tempfile.TemporaryDirectory, prefix="a-") as folder:
        assert os.path.dirname(folder) == str(tmp_path) and os.path.basename(folder).startswith("a-")
    for gone in (str(tmp_path / "gone"), "/dev/null"):
        monkeypatch.setattr("tempfile.tempdir", gone)
        for make in (tempfile.TemporaryDirectory, tempfile.TemporaryFile, tempfile.mkdtemp):
            with pytest.raises(dnnlib.UserError) as caught:
                dnnlib.temporary(make)
            reason = "Not a directory" if gone == "/dev/null" else "No such file or directory"
            assert str(caught.value) == (
                f"Cannot make a temporary file in {gone}: {reason}; set TMPDIR to a folder that can be written to."
            )


@pytest.mark.parametrize("make", [dnnlib.made_folder, dnnlib.output_folder])
@pytest.mark.parametrize("error", [None, dnnlib.UserError("nothing to show")])
def test_folders_that_a_block_makes_and_leaves_empty_are_removed(tmp_path, monkeypatch, make, error):
    (tmp_path / "there" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for path in ("there/empty", "there/new", "new/deep/out", tmp_path / "new"):
        with pytest.raises(dnnlib.UserError) if error else contextlib.nullcontext(), make(path):
            assert os.path.isdir(path)
            if error:
                raise error
        assert sorted(map(str, Path().rglob("*"))) == ["there", "there/empty"]
    with make("new/deep/out"):
        Path("new/deep/other").touch()
    assert sorted(map(str, Path("new").rglob("*"))) == ["new/deep", "new/deep/other"]


def test_a_results_folder_stays_for_the_other_command_that_uses_it(tmp_path):
    folder = tmp_path / "new" / "out"
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(dnnlib.output_folder(folder))
        second.enter_context(dnnlib.output_folder(folder))
        first.close()  # the one that made it, with an error
        (folder / "a.png").touch()


def test_a_training_may_be_continued_in_a_folder_of_results(tmp_path):
    (tmp_path / "state.pt").touch()
    with dnnlib.output_folder(tmp_path), dnnlib.exclusive_lock(tmp_path, busy="somebody is there") as held:
        assert held


def test_a_results_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(dnnlib.UserError) as caught, dnnlib.output_folder(tmp_path / "file" / "a"):
        pass
    assert str(caught.value) == f"--outdir: cannot make the folder {tmp_path / 'file' / 'a'}: Not a directory."
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # as in a read-only file system
    with pytest.raises(dnnlib.UserError) as caught, dnnlib.output_folder(tmp_path / "a"):
        pass
    assert str(caught.value) == f"--outdir: no permission to write in {tmp_path / 'a'}."
    assert os.listdir(tmp_path) == ["file"]


def test_torch_gets_a_cache_where_it_would_find_none(nowhere_temporary, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with pytest.raises(SystemExit):
        dnnlib.run_cli(lambda: None)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "video-3d-gan" / "inductor")


def test_expand_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me/")
    assert dnnlib.expand_home("~/runs", name="outdir=") == "/home/me/runs"
    assert dnnlib.expand_home("~", name="outdir=") == "/home/me"
    assert dnnlib.expand_home("a/~/b", name="outdir=") == "a/~/b"
    for home in ("", "relative"):  # the list of users knows better
        monkeypatch.setenv("HOME", home)
        assert dnnlib.expand_home("~/runs", name="outdir=") == os.path.join(pwd.getpwuid(os.getuid()).pw_dir, "runs")

    def unknown(number):
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME")
    with pytest.raises(dnnlib.UserError, match="outdir=~/runs: this user has no home folder .*write the whole path"):
        dnnlib.expand_home("~/runs", name="outdir=")


def test_atomic_write_of_half_a_character(tmp_path):
    with dnnlib.atomic_write(tmp_path / "a.json", "w") as file:
        json.dump({"name": "caf\udce9 \u00e9"}, file, ensure_ascii=False)
    text = (tmp_path / "a.json").read_bytes()
    assert text == b'{"name": "caf\\udce9 \xc3\xa9"}'
    assert json.loads(text) == {"name": "caf\udce9 \u00e9"}


# ----------------------------------------------------------------------------------------------------------------------
# Names


def test_short_names():
    assert dnnlib.short_name("a" * 200) == "a" * 200
    names = [dnnlib.short_name(name) for name in ("a" * 250, "a" * 249 + "b", "漢" * 82, "a\udce9" * 120)]
    assert len(set(names)) == 4 and all(len(os.fsencode(name)) <= 200 for name in names)
    assert names[2][:61] == "漢" * 61 and names[2][61] == "-"  # 183 bytes, and no half character
    assert dnnlib.short_name("a" * 250) == names[0]


# ----------------------------------------------------------------------------------------------------------------------
# Locks and links


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_one_lock_at_a_time(tmp_path, kind):
    path = tmp_path if kind == "folder" else tmp_path / "lock"
    if kind == "file":
        path.touch()
    with dnnlib.exclusive_lock(path) as held:
        assert held
        with pytest.raises(dnnlib.UserError, match="somebody is there"):
            with dnnlib.exclusive_lock(path, busy="somebody is there"):
                raise AssertionError("two locks")
    with dnnlib.exclusive_lock(path, busy="somebody is there") as held:
        assert held
    with pytest.raises(FileNotFoundError):
        with dnnlib.exclusive_lock(tmp_path / "missing"):
            raise AssertionError("a lock on nothing")


def test_forked_processes_do_not_keep_a_lock(tmp_path):
    """A data worker that outlives a killed training would lock its folder."""
    ready, done = os.pipe(), os.pipe()
    with dnnlib.exclusive_lock(tmp_path), contextlib.ExitStack() as stack:
        child = os.fork()
        if child == 0:
            os.write(ready[1], b"x")
            os.close(done[1])
            os.read(done[0], 1)
            os._exit(0)
        stack.callback(os.waitpid, child, 0)
        stack.callback(os.close, done[1])
        os.read(ready[0], 1)
        with pytest.raises(dnnlib.UserError, match="somebody is there"):
            with dnnlib.exclusive_lock(tmp_path, busy="somebody is there"):
                raise AssertionError("the child has released its parent's lock")
        # As if this process had been killed: its own descriptors close, the child's stay.
        for name in os.listdir("/proc/self/fd"):
            if os.path.realpath(f"/proc/self/fd/{name}") == str(tmp_path):
                own = int(name)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, own)
        os.close(null)
        with dnnlib.exclusive_lock(tmp_path, busy="somebody is there") as held:
            assert held
    for descriptor in (*ready, done[0]):
        os.close(descriptor)


def test_a_lock_that_ends_in_a_forked_process_closes_no_other_file(tmp_path):
    with dnnlib.exclusive_lock(tmp_path):
        child = os.fork()
        if child == 0:
            os.open(os.devnull, os.O_RDONLY)  # with the lock's number
    if child == 0:
        os._exit(len([name for name in os.listdir("/proc/self/fd") if name.isdigit()]) % 256)
    before = len(os.listdir("/proc/self/fd"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == before + 1


def test_no_locks_in_this_file_system(tmp_path, monkeypatch):
    def refuse(error):
        def flock(*_):
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    with dnnlib.exclusive_lock(tmp_path) as held:
        assert not held
    refuse(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        with dnnlib.exclusive_lock(tmp_path):
            raise AssertionError("a lock in spite of an error")


def test_a_link_replaces_what_was_there(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    target.write_text("old")
    for _ in range(2):  # the second time both are names of one file already
        dnnlib.link_or_copy(source, target)
        assert target.samefile(source) and target.read_text() == "new"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_copy_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    target.write_text("old")
    dnnlib.link_or_copy(source, target)
    assert target.read_text() == "new" and not target.samefile(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_port_to_listen_on():
    port = dnnlib.listening_port("127.0.0.1", 0)
    assert port > 0 and dnnlib.listening_port("127.0.0.1", port) == port
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(dnnlib.UserError, match=f"^Cannot listen on 127.0.0.1, port {taken}: Address already"):
            dnnlib.listening_port("127.0.0.1", taken)
    for host in ("a..b", "a" * 64):
        with pytest.raises(dnnlib.UserError) as caught:
            dnnlib.listening_port(host, 0)
        assert str(caught.value) == (
            f"Cannot listen on {host}, port 0: it is not a host name; choose another --port or --host."
        )


def test_pipes_are_not_replaced_by_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        dnnlib.UserError, match="pipe: it is a pipe or a device, which a file would replace; name a file"
    ):
        with dnnlib.atomic_write(tmp_path / "pipe"):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and len(list(tmp_path.iterdir())) == 1
