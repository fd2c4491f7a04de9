"""Selects what the tests store from the full set of measurements of the original system.

    python -m tests.goldens.pack FOLDER

FOLDER holds goldens_ops.npz, goldens_<config>.npz, losses_taichi.npz, programs_faceforensics.npz and
state_<config>.json. Networks are compared at fixed, randomly chosen pixels and rays, and in the mean and standard
deviation of everything; recorded random draws are cut to the rays that a phase renders. tests/data/README.md says what
each file holds.
"""

import argparse
import gzip
import json
from pathlib import Path

import numpy as np

from tests.goldens.subsets import NUM_RAYS, at_pixels, chosen

DATA = Path(__file__).parents[1] / "data"

# Units that have a counterpart. Resampling, activations and augmentations have files of their own.
UNITS = (
    "posenc/", "camera/", "rays/", "points/", "depth2pts_outside/", "tape2000/", "volume/", "sample_pdf/", "fc/",
    "conv2dlayer/x", "conv2dlayer/k1_linear/", "conv2dlayer/k3_lrelu_down2_clamp/", "synthlayer/w",
    "synthlayer/nn_cat_", "synthlayer/pixelshuffle_", "torgb", "style2", "motion/", "mbstd/",
)  # fmt: skip
NOT_UNITS = ("corner1", "theta", "use_pos", "nonfused", "tgt256", "noray/dists")

INPUTS = ("mapping/", "motion/", "inputs/z_motion", "inputs/z_shape_bg", "inputs/Ts", "inputs/ws", "camera/")
CASES = ("c1", "c0", "c2_fov20", "c1_steps20", "c1_wsvaried")
PASSES = ("fg_coarse", "fg_fine", "bg")


def pack_units(source: Path) -> None:
    arrays = dict(np.load(source / "goldens_ops.npz"))
    kept = {k: v for k, v in arrays.items() if k.startswith(UNITS) and not any(word in k for word in NOT_UNITS)}
    np.savez_compressed(DATA / "units.npz", **kept)


def pack_images(kept: dict, arrays: dict, key: str) -> None:
    """Some pixels of images [N, 3, H, W], and mean and standard deviation of each."""
    images = arrays[key]
    kept[f"{key}/pixels"] = at_pixels(images)
    kept[f"{key}/mean"] = images.mean(axis=(2, 3), dtype=np.float64)
    kept[f"{key}/std"] = images.std(axis=(2, 3), dtype=np.float64)


def pack_network(source: Path, config: str) -> None:
    arrays = dict(np.load(source / f"goldens_{config}.npz"))
    kept = {k: v for k, v in arrays.items() if k.startswith(INPUTS)}
    for case in CASES:
        pack_images(kept, arrays, f"eval_{case}/img")
        pack_images(kept, arrays, f"eval_{case}/img_nerf")
        rays = chosen(arrays[f"eval_{case}/fg_weights"].shape[1], NUM_RAYS)
        for name in ("fg_weights", "bg_lambda", "bg_weights"):
            kept[f"eval_{case}/{name}"] = arrays[f"eval_{case}/{name}"][:, rays]
    # Inputs and outputs of the fields along the first eight rays of frame 0; of the features a few.
    for name in PASSES:
        count = len(arrays[f"eval_c1/{name}/feat_ray0-7_f0"])
        kept[f"fields/{name}/points"] = arrays[f"eval_c1/{name}/points_ray0-63"][0, :count]
        kept[f"fields/{name}/directions"] = arrays[f"eval_c1/{name}/dirs_ray0-63"][0, :count]
        kept[f"fields/{name}/sigma"] = arrays[f"eval_c1/{name}/sigma"][0, :count]
        kept[f"fields/{name}/features"] = arrays[f"eval_c1/{name}/feat_ray0-7_f0"][:, :35]
    kept |= {k: v for k, v in arrays.items() if k.startswith("D/") and "logits" in k}
    kept |= {k: v for k, v in arrays.items() if k.startswith("train/inputs/") and not k.endswith("/K")}
    for run in ("train_tape3000", "train_half"):
        pack_images(kept, arrays, f"{run}/img")
        pack_images(kept, arrays, f"{run}/img_nerf")
        kept |= {k: v for k, v in arrays.items() if k.startswith((f"{run}/reg_loss", f"{run}/after/", f"{run}/log"))}
    rays = chosen(1024, NUM_RAYS)
    kept["train_tape3000/bg_lambda"] = arrays["train_tape3000/bg_lambda"][:, rays]
    np.savez_compressed(DATA / f"network_{config}.npz", **kept)


