"""Stages in processes of their own, each with a time limit, within the time for all of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import ROOT
from benchmarks.gpu.stages import STAGES

__all__ = ["run_stages"]

GRACE = 10  # seconds beyond the limit, for the start of Python and the last result
TAIL = 1200  # characters of a crashed process's output


def run_stages(
    names: Sequence[str],
    *,
    device: str,
    seconds: float,
    folder: Path,
    tiny: bool,
    tell: Callable[[str, dict[str, Any]], None],
) -> dict[str, dict[str, Any]]:
    """Results by stage; those that no longer fit are marked as skipped.

    Args:
        names: Keys of `STAGES`, in order.
        device: 'cuda' or 'cpu'.
        seconds: Time for all of them.
        folder: Existing folder for pictures.
        tiny: Tiny sizes.
        tell: Called with name and result after every stage.
    """
    end, results = time.monotonic() + seconds, {}
    for name in names:
        left = end - time.monotonic()
        if left < STAGES[name].least:
            results[name] = _empty("skipped", "no time was left")
        else:
            results[name] = _run(name, device=device, limit=min(STAGES[name].limit, left), folder=folder, tiny=tiny)
        tell(name, results[name])
    return results


def _empty(status: str, headline: str) -> dict[str, Any]:
    return {"status": status, "headline": headline, "figures": {}, "tables": {}, "notes": [], "failures": []}


def _run(name: str, *, device: str, limit: float, folder: Path, tiny: bool) -> dict[str, Any]:
    """One stage; what it had written counts even if its process is killed or crashes."""
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as said:
        file, began = Path(scratch, "result.json"), time.monotonic()
        budget = max(limit - GRACE, 0.8 * limit)
        command = [sys.executable, "-m", "benchmarks.gpu.worker", name, device, f"{budget:.1f}", str(folder), str(file)]
        child = subprocess.Popen(
            [*command, *(["tiny"] if tiny else [])], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
        late = False
        try:
            child.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _end_group(child)
        said.seek(0, os.SEEK_END)
        said.seek(max(0, said.tell() - TAIL))
        output = said.read().decode(errors="replace").strip()
        try:
            result = _empty("done", "") | json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            result = _empty("done", "")
    result["wall"] = round(time.monotonic() - began, 1)
    if late:
        result["status"] = "out of time"
        result["failures"].append(
            {"what": name, "reason": f"{output}\nended after its time limit of {limit:.0f} s".strip()}
        )
    elif child.returncode:
        result["status"] = "crashed"
        result["failures"].append({"what": name, "reason": f"exit status {child.returncode}: {output}"})
    elif result["failures"]:
        result["status"] = "failures"
    return result


def _end_group(child: subprocess.Popen) -> None:
    """Kill what is left of the stage: its process, and those that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
