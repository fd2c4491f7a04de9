"""Throughput of the data loader: `python -m benchmarks.data_loading [--json FILE]`.

Pairs of frames per second and core from the training's loader (with batches, without workers), beside the limit: Pillow
decoding the same files, resizing them where they are larger, and returning the pixels as an array. Both alternate, and
CPU time is counted, so that other programs hardly affect the ratio. The memory layout of a process makes either faster
or slower by a quarter, so several processes are averaged. Also measured: the time to list a large dataset, for the
first time and again.
"""

import contextlib
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from benchmarks.tables import JSON_OPTION, write_json
from dnnlib import run_cli
from dnnlib.command_line import Command
from torch_utils.memory import keep_freed_memory
from training.data.annotations import SHARDS_FORMAT
from training.data.dataset import VideoPairDataset
from training.data.frame_index import list_files
from training.data.frames_loader import make_loader
from training.data.webdataset import ShardPairDataset
from training.data.webdataset_loader import make_shard_loader
from training.dataset_tool.archives import pack_shards, pack_zip
from training.dataset_tool.convert import IMAGE_FORMATS

RESOLUTION = 256
VIDEOS, NFRAMES, BATCH = 16, 16, 8
KINDS = {"PNG 256²": ("png", 256), "JPEG 256²": ("jpg", 256), "PNG 320²": ("png", 320), "JPEG 320²": ("jpg", 320)}


def draw_picture(generator: np.random.Generator, size: int) -> Image.Image:
    """Smooth noise in several octaves, which compresses about as well as a photograph."""
    total = np.zeros([size, size, 3])
    for octave in (4, 8, 16, 32, 64, 128):
        noise = generator.normal(size=[3, octave, octave]).astype(np.float32)
        large = [
            np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC)) for channel in noise
        ]
        total += np.stack(large, axis=-1) * 20 / (octave / 4) ** 0.6
    return Image.fromarray((128 + total).clip(0, 255).astype(np.uint8))


def write_noise_videos(folder: str, *, suffix: str, size: int) -> None:
    generator = np.random.default_rng(0)
    for video in range(VIDEOS):
        os.makedirs(os.path.join(folder, "videos", f"{video:04d}"))
        for frame in range(NFRAMES):
            file = os.path.join(folder, "videos", f"{video:04d}", f"{frame:06d}.{suffix}")
            draw_picture(generator, size).save(file, **IMAGE_FORMATS[suffix])


def pillow_alone(files: list[str]) -> None:
    """The lower limit: read, decode, resize, return the pixels."""
    for file in files:
        with open(file, "rb") as stream:
            data = stream.read()
        with Image.open(io.BytesIO(data)) as image:
            image = image.convert("RGB") if image.mode != "RGB" else image
            if image.size != (RESOLUTION, RESOLUTION):
                image = image.resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS)
            np.asarray(image)


