"""Surfaces of a trained generator as coloured meshes: `python -m renderer.geometry`. See docs/geometry.md.

    python -m renderer.geometry --outdir out --network_pkl network-snapshot.pkl --seeds 0-3 --times 0,0.5,1

This script puts networks and renderer together, as generate.py does; no other module imports it.
"""

import json
import math
import os
from typing import Any

import click

from dnnlib import UserError, atomic_write, parse_int_list, run_cli
from training.rendering_choices import label_of_class, pair_seeds, pick_device

# PyTorch and the networks are imported where they are used: --help and mistakes in the arguments answer at once.

VIEWS = (0.0, 0.5, 1.0)  # fractions of the range of yaw: where the level is matched
CHECKED_VIEWS = (0.0, 0.25, 0.5, 0.75, 1.0)
CHECKED_SIZE = 64  # pixels along a side, more than the level was matched with
LARGEST = 512  # cells along a side: the grid then takes about a gigabyte
MAX_MOMENTS = 1000


def parse_times(times: str, time_steps: int | None) -> list[float]:
    """The moments of --times, or of --time_steps in equal steps from 0 to 1."""
    if time_steps is not None:
        return [i / max(time_steps - 1, 1) for i in range(time_steps)]
    moments = []
    for part in times.split(","):
        try:
            moments.append(float(part))
        except ValueError:
            moments.append(math.nan)
        if not math.isfinite(moments[-1]):
            raise UserError(f"--times: '{part.strip()}' is not a number; write for example 0,0.5,1.")
    if len(moments) > MAX_MOMENTS:
        raise UserError(f"--times: these are {len(moments)} moments; at most {MAX_MOMENTS} are made at once.")
    return moments


option = click.option


