"""The short form of tests/reliability/kills.py: a training is killed where it writes to the disk, and goes on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_killed_training_leaves_whole_files_and_ends_the_same(tmp_path):
    # A process of its own: it forks, which one that has computed must not do.
    command = [sys.executable, "-m", "tests.reliability.kills", "--kills", "10", "--points", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +10  kills$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^ +[1-9]\d* +while a file was being written$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^ +[1-9]\d* +runs that came to their end, the same to the bit$", done.stdout, re.MULTILINE)
