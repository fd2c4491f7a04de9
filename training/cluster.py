"""Trainings as jobs of a cluster, through Hydra's launcher for submitit (the optional packages of the extra `slurm`).

    python run_train.py -m hydra/launcher=submitit_slurm hydra.launcher.partition=gpu outdir=OUT data=DATASET …

submits a job for every combination of the values that are given with commas (spec.gamma=0.5,1), and waits for them.
Every task of a job is one process of the training. Options are read as without -m; hydra/launcher= and hydra.…= go to
Hydra.
"""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dnnlib import UserError, one_line
from training.configuration import CONFIG_DIR, hydra_word

__all__ = ["job", "submit"]


def submit(words: Sequence[str], task: Callable[[Any], None]) -> None:
    """Hand jobs to the launcher that the words name, and wait until they have ended.

    Args:
        words: Of the command, '-m' among them.
        task: What every process of a job calls; importable under its name.

    Raises:
        UserError: There is no such launcher, or Hydra does not like the words.
    """
    if not any(word.startswith("outdir=") for word in words):
        raise UserError("outdir= is missing: it also takes what the jobs print.")
    launchers = [word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")]
    if any(name.startswith("submitit") for name in launchers):
        try:
            import hydra_plugins.hydra_submitit_launcher  # noqa: F401
        except ImportError as error:
            raise UserError(
                "hydra/launcher=submitit… needs an optional package: pip install hydra-submitit-launcher"
            ) from error
    root = str(CONFIG_DIR.parent)  # where the jobs' processes find this program
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors, instead of printing them and leaving
    options = [word if re.match(r"-|\+*hydra[./]", word) else hydra_word(word) for word in words]
    sys.argv = [sys.argv[0], *options]
    # Ours replaces the plugin's default file of the same name, on purpose.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/submitit_slurm' is validated against ConfigStore")
    try:
        hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"-m: {one_line(str(error).splitlines()[0])}") from error


@contextlib.contextmanager
def job() -> Iterator[tuple[list[str], str]]:
    """Within a task: the words of the command that this process of a job stands for, and the job's name.

    Tells `torch_utils.distributed` by the environment, as torchrun would, which process of how many this is.
    """
    config = HydraConfig.get()
    if "SUBMITIT_EXECUTOR" in os.environ:
        import submitit

        if submitit.JobEnvironment().num_tasks > 1:
            # All devices of a machine stay visible: a process takes that of its local rank.
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    # Reading the words again takes Hydra's place for one application per process.
    application = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield list(config.overrides.task), str(Path(config.runtime.output_dir))
    finally:
        GlobalHydra.instance().clear()
        if application is not None:
            GlobalHydra.instance().initialize(application)