# What the draws of a phase are called here, by their place in the recording.
FAKE = {
    0: "times/a", 1: "times/b", 2: "latents/z_motion", 3: "mixing/cut", 4: "mixing/coin", 5: "mixing/z",
    6: "camera/yaw", 7: "camera/pitch", 8: "camera/radius", 14: "latents/z_bg", 18: "render/path_offset",
    19: "render/depth", 20: "render/density", 21: "render/importance", 22: "render/density_fine",
    23: "render/background_depth", 24: "render/background_density",
}  # fmt: skip
AUGMENTATION = ("brightness", "saturation", "contrast", "translation_x", "translation_y")


def named_draws(phase: str) -> dict[int, str]:
    fake = {25 + i: f"fake/diffaugment/{name}" for i, name in enumerate(AUGMENTATION)}
    real = {30 + i: f"real/diffaugment/{name}" for i, name in enumerate(AUGMENTATION)}
    return {
        "Gmain": FAKE | fake,
        "Greg": FAKE | {25: "path_length/noise"},
        "Dmain": FAKE | fake | real,
        "Dreg": {i - 30: name for i, name in real.items()},
    }[phase]


def pack_losses(source: Path) -> None:
    arrays = dict(np.load(source / "losses_taichi.npz"))
    kept = {}
    for phase in ("Gmain", "Greg", "Dmain", "Dreg"):
        batch = 1 if phase == "Greg" else 2
        for i, name in named_draws(phase).items():
            draw = arrays[f"{phase}/draw/{i:02d}"]
            if name == "render/path_offset" and phase != "Gmain":
                continue  # only Gmain looks at the lattice
            if draw.ndim == 3 and draw.shape[1] == 1280:
                # Recorded per frame, of which the first `batch` were used; the image's rays come before the lattice's.
                draw = draw[:batch, : None if phase == "Gmain" else 1024]
            kept[f"{phase}/draw/{name}"] = draw
        for key, value in arrays.items():
            if key.startswith(tuple(f"{phase}/{part}" for part in ("camera_world", "losses/", "report/", "after/"))):
                kept[key] = value
        for part in ("grad_names", "grad_norms", "grad_dots"):
            kept[f"{phase}/{part}"] = arrays[f"{phase}/{part}"]
    np.savez_compressed(DATA / "losses_taichi.npz", **kept)


def pack_rendered(source: Path) -> None:
    """Frames of the render command: moment 0 from its three cameras, and the three frames of its video."""
    arrays = np.load(source / "programs_faceforensics.npz")
    still = np.stack([arrays[f"rotation_camera_yaw/cam{i}/img_t0"] for i in range(3)])
    moving = arrays["rotation_camera_yaw/diag_imgs"]
    np.savez_compressed(DATA / "rendered_faceforensics.npz", still=at_pixels(still), moving=at_pixels(moving))


def pack_states(source: Path) -> None:
    states = {}
    for config in ("faceforensics", "mead", "taichi"):
        listing = json.loads((source / f"state_{config}.json").read_text())
        states[config] = {
            "num_ws": listing["num_ws"],
            "parameters": listing["params"],
            **{part: {entry["name"]: entry["shape"] for entry in listing[part]} for part in ("G", "D")},
        }
    text = json.dumps(states, separators=(",", ":"))
    (DATA / "published_states.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    pack_units(folder)
    pack_network(folder, "faceforensics")
    pack_network(folder, "taichi")
    pack_losses(folder)
    pack_rendered(folder)
    pack_states(folder)
