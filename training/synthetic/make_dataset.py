"""Videos of synthetic talking heads with their ground truth.

    OUT/videos/00007/000003.png     a frame; the layout of every training set
    OUT/truth/00007.npz             ground truth of the video: camera, codes, depth, opacity (see `Truth`)
    OUT/dataset.json                the cameras' angles, for camera_condition (see training.data.annotations)
    OUT/synthetic.json              the configuration of the set

Every video has its own content, motion and background and one camera from the prior of a model (conf/model), rendered
by `renderer` from the formulas in `training.synthetic.head_model`. The same options give the same files, byte for byte
(with one version of PyTorch and Pillow). A repeated command continues an interrupted one; OUT gets its name when it is
complete.
"""

import contextlib
import glob
import io
import json
import os
import shutil
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dnnlib import UserError, atomic_write, exclusive_lock, explain_file_trouble, made_folder, short_name
from dnnlib.processes import cores, parallel_map
from renderer.cameras import Cameras, camera_angles
from renderer.video import image_grid, save_png
from training.data.dataset_folders import SETTINGS, SYNTHETIC, keep_out_of_made_data
from training.data.names import ANNOTATIONS
from training.synthetic.render import SyntheticConfig, render_video

__all__ = ["make_dataset", "read_config"]

SHEET = (8, 4)  # videos and frames of each on the contact sheet


def read_config(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Configuration of the set in a folder; None if it is not one of these sets."""
    try:
        with open(os.path.join(folder, SYNTHETIC), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _write_video(config: SyntheticConfig, folder: str, index: int) -> None:
    """Write a video unless it exists; a folder of frames gets its name when it is complete, after its ground truth."""
    name = f"{index:05d}"
    target = os.path.join(folder, "videos", name)
    if os.path.isdir(target):
        return
    frames, truth = render_video(config, index)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **truth)
    with atomic_write(os.path.join(folder, "truth", f"{name}.npz")) as file:
        file.write(buffer.getvalue())
    unfinished = os.path.join(folder, "videos", f".{name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    os.mkdir(unfinished)
    for number, frame in enumerate(frames):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(os.path.join(unfinished, f"{number:06d}.png"))
    os.rename(unfinished, target)


# ----------------------------------------------------------------------------------------------------------------------
# The set


def make_dataset(out: str | os.PathLike, config: SyntheticConfig, *, workers: int | None = None) -> None:
    """Make the set `out`, or finish it; does nothing if it is complete.

    Args:
        workers: Processes; None for one per core.

    Raises:
        UserError: `out` is something else, or was made with other options; it cannot be written; a process died.
    """
    out = os.path.realpath(out)  # through a link, which may lead to a folder that does not exist yet
    if _is_complete(out, config):
        return
    keep_out_of_made_data(out)
    unfinished = os.path.join(os.path.dirname(out), f".{short_name(os.path.basename(out))}.unfinished")
    # Several processes may ask for one set: the others wait.
    with explain_file_trouble(out), made_folder(unfinished), exclusive_lock(unfinished):
        if _is_complete(out, config):  # another process has just made it
            shutil.rmtree(unfinished, ignore_errors=True)
            return
        _begin(unfinished, config)
        try:
            _write_videos(unfinished, config, workers or cores())
        except BaseException:
            # With nothing to continue from, the folder is emptied and not removed: others may wait for its lock.
            with contextlib.suppress(OSError):
                if not glob.glob("videos/*", root_dir=unfinished):  # hidden ones are incomplete
                    _clear(unfinished)
            raise
        _write_cameras(unfinished, config)
        _write_sheet(unfinished, config)
        os.sync()  # one flush for all the small files, before they get the name of a complete set
        os.rename(unfinished, out)


def _is_complete(out: str, config: SyntheticConfig) -> bool:
    if not os.path.exists(out):
        return False
    there = read_config(out)
    if there is None:
        raise UserError(f"'{out}' is there already and is not a set made by this tool: choose another folder.")
    # Through JSON, which turns tuples into lists.
    wanted = json.loads(json.dumps(config.as_dict()))
    other = [key for key in wanted if there.get(key) != wanted[key]]
    if other:
        raise UserError(
            f"'{out}' is there already, made with {other[0]} {there.get(other[0])} instead of {wanted[other[0]]}: "
            "remove it or choose another folder."
        )
    return True


def _begin(folder: str, config: SyntheticConfig) -> None:
    """Continue with the folder's content if it was made with this configuration, else start over."""
    os.makedirs(folder, exist_ok=True)
    wanted = json.loads(json.dumps(config.as_dict()))
    if os.path.exists(os.path.join(folder, SETTINGS)):
        raise UserError(
            f"'{folder}' holds an unfinished dataset of `python -m training.dataset_tool`: repeat that command to "
            "finish it, or remove it."
        )
    if read_config(folder) != wanted:
        _clear(folder)
        with atomic_write(os.path.join(folder, SYNTHETIC), "w") as file:
            json.dump(wanted, file, indent=1)
    for name in ("videos", "truth"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)


def _clear(folder: str) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def _write_videos(folder: str, config: SyntheticConfig, workers: int) -> None:
    with tqdm(total=config.videos, desc="rendering videos", unit="video", disable=None, dynamic_ncols=True) as bar:
        videos = range(config.videos)
        for _ in parallel_map(_write_on_one_core, videos, shared=(config, folder), workers=workers):
            bar.update()


def _write_on_one_core(shared: tuple[SyntheticConfig, str], index: int) -> None:
    """Write a video on one core: sums do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _write_video(*shared, index)
    finally:
        torch.set_num_threads(threads)


def _write_cameras(folder: str, config: SyntheticConfig) -> None:
    cameras = []
    for index in range(config.videos):
        with np.load(os.path.join(folder, "truth", f"{index:05d}.npz")) as truth:
            camera = Cameras(torch.from_numpy(truth["cam2world"])[None], torch.from_numpy(truth["fov"])[None])
        cameras.append([f"videos/{index:05d}", camera_angles(camera)[0].tolist()])
    with atomic_write(os.path.join(folder, ANNOTATIONS), "w") as file:
        json.dump({"cameras": cameras}, file)


def _write_sheet(folder: str, config: SyntheticConfig) -> None:
    """Write a contact sheet of a few videos: a row each, time from left to right."""
    rows, columns = min(SHEET[0], config.videos), min(SHEET[1], config.frames)
    numbers = np.linspace(0, config.frames - 1, columns).round().astype(int)
    cells = []
    for index in range(rows):
        for number in numbers:
            with Image.open(os.path.join(folder, "videos", f"{index:05d}", f"{number:06d}.png")) as image:
                cells.append(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()))
    # Not among the frames, and hidden: a picture in the root would be taken for a loose frame.
    save_png(image_grid(torch.stack(cells), columns * 2), os.path.join(folder, ".preview.png"))
