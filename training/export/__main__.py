"""Export of a generator as a function of one frame, for programs without this code.

    python -m training.export network-snapshot.pt frame.onnx --format onnx
    python -m training.export network-snapshot.pt frame.pt2 --format torch.export

The file takes styles, codes, a time and a camera, and gives an image and its depth. It is compared with the generator
on random inputs before it is written. docs/export.md describes its inputs and how to run it.
"""

import os
from collections.abc import Callable

import click

from dnnlib import UserError, atomic_write, format_bytes, one_line, run_cli
from dnnlib.command_line import Command
from training.inference.cli_options import NETWORK

# PyTorch and the networks are imported where they are used, so that --help and errors in the arguments are immediate.

FORMATS = {"torch.export": ".pt2", "onnx": ".onnx"}  # usual suffixes; others are possible
#: Largest root mean square error of an image in [-1, 1]: half a grey level.
TOLERANCE = 1 / 255


def make_file(generator, name: str) -> tuple[bytes, Callable]:
    """The content of a file of the format `name`, and the function that it holds.

    Raises:
        UserError: The packages of the format are missing, or they fail.
    """
    from training.export.frame_function import onnx_bytes, onnx_function, program_bytes, program_function, trace

    if name == "torch.export":
        content = program_bytes(trace(generator))
        return content, program_function(content)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format onnx needs three more packages ({one_line(error)}): `pip install onnx onnxscript onnxruntime`."
        ) from error
    content = onnx_bytes(trace(generator))
    return content, onnx_function(content)


def compare(generator, exported: Callable, samples: int) -> list:
    """The `Deviation`s of an exported function from the frames that generate.py renders.

    Raises:
        UserError: The images differ.
    """
    from renderer.cameras import Cameras
    from training.export.frame_function import deviations, random_inputs
    from training.inference.frame_renderer import FrameRenderer
    from training.inference.latents import RowCodes

    def original(*inputs):
        *codes, time, cam2world, fov = inputs
        renderer = FrameRenderer(generator, **vars(RowCodes(*codes)))
        output = renderer.output(time, Cameras(cam2world=cam2world, fov=fov))
        return output.image[:, 0], output.depth[:, 0]

    found = list(deviations(exported, original, [random_inputs(generator, seed) for seed in range(1, samples + 1)]))
    if not found[0].rms <= TOLERANCE:
        raise UserError(f"Not written: the exported function differs from the generator ({found[0]}).")
    return found


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@click.argument("network_pkl", metavar="PKL", type=NETWORK)
@click.argument("out", metavar="OUT", type=click.Path())
@click.option("--format", "name", required=True, type=click.Choice(list(FORMATS)), help="Format of the file.")
@click.option("--samples", default=3, type=click.IntRange(min=1), help="Random inputs to compare with the generator.")
def main(network_pkl: str, out: str, name: str, samples: int) -> None:
    """Write OUT, a function of one frame, from the generator of PKL: a checkpoint, a run folder, a URL, or a Hub id."""
    if not os.path.isdir(os.path.dirname(os.path.abspath(out))):
        raise UserError(f"{out}: its folder does not exist.")
    suffix = os.path.splitext(out)[1].lower()
    if suffix != FORMATS[name] and suffix in FORMATS.values():
        raise UserError(f"{out}: '{suffix}' is the suffix of another format than {name}; write '{FORMATS[name]}'.")

    from torch_utils.memory import explain_out_of_memory
    from training.checkpoints.snapshot import load_average_generator
    from training.checkpoints.snapshot_files import check_output

    check_output(out, source=network_pkl)
    generator = load_average_generator(network_pkl, device="cpu")
    with explain_out_of_memory("End other programs, or use a larger machine."):
        content, exported = make_file(generator, name)
        for deviation in compare(generator, exported, samples):
            click.echo(f"{deviation}")
    with atomic_write(out) as file:
        file.write(content)
    click.echo(f"{out}: {format_bytes(len(content))}")


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False, prog_name="python -m training.export"))
