"""A web page for a generator: `python -m renderer.app --network_pkl PKL`.

Seed, motion, camera and time give a frame and a video. The viewer (`python -m renderer.viewer`) can do more; this page
is plain HTML and suits small machines, notebooks and Spaces. The command connects a generator to the page, which itself
knows no network.
"""

import contextlib
import threading

import click

from dnnlib import run_cli
from dnnlib.command_line import Command
from training.inference.cli_options import LABEL, LABEL_HELP, NETWORK, rendering_device

# PyTorch, Gradio and the networks are imported where they are used, so that --help and usage errors respond at once.

LOCAL = "127.0.0.1"
SMALLEST = 256  # pixels of a frame's side on the page; smaller frames have their pixels repeated
option = click.option


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@option("--network_pkl", required=True, type=NETWORK, help="A checkpoint, a run folder, a URL, or a Hub id.")
@option("--host", default=LOCAL, help="Address to listen on; 0.0.0.0 accepts connections from other machines.")
@option("--port", default=7860, type=click.IntRange(min=0, max=65535), help="Port; 0 for any free one.")
@option("--class_idx", type=LABEL, help=LABEL_HELP)
@option("--device", help="cpu, cuda, cuda:1, …  [default: cuda if there is one]")
def main(network_pkl: str, host: str, port: int, class_idx: int | list[float] | None, device: str | None) -> None:
    """Render frames and videos of a generator on a web page."""
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(open_page(network_pkl, class_idx=class_idx, device=device))
        from renderer.app.page import launch_page

        address = launch_page(page, host=host, port=port)
        stack.callback(page.close)
        click.echo(f"Open {address} (Ctrl-C ends it).")
        with contextlib.suppress(KeyboardInterrupt):  # the normal way to end
            threading.Event().wait()


@contextlib.contextmanager
def open_page(network_pkl: str, *, class_idx: int | list[float] | None, device: str | None):
    """The page of a generator; its videos lie in a temporary folder, which is removed at the end.

    Raises:
        UserError: No such device or class, nothing to render, or Gradio is missing.
    """
    from renderer.app.page import build_page, temporary_videos
    from training.inference.cli_options import label_of_class
    from training.inference.latents import lacks_motion, lacks_time
    from training.inference.render_videos import save_video
    from training.inference.video_generator import load_generator

    G = load_generator(network_pkl, device=rendering_device(device))
    label_of_class(G.network, class_idx)  # raises if a class is needed and missing, or out of range
    enlarge = max(1, -(-SMALLEST // G.resolution))

    def enlarged(pixels):
        return pixels.repeat_interleave(enlarge, dim=-1).repeat_interleave(enlarge, dim=-2).cpu()

    def render_frame(seed, motion_seed, psi, time, yaw, pitch):
        pixels = G.frame(seed, motion_seed, t=time, yaw=yaw, pitch=pitch, truncation_psi=psi, class_idx=class_idx)
        return enlarged(pixels).permute(1, 2, 0).numpy()

    def write_video(path, seed, motion_seed, psi, program, frames):
        video = G.video(seed, motion_seed, program=program, frames=int(frames), truncation_psi=psi, class_idx=class_idx)
        save_video(path, enlarged(video))

    yaw, pitch = (round((high - low) / 2, 2) or 0.5 for low, high in (G.camera_prior.yaw, G.camera_prior.pitch))
    with temporary_videos() as folder:
        yield build_page(
            title=f"{G.about['dataset'].get('name', '3D-aware')} videos",
            render_frame=render_frame,
            write_video=write_video,
            yaw=yaw,
            pitch=pitch,
            has_motion=not lacks_motion(G.network),
            has_time=not lacks_time(G.network),
            folder=folder,
        )


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False, prog_name="python -m renderer.app"))