@click.command(context_settings={"max_content_width": 120, "show_default": True})
@option("--outdir", required=True, type=click.Path(file_okay=False), help="Folder for the meshes.")
@option("--network_pkl", required=True, type=click.Path(exists=True), help="A checkpoint, or a run folder.")
@option("--seeds", default="0", metavar="LIST", help="Content seeds, like 1,2,5-8.")
@option("--motion_seeds", metavar="LIST", help="Motion seeds.  [default: the content seeds]")
@option(
    "--times", default="0.5", metavar="LIST", help="Moments like 0,0.5,1; 0 to 1 is the clip, beyond it is untrained."
)
@option("--time_steps", type=click.IntRange(1, MAX_MOMENTS), help="So many moments from 0 to 1 instead of --times.")
@option("--format", "suffix", default="glb", type=click.Choice(["glb", "ply"]), help="Of the files.")
@option("--sequence", is_flag=True, help="One animated GLB per video instead of a file per moment.")
@option("--fps", default=8.0, type=click.FloatRange(min=0, min_open=True), help="Moments per second of a sequence.")
@option("--resolution", default=128, type=click.IntRange(8, LARGEST), help="Grid cells along the longest side.")
@option(
    "--level",
    type=click.FloatRange(min=0, min_open=True),
    help="Density at the surface.  [default: the one whose outline agrees with the rendered opacity]",
)
@option(
    "--min_piece",
    default=0.02,
    type=click.FloatRange(0, 1),
    help="Remove pieces with less than this share of the largest one's area; 0 keeps all.",
)
@option("--truncation_psi", default=1.0, help="Truncation; below 1: closer to the average, less varied.")
@option("--class_idx", type=click.IntRange(min=0), help="Class, for a generator trained with labels.")
@option("--device", help="cpu, cuda, cuda:1, …  [default: cuda if there is one]")
@option("--chunk", default=1 << 16, type=click.IntRange(min=1), help="Points evaluated at a time; less saves memory.")
@option("--check", is_flag=True, help="Compare the meshes' outlines with the rendered opacity from five views.")
def main(
    outdir: str,
    network_pkl: str,
    seeds: str,
    motion_seeds: str | None,
    times: str,
    time_steps: int | None,
    sequence: bool,
    suffix: str,
    **options: Any,
) -> None:
    """Write the surface of a generator's foreground as coloured meshes, in scene units."""
    pairs = pair_seeds(
        parse_int_list(seeds, name="--seeds"),
        None if motion_seeds is None else parse_int_list(motion_seeds, name="--motion_seeds"),
    )
    moments = parse_times(times, time_steps)
    if sequence and suffix != "glb":
        raise UserError("--sequence: only glb files can be animated; leave --format out, or leave --sequence out.")
    try:
        import skimage  # noqa: F401
        import trimesh  # noqa: F401
    except ImportError as error:
        raise UserError("Meshes need two more packages: `pip install scikit-image trimesh`.") from error

    from torch_utils.host_memory import keep_freed_memory
    from torch_utils.out_of_memory import explain_out_of_memory
    from training.checkpoint import load_generator

    device = pick_device(options["device"])
    if device.type == "cpu":
        keep_freed_memory()
    maker = MeshMaker(load_generator(network_pkl, device=device), device=device, **_making(options))
    videos = [maker.video(seed, motion_seed) for seed, motion_seed in pairs]
    try:
        os.makedirs(outdir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--outdir: cannot make the folder {outdir}: {error.strerror}.") from error

    from tqdm import tqdm

    from renderer.mesh_files import write_glb, write_ply

    explained = explain_out_of_memory("Lower --chunk or --resolution.")
    with explained, tqdm(total=len(pairs) * len(moments), unit="mesh", disable=None) as progress:
        for (seed, motion_seed), video in zip(pairs, videos):
            stem = f"geometry_seed{seed:04d}_motion{motion_seed:04d}"
            level = maker.level(video, moments, name=stem)
            rows, meshes = [], []
            for i, time in enumerate(moments):
                mesh, row = maker.mesh(video, time, level)
                name = f"{stem}_{i:04d}.{suffix}"
                if sequence:
                    meshes.append(mesh)
                elif suffix == "glb":
                    write_glb([mesh], os.path.join(outdir, name), names=[f"time {time:g}"])
                else:
                    write_ply(mesh, os.path.join(outdir, name))
                rows.append({"time": time, "file": f"{stem}.glb" if sequence else name, **row})
                progress.write(_line(stem, rows[-1]))
                progress.update()
            if sequence:
                names = [f"{i}: time {time:g}" for i, time in enumerate(moments)]
                write_glb(meshes, os.path.join(outdir, f"{stem}.glb"), names=names, fps=options["fps"])
            about = {"seed": seed, "motion_seed": motion_seed, "level": level, **maker.about(), "meshes": rows}
            with atomic_write(os.path.join(outdir, f"{stem}.json"), "w") as file:
                json.dump(about, file, indent=1)


def _making(options: dict[str, Any]) -> dict[str, Any]:
    names = ("resolution", "level", "min_piece", "truncation_psi", "class_idx", "chunk", "check")
    return {name: options[name] for name in names}


def _line(stem: str, row: dict[str, Any]) -> str:
    text = f"{stem} time {row['time']:g}: {row['faces']} triangles, {row['removed_pieces']} small pieces removed"
    if "overlap" in row:
        views = " ".join(f"{value:.3f}" for value in row["overlap"])
        text += f", outline IoU from left to right {views}, mean {sum(row['overlap']) / len(row['overlap']):.3f}"
    return text


class MeshMaker:
    """Meshes of a generator's videos; the options of the command."""

    def __init__(
        self,
        generator,
        *,
        device,
        resolution: int,
        level: float | None,
        min_piece: float,
        truncation_psi: float,
        class_idx: int | None,
        chunk: int,
        check: bool,
    ):
        from renderer.meshes import Grid, sample
        from renderer.trained_volume import TrainedVolume

        self.generator, self.device, self.chunk, self.check = generator, device, chunk, check
        self.min_piece, self.truncation_psi, self._level = min_piece, truncation_psi, level
        self.label = label_of_class(generator, class_idx)
        settings = generator.settings
        volume = TrainedVolume(generator.camera_prior, near=settings.near, far=settings.far)
        self.box = [volume.low.tolist(), volume.high.tolist()]
        self.grid = Grid.around(*self.box, resolution=resolution)
        self.inside = sample(volume.signed_distance, self.grid, chunk=chunk)

    def about(self) -> dict[str, Any]:
        """What all meshes have in common."""
        return {"volume": self.box, "cell": self.grid.cell, "views": list(CHECKED_VIEWS) if self.check else []}

    def video(self, seed: int, motion_seed: int) -> dict[str, Any]:
        """Styles and codes of a video."""
        import torch

        from training.latents import seed_latents

        generator = self.generator
        sizes = {name: getattr(generator, name) for name in ("z_dim", "motion_dim", "background_dim")}
        try:
            codes = seed_latents(seed, motion_seed, **sizes)
        except ValueError as error:
            raise UserError(str(error)) from error
        label = None if self.label is None else self.label.to(self.device)
        with torch.no_grad():
            ws = generator.mapping(codes.z.to(self.device), label, truncation_psi=self.truncation_psi)
        return {"ws": ws, "z_motion": codes.z_motion.to(self.device), "z_bg": codes.z_bg.to(self.device)}

    def level(self, video: dict[str, Any], moments: list[float], *, name: str) -> float:
        """The density at the surface, the same for all moments of a video."""
        from renderer.meshes import density_of_opacity
        from renderer.silhouettes import matching_level, peak_densities

        if self._level is not None:
            return self._level
        settings = self.generator.settings
        cameras = self.generator.camera_prior.at(yaw=list(VIEWS)).to(self.device)
        size, near, far = settings.resolution, settings.near, settings.far
        fields = [self._field(video, time) for time in moments]
        peaks = [peak_densities(field.density, cameras, size, near=near, far=far) for field in fields]
        opacities = [field.opacity(cameras[i], size)[None] for field in fields for i in range(len(cameras))]
        step = (far - near) / (settings.num_samples - 1)
        level = matching_level(peaks, opacities, sharp=density_of_opacity(0.5, step))
        if level is None:
            raise UserError(
                f"No ray of {name} is half opaque in the foreground: there is no surface to show. A --level below "
                f"{max(float(peak.max()) for peak in peaks):.3g}, its highest density, would make one."
            )
        return level

    def mesh(self, video: dict[str, Any], time: float, level: float):
        """The coloured mesh of a moment, and figures about it."""
        from renderer.meshes import colour_vertices, extract_surface, remove_small_pieces, sample

        field = self._field(video, time)
        # Beyond the volume's end one cell more is needed, for the surface to be placed in between.
        where = self.inside > -2 * self.grid.cell
        density = sample(field.density, self.grid, where=where, chunk=self.chunk, device=self.device)
        mesh = extract_surface(density, self.grid, level=level, inside=self.inside)
        if mesh is None:
            raise UserError(
                f"There is no surface at time {time:g}: the density is nowhere above {density.max():.4g}, and --level "
                f"is {level:.4g}."
            )
        mesh, removed = remove_small_pieces(mesh, self.min_piece)
        mesh = colour_vertices(mesh, field.colour, chunk=self.chunk, device=self.device)
        row = {
            "vertices": len(mesh.vertices),
            "faces": len(mesh.faces),
            "removed_pieces": removed,
            "low": mesh.vertices.min(axis=0).tolist(),
            "high": mesh.vertices.max(axis=0).tolist(),
            "area": float(mesh.areas().sum()),
            "enclosed_volume": mesh.volume(),
        }
        if self.check:
            row["overlap"] = self._overlaps(mesh, field)
        return mesh, row

    def _overlaps(self, mesh, field) -> list[float]:
        """Intersection over union of the mesh's outline and the opaque pixels, per view."""
        from renderer.rasteriser import overlap, rasterise

        settings, found = self.generator.settings, []
        for fraction in CHECKED_VIEWS:
            camera = self.generator.camera_prior.at(yaw=fraction)
            opaque = (field.opacity(camera.to(self.device), CHECKED_SIZE) > 0.5).cpu().numpy()
            raster = rasterise(mesh, camera, CHECKED_SIZE, near=settings.near, far=settings.far)
            found.append(overlap(raster.covered, opaque))
        return found

    def _field(self, video: dict[str, Any], time: float):
        from training.point_field import PointField

        return PointField(self.generator, **video, time=time)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
