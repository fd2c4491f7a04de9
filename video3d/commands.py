"""The installed commands video3d-train, -generate, -data, -metrics and -view, which run the scripts of a checkout."""

from dnnlib import run_cli

__all__ = ["data", "generate", "metrics", "train", "view"]

# Each imports only its own script. The shell completes a click command under the name that it is started by:
# eval "$(_VIDEO3D_GENERATE_COMPLETE=bash_source video3d-generate)".


def train() -> None:
    """`python run_train.py`."""
    import run_train

    run_cli(run_train.main)


def generate() -> None:
    """`python generate.py`."""
    import generate

    run_cli(lambda: generate.main(prog_name="video3d-generate", standalone_mode=False))


def data() -> None:
    """`python -m training.dataset_tool`."""
    from training.dataset_tool.__main__ import main

    run_cli(lambda: main(prog_name="video3d-data", standalone_mode=False))


def metrics() -> None:
    """`python -m metrics`."""
    from metrics.__main__ import main

    run_cli(lambda: main(prog_name="video3d-metrics", standalone_mode=False))


def view() -> None:
    """`python -m renderer.viewer`."""
    from renderer.viewer.__main__ import main

    run_cli(lambda: main(prog_name="video3d-view", standalone_mode=False))
