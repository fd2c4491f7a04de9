"""docs/learning.md from the figures of the study: targets and what was reached, curves, tables, pictures."""

import json
import math
from pathlib import Path

import torch

from benchmarks.learning.evaluation import LAGS, VIEW_ANGLE
from benchmarks.learning.pictures import depth_picture, save_grid
from benchmarks.learning.runs import COMMON, Run, run_folder, snapshots
from benchmarks.plots import draw_lines
from dnnlib import atomic_write
from renderer.depth import surface_depth
from torch_utils.rng import RandomStream
from training.checkpoints.snapshot import load_generator
from training.data.dataset import VideoPairDataset
from training.inference.frame_renderer import FrameRenderer

__all__ = ["write_report"]

NOTES = Path(__file__).with_name("notes.md")  # what no program can know: what was tried, and why something is missed
TARGETS = {"rfvd": 10.0, "motion_ratio": 2.0, "content_ratio": 2.0, "differences": 0.25, "warp_ratio": 1.5}


def write_report(work: Path, runs: list[Run], reference: dict, path: Path) -> None:
    """Write the page and its pictures beside it, `<name>-*.png`."""
    results = {run.name: _results(work, run) for run in runs}
    main, scenes = results["main"], reference["figures"]
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = {name: path.with_name(f"{path.stem}-{name}.png") for name in ("curve", "samples", "motion", "views")}
    draw_lines(
        pictures["curve"],
        {"rfvd": [(row["kimg"], row["rfvd"]) for row in main]},
        x_label="thousands of videos shown (kimg)",
        y_label="rfvd",
        floor=(scenes["rfvd_halves"], "two halves of the real set"),
    )
    _draw_model(work, runs[0], pictures)
    text = [
        _opening(runs, scenes, main, work),
        _targets(main, scenes),
        _distribution(main, pictures["curve"].name, pictures["samples"].name, scenes),
        _motion(main[-1], scenes, pictures["motion"].name),
        _geometry(main, scenes, pictures["views"].name),
        _ablations(runs, results),
        NOTES.read_text(encoding="utf-8").strip() + "\n",
    ]
    with atomic_write(path, "w") as file:
        file.write("\n".join(text))


def _results(work: Path, run: Run) -> list[dict]:
    """The figures of a run's snapshots, by kimg."""
    files = (work / "results").glob(f"{run.name}-[0-9]*.json")
    return sorted((json.loads(file.read_text(encoding="utf-8")) for file in files), key=lambda row: row["kimg"])


