"""A trained generator as a folder to share, and its upload to the Hugging Face Hub.

    python -m training.sharing runs/00000-clips model --licence cc-by-4.0 --data "Clips of …, filmed by …."
    python -m training.sharing runs/00000-clips model --licence cc-by-4.0 --push user/name

The folder holds config.json, model.safetensors, samples.png and README.md, the model card: data, progress, the newest
value of each metric of the run, licence, picture, and the command that renders the model (docs/python.md).
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import click

from dnnlib import UserError, run_cli
from dnnlib.command_line import Command
from dnnlib.util import UNFINISHED
from training.data.dataset_folders import keep_apart, trained_on
from training.inference.cli_options import NETWORK, pick_device

# PyTorch and the networks are imported where they are used, so that --help and errors in the arguments are immediate.


def rows_of_snapshot(snapshot: Path, cur_nimg: int | None) -> list[dict[str, Any]]:
    """Figures for the card: the newest of each metric in the folder of a snapshot that was measured on this snapshot.

    `python -m metrics` records the SHA-256 of the file that it measured; the rows that training adds to its run folder
    are known by their progress.

    Args:
        cur_nimg: Progress of the snapshot.
    """
    from dnnlib.downloads import sha256_of
    from metrics.results import figures
    from training.report.run_reader import metric_rows

    found, digest = [], None
    for name, rows in metric_rows(snapshot.parent).items():
        if digest is None and any("checkpoint_sha256" in row for row in rows):
            with contextlib.suppress(FileNotFoundError):  # a run in progress has deleted it
                digest = sha256_of(snapshot)
        own = [
            row
            for row in rows
            if row.get("checkpoint_sha256", digest) == digest
            and row.get("cur_nimg") == cur_nimg
            and ("checkpoint_sha256" in row or cur_nimg is not None)
        ]
        if own:
            newest = figures(name, own[-1]).items()
            found += [{"metric": label, "value": value, "interval": interval} for label, (value, interval, _) in newest]
    return found


def check_out(out: Path, *, discriminators: bool) -> None:
    """Refuse a folder that would hold more than this model: all of its files are uploaded.

    Unfinished files and folders of a command that was killed are deleted.

    Args:
        discriminators: They will be written, too.

    Raises:
        UserError: It holds files but no model, or discriminators that would stay beside another generator.
    """
    from training.checkpoints.pretrained import DISCRIMINATOR_CONFIG, DISCRIMINATOR_MODEL, is_own

    found = list(out.iterdir()) if out.is_dir() else []
    unfinished = [path for path in found if UNFINISHED.fullmatch(path.name)]
    if len(found) > len(unfinished) and not is_own(out):
        raise UserError(f"'{out}' holds files of something else; choose an empty or a new folder for the model.")
    if not discriminators and any((out / name).exists() for name in (DISCRIMINATOR_CONFIG, DISCRIMINATOR_MODEL)):
        raise UserError(
            f"'{out}' holds discriminators, which need not belong to this generator: add --discriminators, or choose "
            "another folder."
        )
    for path in unfinished:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@click.command(cls=Command, context_settings={"max_content_width": 120})
@click.argument("network_pkl", metavar="PKL", type=NETWORK)
@click.argument("out", metavar="OUT", type=click.Path(file_okay=False))
@click.option("--licence", default="", help="Licence of the weights, an id of the Hub: apache-2.0, cc-by-4.0, other, …")
@click.option("--data", default="", help="A sentence about the training data, for the card.")
@click.option("--discriminators", is_flag=True, help="Also write the discriminators, for resume= and training code.")
@click.option("--push", metavar="USER/NAME", help="Upload the folder to this model of the Hugging Face Hub.")
@click.option("--private", is_flag=True, help="With --push: make a newly created model visible to its owner only.")
@click.option("--device", help="cpu, cuda, cuda:1, …  [default: cuda if there is one]")
def main(
    network_pkl: str,
    out: str,
    licence: str,
    data: str,
    discriminators: bool,
    push: str | None,
    private: bool,
    device: str | None,
) -> None:
    """Write the generator of PKL (a snapshot, a run folder, a published checkpoint) into the folder OUT."""
    if private and push is None:
        raise UserError("--private belongs to an upload: add --push USER/NAME, or leave it out.")
    from training.checkpoints.sources import check_upload, upload_folder

    if push is not None:
        check_upload(push)
    check_out(Path(out), discriminators=discriminators)
    keep_apart(out, option="OUT", data=[trained_on(network_pkl)])

    from torch_utils.memory import explain_out_of_memory
    from training.checkpoints.snapshot import average_generator, checkpoint_file, load_snapshot, stored_discriminators
    from training.inference.video_discriminators import VideoDiscriminators
    from training.inference.video_generator import VideoGenerator

    picked, snapshot = pick_device(device), checkpoint_file(network_pkl)
    content = load_snapshot(snapshot, average_only=not discriminators)  # once: a run in progress may replace it
    about = {name: dict(content[name]) for name in ("dataset", "progress")}
    generator = VideoGenerator(average_generator(content, source=network_pkl, device=picked), about=about)
    networks = [generator]
    if discriminators:
        networks.append(VideoDiscriminators(stored_discriminators(content, source=network_pkl)))
    rows = rows_of_snapshot(snapshot, about["progress"].get("cur_nimg"))
    for network in networks:
        network.save_pretrained(out)
    name = push or os.path.basename(os.path.abspath(out))
    with explain_out_of_memory(f"Samples are rendered on {picked}: end other programs, or give another --device."):
        generator.save_card(out, name, data=data, licence=licence, metrics=rows)
    click.echo(out)
    if push is not None:
        click.echo(upload_folder(out, push, private=private, message="Upload the generator"))


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
