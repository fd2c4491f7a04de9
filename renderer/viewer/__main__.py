"""The viewer of a checkpoint or a training run: `python -m renderer.viewer --network_pkl PKL`.

The command connects networks to the viewer, which itself knows none.
"""

import contextlib
import logging
import os
from typing import Any

import click

from dnnlib import run_cli
from dnnlib.command_line import Command
from training.inference.cli_options import NETWORK, rendering_device

# PyTorch, viser and the networks are imported where they are used, so that --help and usage errors respond at once.

LOCAL = "127.0.0.1"
option = click.option


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@option("--network_pkl", required=True, type=NETWORK, help="A checkpoint, a run folder to watch, a URL, or a Hub id.")
@option("--host", default=LOCAL, help="Address to listen on; 0.0.0.0 accepts connections from other machines.")
@option("--port", default=8080, type=click.IntRange(min=0, max=65535), help="Port; 0 for any free one.")
@option("--device", help="cpu, cuda, cuda:1, …  [default: cuda if there is one]")
def main(network_pkl: str, host: str, port: int, device: str | None) -> None:
    """View a generator in a browser: turn the camera, scrub through time, change codes, save what is shown."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    server = start(network_pkl, host=host, port=port, device=device)
    with contextlib.suppress(KeyboardInterrupt):  # the normal way to end
        try:
            shown = {LOCAL: "localhost", "0.0.0.0": "localhost", "::": "::1"}.get(host, host)
            shown = f"[{shown}]" if ":" in shown else shown  # IPv6
            click.echo(f"Open http://{shown}:{server.port} (Ctrl-C ends it).")
            server.wait()
        finally:
            server.stop()


def start(network_pkl: str | os.PathLike, *, host: str, port: int, device: str | None) -> Any:
    """A running `renderer.viewer.server.ViewerServer`.

    Raises:
        UserError: No such device, nothing to look at, viser is missing, or the port is taken.
    """
    from renderer.viewer.checkpoint_list import CheckpointList
    from renderer.viewer.server import ViewerServer
    from training.checkpoints.pretrained import MODEL, is_pretrained
    from training.checkpoints.snapshot import load_average_generator, load_snapshot
    from training.checkpoints.snapshot_files import latest_snapshot, listed_snapshots
    from training.checkpoints.sources import local_checkpoint
    from training.inference.viewer_source import GeneratorViews

    device = rendering_device(device)
    path = local_checkpoint(network_pkl)
    if path.is_dir() and not is_pretrained(path) and not listed_snapshots(path):
        latest_snapshot(path)  # raises an error: there is none
    checkpoints = CheckpointList(
        path / MODEL if is_pretrained(path) else path,
        find=listed_snapshots,
        load=lambda path: GeneratorViews(load_average_generator(path, device=device)),
        check=lambda path: load_snapshot(path, average_only=True),
        report=lambda message: click.echo(message, err=True),
    )
    return ViewerServer(checkpoints, host=host, port=port)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False, prog_name="python -m renderer.viewer"))
