"""Jobs on clusters: what Hydra makes of the configuration, and what is said when something is missing."""

import builtins
import sys

import pytest
from hydra import compose, initialize_config_dir

from dnnlib import UserError
from training.cluster import submit
from training.configuration import CONFIG_DIR


def launcher(*words):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        overrides = ["outdir=out", "data=d", "hydra/launcher=submitit_slurm", *words]
        config = compose("config", overrides=overrides, return_hydra_config=True)
        return {key: config.hydra.launcher[key] for key in ("nodes", "tasks_per_node", "gpus_per_node", "partition")}


def test_a_task_for_every_gpu():
    expected = {"nodes": 1, "tasks_per_node": 4, "gpus_per_node": 4, "partition": None}
    assert launcher("spec=paper") == expected
    assert launcher("gpus=8", "hydra.launcher.partition=a") == expected | {
        "tasks_per_node": 8, "gpus_per_node": 8, "partition": "a"
    }  # fmt: skip
    many = launcher("gpus=16", "hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=8")
    assert (many["nodes"], many["tasks_per_node"], many["gpus_per_node"]) == (2, 8, 8)


def test_the_plugin_takes_every_setting():
    plugin = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    import dataclasses

    import yaml

    known = {field.name for field in dataclasses.fields(plugin.SlurmQueueConf)}
    ours = yaml.safe_load((CONFIG_DIR / "hydra" / "launcher" / "submitit_slurm.yaml").read_text())
    assert set(ours) <= known and ours["_target_"] == plugin.SlurmQueueConf()._target_


def no_task(config):
    raise AssertionError("nothing is to be run")


@pytest.mark.parametrize(
    "words, message",
    [
        (["-m", "data=d"], "outdir= is missing"),
        (["-m", "outdir=o", "hydra/launcher=lsf"], "-m: .*lsf"),
        (["-m", "outdir=o", "nframse=4"], "did you mean nframes|nframse"),
    ],
)
def test_mistakes_before_anything_is_submitted(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run_train.py"])
    for name in ("PYTHONPATH", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")
    with pytest.raises(UserError, match=message) as caught:
        submit(words, no_task)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_without_the_plugin(tmp_path, monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("hydra_plugins.hydra_submitit"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="pip install hydra-submitit-launcher"):
        submit(["-m", f"outdir={tmp_path}", "hydra/launcher=submitit_slurm"], no_task)