def _opening(runs: list[Run], scenes: dict, main: list[dict], work: Path) -> str:
    folder = run_folder(work, runs[0])
    rows = [json.loads(line) for line in (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    minutes = next(row["time"] for row in rows if row["kimg"] >= main[-1]["kimg"]) / 60
    words = " ".join(word for word in COMMON if not word.startswith(("device", "workers", "previews")))
    return f"""# What the small model learns

Written by `make learn` (`python -m benchmarks.learning`), with the figures of its own run; only the last section is
written by hand. The data are 512 videos of 16 frames at 32×32 of drawn heads (`python -m training.synthetic`), whose
geometry and motion are known; the same measures are applied to the scenes themselves for comparison. The main run
showed the small model {round(main[-1]["kimg"], 1):g} thousand videos in {minutes:.0f} minutes on one CPU core, with

    {words}

Ablations were shown {runs[1].kimg:g} thousand each. All snapshots are the moving average of the generator."""


def _targets(main: list[dict], scenes: dict) -> str:
    first, last = main[0], main[-1]
    fall = first["rfvd"] / last["rfvd"]
    ratios = {lag: last["frame_differences"][lag] / real for lag, real in scenes["frame_differences"].items()}
    worst = max(abs(ratio - 1) for ratio in ratios.values())
    shuffled = last["shuffled"]
    rows = [
        ("rfvd falls from the first snapshot", f"≥ {TARGETS['rfvd']:g}×", f"{fall:.0f}×", "", fall >= TARGETS["rfvd"]),
        (
            "motion: difference in moving / other regions",
            f"≥ {TARGETS['motion_ratio']:g}",
            f"{last['motion_ratio']:.1f}; shuffled {shuffled['motion_ratio']:.2f}",
            f"{scenes['motion_ratio']:.1f}",
            last["motion_ratio"] >= TARGETS["motion_ratio"],
        ),
        (
            "content: difference between contents / motions",
            f"≥ {TARGETS['content_ratio']:g}",
            f"{last['content_ratio']:.1f}; shuffled {shuffled['content_ratio']:.2f}",
            f"{scenes['content_ratio']:.1f}",
            last["content_ratio"] >= TARGETS["content_ratio"],
        ),
        (
            "frame differences, compared with real",
            f"within {TARGETS['differences']:.0%}",
            ", ".join(f"{ratio - 1:+.0%} ({lag})" for lag, ratio in ratios.items()) + " (frames apart)",
            "",
            worst <= TARGETS["differences"],
        ),
        (
            f"warping by ±{VIEW_ANGLE:g}°: error of the best plane / of the depth",
            f"≥ {TARGETS['warp_ratio']:g}",
            f"{last['warp_ratio']:.2f}",
            f"{scenes['warp_ratio']:.2f}",
            last["warp_ratio"] >= TARGETS["warp_ratio"],
        ),
    ]
    lines = ["| measure | target | reached | the scenes themselves | |", "| :-- | --: | --: | --: | :-- |"]
    lines += [f"| {a} | {b} | {c} | {d} | {'yes' if ok else '**no**'} |" for a, b, c, d, ok in rows]
    return "\n## Targets\n\n" + "\n".join(lines) + "\n"


def _distribution(main: list[dict], curve: str, samples: str, scenes: dict) -> str:
    lines = [
        "| kimg | rfvd | warp ratio | relief | parallax | bulge like heads |",
        "| --: | --: | --: | --: | --: | --: |",
    ]
    for row in main:
        lines.append(
            f"| {row['kimg']:.1f} | {row['rfvd']:.1f} | {row['warp_ratio']:.2f} | {row['relief']:.4f} | "
            f"{row['parallax']:.2%} | {row['convex_share']:.0%} |"
        )
    return f"""## Distribution

`rfvd` is the Fréchet distance of 512 generated and 512 real videos in the features of a fixed random network
(`metrics/random_features.py`). It is NOT FVD; it compares trainings on one set of data. Between two halves of the real
set it is {scenes["rfvd_halves"]:.1f}, more than it would be for two sets of 512. The first snapshot is that after one
optimiser step, an untrained fog: most of the fall is the way from fog to heads.

![rfvd over the training]({curve})

{chr(10).join(lines)}

![real and generated frames]({samples})

*Above: first frames of real videos. Below: generated ones, each from a random camera.*
"""


def _motion(last: dict, scenes: dict, picture: str) -> str:
    lines = ["| frames apart | generated | real | ratio |", "| --: | --: | --: | --: |"]
    for lag in map(str, LAGS):
        ours, real = last["frame_differences"][lag], scenes["frame_differences"][lag]
        lines.append(f"| {lag} | {ours:.2f} | {real:.2f} | {ours / real:.2f} |")
    return f"""## Motion and content

Twelve contents with eight motions each, seen from the front. The moving region of a content is the quarter of its
pixels that change most in time, found in the videos of every other motion and judged on the rest. Motion: the mean
difference between two motions there, divided by that elsewhere. Content: the mean difference between contents with one
motion, divided by that between motions of one content. Shuffled: the same videos dealt out at random.

![contents and motions]({picture})

*A row a content; two motions of eight, each at five moments.*

Mean absolute differences of frames, in grey levels of 255:

{chr(10).join(lines)}
"""


def _geometry(main: list[dict], scenes: dict, picture: str) -> str:
    last = main[-1]
    rows = [
        ("error of warping by depth", "{:.4f}", lambda x: x["warp"]["depth"]),
        ("… by the plane that fits the depth best", "{:.4f}", lambda x: x["warp"]["plane"]),
        ("… by a plane that faces the camera", "{:.4f}", lambda x: x["warp"]["facing_plane"]),
        ("… without warping", "{:.4f}", lambda x: x["warp"]["none"]),
        ("share of pixels with a surface", "{:.2f}", lambda x: x["surface"]),
        ("deviation of the depth (scene units)", "{:.4f}", lambda x: x["depth_deviation"]),
        ("relief: distance from the best plane, rms", "{:.4f}", lambda x: x["relief"]),
        ("parallax beyond a plane's (of the width)", "{:.2%}", lambda x: x["parallax"]),
        ("correlation of the mean depth with the scenes'", "{:.2f}", lambda x: x["depth_correlation"]),
        ("… of what lies beyond a plane", "{:.2f}", lambda x: x["relief_correlation"]),
        ("contents that bulge like heads, not like moulds", "{:.0%}", lambda x: x["convex_share"]),
    ]
    lines = ["| | model | scenes |", "| :-- | --: | --: |"]
    lines += [f"| {name} | {form.format(of(last))} | {form.format(of(scenes))} |" for name, form, of in rows]
    return f"""## Geometry

64 contents at one moment from the front and from {VIEW_ANGLE:g}° to either side. Every surface pixel of a side view is
looked up in the frontal view where its depth says, and where planes say; errors are mean absolute differences (0 to 1)
over the same pixels, hidden ones included. Depth maps have half the resolution of the images.

{chr(10).join(lines)}

![views and depth]({picture})

*Six contents from {-VIEW_ANGLE:g}° to {VIEW_ANGLE:g}° of yaw, and their depth from the front (near is bright).*

While it trains, every run logs surface, depth variance, relief and parallax
(`training/monitoring/geometry_monitor.py`) and warns when the parallax falls below 0.3 % of the image's width: less
than a tenth of a pixel at 32×32, less than one at 256×256.
What helps is written below.
"""


def _ablations(runs: list[Run], results: dict[str, list[dict]]) -> str:
    of_main = min(results["main"], key=lambda row: abs(row["kimg"] - runs[1].kimg))
    rows = [(runs[0].title, of_main)] + [(run.title, results[run.name][-1]) for run in runs[1:] if results[run.name]]
    lines = [
        "| | kimg | rfvd | motion | content | differences (1 / 15 apart) | surface | warp ratio | relief | parallax |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for title, row in rows:
        cells = [
            title,
            f"{row['kimg']:.1f}",
            f"{row['rfvd']:.1f}",
            _number(row.get("motion_ratio"), 1),
            _number(row.get("content_ratio"), 1),
            f"{row['frame_differences']['1']:.2f} / {row['frame_differences']['15']:.2f}",
            f"{row['surface']:.2f}",
            _number(row["warp_ratio"], 2),
            _number(row["relief"], 4),
            "–" if row["parallax"] is None else f"{row['parallax']:.2%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    missing = [run.title for run in runs[1:] if not results[run.name]]
    more = f"\nNot trained yet: {', '.join(missing)}.\n" if missing else ""
    opening = "## Ablations\n\nWhat all parts had reached after as many videos, and the study's other trainings.\n\n"
    return opening + "\n".join(lines) + "\n" + more


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


# ----------------------------------------------------------------------------------------------------------------------
# Pictures


@torch.no_grad()
def _draw_model(work: Path, run: Run, pictures: dict[str, Path]) -> None:
    generator = load_generator(snapshots(run_folder(work, run))[-1])
    prior, stream, count = generator.camera_prior, RandomStream(3), 16
    ws = generator.mapping(stream.normal("z", [count, generator.z_dim]), None)
    z_motion = stream.normal("z_motion", [count, generator.motion_dim])
    z_bg = stream.normal("z_bg", [count, generator.background_dim])
    scene = FrameRenderer(generator, ws, z_motion=z_motion, z_bg=z_bg)
    dataset = VideoPairDataset(path=work / "data", resolution=generator.resolution)
    real = torch.stack([dataset.clip(index)[0] for index in range(count)]).float() / 255
    fake = (scene.render(0.5, prior.sample(count, stream)) + 1) / 2
    save_grid(pictures["samples"], torch.cat([real, fake]), 8, scale=3)

    rows = []
    for content in range(4):
        one = FrameRenderer(
            generator,
            ws[content : content + 1].repeat(2, 1, 1),
            z_motion=z_motion[:2],
            z_bg=z_bg[content : content + 1].repeat(2, 1),
        )
        times = [one.render(step / 4, prior.at().repeat(2)) for step in range(5)]
        rows.append(torch.stack(times, dim=1).flatten(0, 1))  # [motions · times, 3, H, W]
    save_grid(pictures["motion"], (torch.cat(rows) + 1) / 2, 10, scale=3)

    pitch = (prior.pitch[0] + prior.pitch[1]) / 2
    angles = [math.radians(VIEW_ANGLE) * step / 2 for step in (-2, -1, 0, 1, 2)]
    views = [scene.output(0.5, prior.at_angles(angle, pitch).repeat(count)) for angle in angles]
    front = views[2]
    depth, weights = surface_depth(front.depth[:, 0], front.opacity[:, 0], background=generator.background is not None)
    cells = [(view.image[:6, 0] + 1) / 2 for view in views] + [
        depth_picture(depth[:6], weights[:6], generator.resolution)
    ]
    save_grid(pictures["views"], torch.stack(cells, dim=1).flatten(0, 1), 12, scale=3)
