"""The number of files that a reader of one frame, one training step and one dry run passes through."""

import functools

import pytest

from benchmarks.files_entered import COUNTS, count_files

count = functools.cache(count_files)

# At most so many files, and some that must be among them.
LIMITS = {
    "frame": (30, {"training/inference/frame_renderer.py", "training/networks/generator.py", "renderer/rays.py"}),
    "step": (32, {"training/loss.py", "training/phases.py", "training/networks/discriminator.py"}),
    "dry run": (45, {"run_train.py", "training/launch/validate.py", "training/data/dataset.py"}),
    "dry run, imports too": (75, {"training/launch/__init__.py", "training/loss.py"}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_few_files_are_entered(name):
    files = count(name)
    most, some = LIMITS[name]
    assert some <= set(files)
    assert len(files) <= most, files


def test_a_dry_run_imports_nothing_that_it_does_not_use():
    rooms = ("training/published/", "training/synthetic/", "training/monitoring/", "training/inference/")
    assert [name for name in count("dry run, imports too") if name.startswith(rooms)] == []
