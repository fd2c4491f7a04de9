"""Faults of disks and data."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.reliability.forked import Run
from tests.reliability.places import Place, Skip, fault, wait_for_state


def mounted(place: Place, megabytes: float) -> Path:
    """A small file system in memory for the runs."""
    place.outdir.mkdir()
    options = f"size={int(megabytes * 1024)}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place.outdir], capture_output=True)
    if done.returncode:
        raise Skip("mounting a file system is not allowed here")
    return place.outdir


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


@fault
def disk_full(place: Place) -> str:
    """The disk is full while a run saves."""
    disk = mounted(place, 16)
    try:
        run = Run(place.words("imgsnap=null"), place.log)
        wait_for_state(place, run)
        with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(2**12)):
                pass
        code = run.wait()
        assert code == 2 and "o space left" in place.error(), (code, place.said()[-2000:])
        saved = place.saved()
        assert 0 < saved < 120
        remount(disk, "size=64m")
        return f"exit code 2, `{place.error()}`; state of {saved} videos whole; with more space {place.finish()}"
    finally:
        run.kill()
        subprocess.run(["umount", disk], check=True)


@fault
def protected_folder(place: Place) -> str:
    """Nothing new may be written into the run folder any more (chattr +i)."""
    run = Run(place.words("imgsnap=null"), place.log)
    wait_for_state(place, run)
    folder = place.run_folder()
    try:
        if subprocess.run(["chattr", "+i", folder], capture_output=True).returncode:
            run.kill()
            raise Skip("this file system has no immutable folders")
        assert run.wait() == 2, place.said()[-2000:]
        saved, error = place.saved(), place.error()
    finally:
        subprocess.run(["chattr", "-i", folder], capture_output=True)
    return f"exit code 2, `{error}`; state of {saved} videos whole; unprotected, {place.finish()}"


@fault
def read_only_from_the_start(place: Place) -> str:
    """The run folder of a run to continue is on a read-only file system."""
    disk = mounted(place, 64)
    try:
        run = Run(place.words("imgsnap=null"), place.log)
        wait_for_state(place, run)
        run.kill()
        remount(disk, "ro")
        run = Run([f"outdir={place.outdir}", "resume_run=0"], place.log)
        assert run.wait() == 2, place.said()[-2000:]
        error = place.error()
        remount(disk, "rw")
        return f"exit code 2, `{error}`; writable again, {place.finish()}"
    finally:
        run.kill()
        subprocess.run(["umount", disk], check=True)


@fault
def frames_vanish(place: Place) -> str:
    """A video is deleted while a run reads it."""
    run = Run(place.words(), place.log)
    wait_for_state(place, run)
    shutil.rmtree(place.data / "split" / "video_1")
    assert run.wait() == 0, place.said()[-2000:]
    lines = [line for line in place.said().splitlines() if line.startswith("Items of the data")]
    assert lines and place.saved() == 120
    return (
        f"replaced by other clips and counted (`{lines[0].replace(str(place.folder), '…')}`); the run ends as planned"
    )


@fault
def frames_turn_corrupt(place: Place) -> str:
    """More and more frames are damaged."""
    run = Run(place.words("unreadable_limit=5"), place.log)
    wait_for_state(place, run)
    for path in (place.data / "split").glob("video_[1-3]/*.png"):
        path.write_bytes(path.read_bytes()[:40])
    assert run.wait() == 2, place.said()[-2000:]
    error, saved = place.error(), place.saved()
    return f"replaced and counted until unreadable_limit=5, then exit code 2, `{error}`; state of {saved} videos saved"


@fault
def dead_worker(place: Place) -> str:
    """A data worker is killed."""
    run = Run(place.words("workers=1"), place.log)
    wait_for_state(place, run)
    workers = [int(x) for x in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    assert run.wait() == 0, place.said()[-2000:]
    assert "the workers are started again" in place.said() and place.digest() == place.whole()
    return "noticed within 5 s, started again; the run ends to the bit as if undisturbed"
