"""One stage in a process of its own: `python -m benchmarks.gpu.worker NAME DEVICE SECONDS FOLDER RESULT [tiny]`."""

import faulthandler
import importlib
import logging
import os
import sys
from pathlib import Path

import torch

from benchmarks.gpu.record import Bench, Record
from benchmarks.gpu.stages import STAGES
from torch_utils.memory import keep_freed_memory


def main(name: str, device: str, seconds: str, folder: str, result: str, *tiny: str) -> None:
    """Run a stage and write its results; exceptions are among them."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    record = Record(Path(result))
    if device == "cuda":
        # cuDNN's search for algorithms takes longer than most stages; `phases` measures it.
        torch.backends.cudnn.benchmark = False
        # Float32 means float32 unless a stage says otherwise; PyTorch's default for convolutions is TensorFloat-32.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    else:
        keep_freed_memory()
    module, function = STAGES[name].function.split(":")
    bench = Bench(
        device=torch.device(device), tiny=bool(tiny), seconds=float(seconds), folder=Path(folder),
        scratch=Path(result).parent, record=record,
    )  # fmt: skip
    if device == "cuda":  # shows where a stage hangs, before its time limit ends it
        faulthandler.dump_traceback_later(float(seconds), exit=False)
    with record.attempt(name):
        getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(bench)
    record.figure("seconds", round(float(seconds) - bench.left(), 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # a library that hangs while it is unloaded must not cost the stage
