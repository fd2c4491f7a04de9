"""Commands whose output nobody reads, and signals that end them."""

import errno
import multiprocessing
import multiprocessing.synchronize
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dnnlib import UserError, atomic_write
from dnnlib.processes import begin_worker, parallel_map

ROOT = Path(__file__).resolve().parent.parent.parent
# More than a pipe holds, so that it is found closed while the command works; a child that says something as well.
PROGRAM = """
import subprocess, sys, warnings
from tqdm import tqdm
from dnnlib import UserError, run_cli

def main():
    with open("done", "w") as file:
        assert file.fileno() > 2
        for index in tqdm(range(4000), mininterval=0):
            print("a line of output", index)
            print("a line of errors", index, file=sys.stderr)
        tqdm.write("above the bar")
        warnings.warn("a warning")
        subprocess.run(["sh", "-c", "echo said by a child"])
        sys.stdout.flush()
        file.write("all")
    if "--wrong" in sys.argv:
        raise UserError("a mistake")

run_cli(main)
"""


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    (folder / "program.py").write_text(PROGRAM)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )


STREAMS = ["| head -n 1", "2>&1 | head -n 1", "2>&1 | true", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"]


@pytest.mark.parametrize("flag, streams", [*(("", streams) for streams in STREAMS), ("-u", "| head -n 1")])
def test_the_work_goes_on_whoever_reads(tmp_path, flag, streams):
    done = shell(f"{sys.executable} {flag} program.py {streams}", tmp_path)
    assert done.returncode == 0 and "Error" not in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "done").read_text() == "all"
    if streams == "2>&-":
        assert done.stdout.count("a line of output") == 4000 and "said by a child" in done.stdout


@pytest.mark.parametrize("streams", ["| head -n 1", ">&-", "2>&-", ">&- 2>&-"])
def test_a_mistake_keeps_its_exit_code(tmp_path, streams):
    done = shell(f"{sys.executable} program.py --wrong {streams}", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert ("error: a mistake" in done.stderr) == ("2>&-" not in streams)


def test_a_full_disk_is_told(tmp_path):
    done = shell(f"{sys.executable} program.py > /dev/full", tmp_path)
    assert done.returncode == 0 and (tmp_path / "done").read_text() == "all"
    assert done.stderr.count("warning: Cannot write to stdout: No space left on device; the work goes on.") == 1


def test_what_is_read_arrives_as_it_was(tmp_path):
    (tmp_path / "other.py").write_text("from dnnlib import run_cli\nrun_cli(lambda: print('Δt ×', end='\\r\\n'))")
    for encoding, expected in (("utf-8", "Δt ×\r\n".encode()), ("latin-1:replace", b"?t \xd7\r\n")):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "other.py"], cwd=tmp_path, env=env, capture_output=True)
        assert done.stdout == expected


# ----------------------------------------------------------------------------------------------------------------------

WAITING = """
import time
from dnnlib import run_cli

def main():
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        open("cleaned", "w").close()

run_cli(main)
"""


@pytest.mark.usefixtures("hear_hangups")
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_lets_a_command_clean_up(tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code and (tmp_path / "cleaned").exists()
    assert errors == ("interrupted\n" if number == signal.SIGINT else f"ended by {number.name}\n")


IMPORTING = """
import time
from dnnlib import run_cli

def main():
    try:
        import dropping
        time.sleep(30)
    finally:
        time.sleep(0.3)  # the exception is not raised again meanwhile
        print("cleaned")

run_cli(main)
"""
DROPPING = """
import time

try:
    print("ready", flush=True)
    time.sleep(30)
except BaseException:  # as compiled libraries do
    pass
"""


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_an_import_is_not_lost(tmp_path, number, code):
    (tmp_path / "dropping.py").write_text(DROPPING)
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTING], env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    rest, errors = process.communicate(timeout=20)
    assert process.returncode == code and rest == "cleaned\n"
    assert errors == ("interrupted\n" if number == signal.SIGINT else f"ended by {number.name}\n")


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_ends_a_command_unless_nohup_was_asked_for(tmp_path, ignored):
    program = WAITING.replace("sleep(30)", "sleep(1.5)").replace("finally:", "finally:\n        print('after')")
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        os.execve(sys.executable, [sys.executable, "-c", program], {**os.environ, "PYTHONPATH": str(ROOT)})
    said = b""
    while not said.endswith(b"\n"):
        said += os.read(terminal, 100)
    assert said == b"ready\r\n"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if ignored else 129)
    assert (tmp_path / "cleaned").exists()


def wait_in_a_worker(path: str) -> None:
    begin_worker()
    with atomic_write(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(30)


def parent_of_a_worker(path: str) -> None:
    multiprocessing.get_context("spawn").Process(target=wait_in_a_worker, args=(path,)).start()
    time.sleep(30)


def test_workers_leave_a_closed_terminal_to_their_parent_and_end_with_it(tmp_path):
    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    path, end = tmp_path / "pid", time.monotonic() + 30
    code = f"from tests.dnnlib.test_processes import parent_of_a_worker\nparent_of_a_worker({str(path)!r})"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not path.exists():
        assert time.monotonic() < end and parent.poll() is None
        time.sleep(0.05)
    worker = int(path.read_text())
    for number in (signal.SIGHUP, signal.SIGINT):
        os.kill(worker, number)
    time.sleep(0.3)
    assert alive(worker)
    parent.kill()
    parent.wait()
    while alive(worker):
        assert time.monotonic() < end
        time.sleep(0.05)


def scaled(factor, number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return factor * number, os.getpid()


def killed(_, number):
    os.kill(os.getpid(), signal.SIGKILL)


def long(path, number):
    Path(path, str(number)).touch()
    time.sleep(0 if number == 0 else 600)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_parallel_map_gives_results_in_order(workers):
    results = list(parallel_map(scaled, range(20), shared=3, workers=workers))
    assert [value for value, _ in results] == [3 * number for number in range(20)]
    assert (os.getpid() in {process for _, process in results}) == (workers == 1)
    with pytest.raises(ValueError, match="-1 is negative"):
        list(parallel_map(scaled, [1, -1, 2], shared=3, workers=workers))
    assert list(parallel_map(scaled, [], shared=3, workers=workers)) == []


def test_parallel_map_ends_its_processes(tmp_path):
    results = parallel_map(long, range(4), shared=tmp_path, workers=2)
    assert next(results) == 0
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < 60 and multiprocessing.active_children() == []


def test_processes_that_cannot_be_started(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", full)  # as with a /dev/shm that is full
    with pytest.raises(UserError) as caught:
        list(parallel_map(scaled, range(4), shared=3, workers=2))
    assert str(caught.value) == (
        "Worker processes cannot be started (No space left on device; is the memory full, or /dev/shm, or is it "
        "missing?); use fewer of them, or --workers 1, if the command takes --workers."
    )


def test_parallel_map_with_a_process_that_is_killed():
    with pytest.raises(UserError, match="worker process has ended unexpectedly"):
        list(parallel_map(killed, range(2), shared=None, workers=2))