def measure_pairs(folder: str, suffix: str, rounds: int) -> dict[str, float]:
    """CPU seconds for `rounds` × VIDEOS pairs: Pillow alone, and from a folder, a zip and shards of the same frames."""
    keep_freed_memory()  # as training does
    torch.set_num_threads(1)
    data = VideoPairDataset(path=folder, resolution=RESOLUTION)
    loaders = {
        "folder": make_loader(data, batch_size=BATCH),
        "zip": make_loader(VideoPairDataset(path=f"{folder}.zip", resolution=RESOLUTION), batch_size=BATCH),
    }
    streamed = ShardPairDataset(path=f"{folder}-shards", resolution=RESOLUTION)
    loaders["shards"] = make_shard_loader(streamed, batch_size=BATCH)
    seconds = dict.fromkeys(["limit", *loaders], 0.0)
    for epoch in range(rounds):
        files = []
        for index in range(VIDEOS):
            pair = data.pair_indices(epoch=epoch, index=index)
            files += [os.path.join(folder, "videos", f"{index:04d}", f"{f:06d}.{suffix}") for f in sorted({*pair})]
        with _timed(seconds, "limit"):
            pillow_alone(files)
        for name, loader in loaders.items():
            with _timed(seconds, name):
                for _ in range(VIDEOS // BATCH):
                    next(loader)
    return seconds


def measure_kind(base: str, *, suffix: str, size: int, rounds: int, processes: int) -> dict[str, float]:
    """Pairs per second of a core, averaged over processes."""
    folder = os.path.join(base, f"{suffix}{size}")
    write_noise_videos(folder, suffix=suffix, size=size)
    pack_zip(folder, f"{folder}.zip")
    manifest = {"format": SHARDS_FORMAT, "nframes": NFRAMES}
    pack_shards(folder, f"{folder}-shards", manifest=manifest, clips_per_shard=VIDEOS)
    totals: dict[str, float] = {}
    for _ in range(processes):  # one after another, each new
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            for name, spent in pool.apply(measure_pairs, (folder, suffix, rounds)).items():
                totals[name] = totals.get(name, 0) + spent
    return {name: processes * rounds * VIDEOS / spent for name, spent in totals.items()}


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    seconds[name] += time.process_time() - start


def measure_listing(frames: int) -> dict[str, float]:
    """Seconds to list `frames` empty files, 16 to a folder: without and with the cached listing."""
    with tempfile.TemporaryDirectory() as base:
        root = os.path.join(base, "set")
        for video in range(frames // 16):
            folder = os.path.join(root, "videos", f"{video:06d}")
            os.makedirs(folder)
            for frame in range(16):
                open(os.path.join(folder, f"{frame:06d}.png"), "wb").close()
        time.sleep(3)  # listings of folders that have just changed are not cached
        previous = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = os.path.join(base, "cache")
        try:
            times = []
            for _ in range(2):
                start = time.perf_counter()
                listing = list_files(root)
                times.append(time.perf_counter() - start)
            assert len(listing.names) == frames // 16 * 16
        finally:
            if previous is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = previous
    return {"first": times[0], "again": times[1]}


def measure(
    *, rounds: int, processes: int, frames: int, kinds: Mapping[str, tuple[str, int]] = KINDS
) -> dict[str, Any]:
    """Pairs per second of each kind of file, and seconds to list `frames` files."""
    results: dict[str, Any] = {"pairs per second": {}, "listing": {"frames": frames, **measure_listing(frames)}}
    with tempfile.TemporaryDirectory() as base:
        for name, (suffix, size) in kinds.items():
            results["pairs per second"][name] = measure_kind(
                base, suffix=suffix, size=size, rounds=rounds, processes=processes
            )
    return results


def show(results: dict[str, Any]) -> str:
    """A table."""
    lines = [f"{'pairs/s of one core':<22}{'limit':>8}" + "".join(f"{n:>16}" for n in ("folder", "zip", "shards"))]
    for name, rates in results["pairs per second"].items():
        cells = [f"{rates[n]:8.0f} ({rates[n] / rates['limit']:4.0%}) " for n in rates if n != "limit"]
        lines.append(f"{name:<22}{rates['limit']:>8.0f}" + "".join(f"{cell:>16}" for cell in cells))
    listing = results["listing"]
    lines.append(f"listing {listing['frames']} frames: {listing['first']:.2f} s, again {listing['again']:.2f} s")
    return "\n".join(lines)


@click.command(cls=Command)
@JSON_OPTION
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Passes over 16 clips.")
@click.option("--processes", type=click.IntRange(min=1), default=8, show_default=True, help="Processes to average.")
@click.option("--frames", type=click.IntRange(min=16), default=200_000, show_default=True, help="Files to list.")
def main(file: Path | None, rounds: int, processes: int, frames: int) -> None:
    """Measure and print a table."""
    results = measure(rounds=rounds, processes=processes, frames=frames)
    click.echo(show(results))
    write_json(file, results)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
