"""`python -m renderer.geometry`: the earlier name of `python -m renderer.mesh`."""

from dnnlib import run_cli
from renderer.mesh.__main__ import main

if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
