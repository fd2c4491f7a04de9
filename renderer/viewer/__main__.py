"""`python -m renderer.viewer`; see renderer.viewer.command."""

from dnnlib import run_cli
from renderer.viewer.command import main

if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False, prog_name="python -m renderer.viewer"))
