"""`python -m metrics`; see metrics.command."""

from dnnlib import run_cli
from metrics.command import main

if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False, prog_name="python -m metrics"))
