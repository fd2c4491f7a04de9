"""Archives of datasets: an uncompressed zip of frames, or webdataset shards of clips.

In a tar file (a shard), a clip of `nframes` frames is one sample: members that share their name up to the first dot,
`<clip>.000.png … <clip>.015.png` and `<clip>.json` with its video, the index of its first frame, and its label and
camera if they are known. Clips are shuffled over the shards with a fixed seed, so that sequential reading is already
mixed. `index.json` gives the number of samples of each shard, in the format of webdataset's tools.

Both are reproducible byte for byte from the same frames.
"""

import io
import json
import os
import shutil
import tarfile
import zipfile
from typing import Any

import numpy as np
from tqdm import tqdm

from training.data.annotations import has_entries, read_cameras, read_labels
from training.data.camera_statistics import camera_percentiles
from training.data.frame_store import FrameStore
from training.data.names import MANIFEST, natural_key
from training.data.webdataset_files import SHARD_INDEX
from training.dataset_tool.staging import write_json

__all__ = ["pack_shards", "pack_zip"]

EPOCH = (1980, 1, 1, 0, 0, 0)  # the date of all members: the earliest of the zip format


def pack_zip(folder: str, file: str) -> str:
    """Write the files of a folder into a zip, in natural order; returns its path."""
    members = []
    for base, folders, names in os.walk(folder):
        folders.sort(key=natural_key)
        members += [os.path.join(base, name) for name in sorted(names, key=natural_key)]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for member in tqdm(members, desc="packing", unit=" files", disable=None, dynamic_ncols=True):
            info = zipfile.ZipInfo(os.path.relpath(member, folder).replace(os.sep, "/"), EPOCH)
            info.external_attr = 0o644 << 16
            with open(member, "rb") as stream:
                archive.writestr(info, stream.read())
    return file


def pack_shards(folder: str, out: str, *, manifest: dict[str, Any], clips_per_shard: int) -> str:
    """Write the clips of a folder of frames into `out`/shard-000000.tar, …, with manifest and index; returns `out`.

    Adds `num_clips`, `c_dim` (length of a label, 0 without labels), `cameras` (true if they are known) and the cameras'
    percentiles to the manifest.
    """
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    store, nframes = FrameStore(folder), manifest["nframes"]
    labels, c_dim = None, 0
    if has_entries(store, "labels"):
        labels, c_dim = read_labels(store, store.videos)
    cameras = read_cameras(store, store.videos) if has_entries(store, "cameras") else None
    clips = [(number, k * nframes) for number, v in enumerate(store.videos) for k in range(len(v) // nframes)]
    order = np.argsort(np.random.Generator(np.random.Philox(key=len(clips))).random(len(clips)), kind="stable")
    counts = []
    with tqdm(total=len(clips), desc="packing", unit=" clips", disable=None, dynamic_ncols=True) as bar:
        for start in range(0, len(clips), clips_per_shard):
            chosen = order[start : start + clips_per_shard]
            name = f"shard-{start // clips_per_shard:06d}.tar"
            with tarfile.open(os.path.join(out, name), "w", format=tarfile.USTAR_FORMAT) as archive:
                for position, clip in enumerate(chosen.tolist(), start=start):
                    number, first = clips[clip]
                    known = {"label": labels, "camera": cameras}
                    known = {key: values[number].tolist() for key, values in known.items() if values is not None}
                    _write_clip(archive, f"{position:09d}", store, number, range(first, first + nframes), known)
                    bar.update()
            counts.append({"url": name, "nsamples": len(chosen)})
    manifest.update(num_clips=len(clips), c_dim=c_dim, cameras=cameras is not None)
    if cameras is not None:
        of_clips = cameras[[number for number, _ in clips]]
        manifest["camera_percentiles"] = camera_percentiles(of_clips).round(5).tolist()
    write_json(os.path.join(out, SHARD_INDEX), {"wids_version": 1, "shardlist": counts})
    write_json(os.path.join(out, MANIFEST), manifest)
    return out


def _write_clip(
    archive: tarfile.TarFile, key: str, store: FrameStore, number: int, frames: range, known: dict[str, Any]
) -> None:
    video = store.videos[number]
    for position, frame in enumerate(frames):
        suffix = os.path.splitext(store.frame_name(video, frame))[1]
        _add(archive, f"{key}.{position:03d}{suffix}", store.frame_bytes(video, frame))
    about = {"video": video.path, "first": frames.start, **known}
    _add(archive, f"{key}.json", json.dumps(about, ensure_ascii=False).encode(errors="backslashreplace"))


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    archive.addfile(info, io.BytesIO(data))
