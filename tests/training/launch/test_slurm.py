"""Jobs on clusters: what Hydra makes of the configuration, and what is said when something is missing."""

import builtins
import os
import signal
import sys
import types
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

import run_train
from dnnlib import UserError, run_cli
from tests.training.tiny import OVERRIDES, write_frames
from training.launch.config import CONFIG_DIR
from training.launch.slurm import job, submit, sweep_label


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


def no_task(*arguments, **options):
    raise AssertionError("nothing is to be run")


def sweep(words, *, fail=(), stop_after=None, check=lambda words: None):
    """Submit; the words and labels of the trainings that were begun."""
    begun = []

    def train(words, *, label):
        begun.append((words, label))
        if len(begun) in fail:
            raise UserError(f"number {len(begun)} broke")
        if len(begun) == stop_after:  # handled by the training, as torch_utils.stop_signal does
            previous = signal.signal(signal.SIGTERM, lambda *_: None)
            signal.raise_signal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, previous)

    submit(["-m", *words], no_task, train=train, check=check)
    return begun


@pytest.mark.parametrize(
    "words, message",
    [
        (["-m", "data=d"], "outdir= is missing"),
        (["-m", "outdir=o", "hydra/launcher=lsf"], "-m: .*lsf"),
        (["-m", "outdir=o", "nframse=4"], "did you mean nframes|nframse"),
        (["-m", "outdir=o", "model=stylenerf_small,cats"], "There is no model 'cats' in conf/model; choose from"),
        (["-m", "outdir=o", "spec=small,_base"], "There is no spec '_base' in conf/spec; choose from"),
        (["-m", "outdir=o", "spec.gamma=1,x"], "spec.gamma must be a number of at least 0, got 'x'"),
        (["-m", "outdir=o", "seed=1,["], "cannot read the option 'seed=1,\\['"),
        (["-m", "outdir=o", "seed"], "'seed' is not an option"),
    ],
)
def test_mistakes_before_anything_is_submitted(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run_train.py"])
    for name in ("PYTHONPATH", "PYTHONSAFEPATH", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")
    with pytest.raises(UserError, match=message) as caught:
        submit(words, no_task, train=no_task, check=no_task)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_without_the_plugin(tmp_path, monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("hydra_plugins.hydra_submitit"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="pip install hydra-submitit-launcher"):
        words = ["-m", f"outdir={tmp_path}", "hydra/launcher=submitit_slurm"]
        submit(words, no_task, train=no_task, check=no_task)


# ----------------------------------------------------------------------------------------------------------------------
# Several trainings here


def test_every_combination_of_groups_and_values(tmp_path):
    out = f"outdir={tmp_path}/a, ${{b}}=c"
    checked = []
    words = [out, "spec=small,paper", "model=stylenerf_mead,stylenerf_small", "spec.gamma=0.5,1", "seed=range(3,5)"]
    begun = sweep([*words, "metrics=fvd2048_16f", "diffaugment=color,cutout"], check=checked.append)
    assert checked == [words for words, _ in begun] and len(begun) == 16 and list(tmp_path.iterdir()) == []
    last = ["spec=paper", "model=stylenerf_small", "spec.gamma=1", "seed=4"]
    assert begun[-1] == ([out, *last, "metrics=[fvd2048_16f]", "diffaugment=color,cutout"], "gamma1-seed4")
    assert begun[0][1] == "gamma0.5-seed3" and begun[0][0][1:3] == ["spec=small", "model=stylenerf_mead"]


def test_choices_of_texts_and_lists(tmp_path):
    words = ["spec=glob(*)", "spec.betas=[0,0.9],[0,0.99]", "data=choice('/a b','/c,${d}')", "mirror=true,false"]
    begun = sweep([f"outdir={tmp_path}", *words])
    assert len(begun) == 16
    assert begun[0][0][1:] == ["spec=paper", "spec.betas=[0,0.9]", "data=/a b", "mirror=True"]
    assert begun[-1][0][1:] == ["spec=small", "spec.betas=[0,0.99]", "data=/c,${d}", "mirror=False"]
    assert begun[-1][1] == "betas_0_0.99-data_c_d"


def test_augmentations_of_the_schedule_are_one_choice(tmp_path):
    ((words, _),) = sweep([f"outdir={tmp_path}", "spec.diffaugment=color,cutout"])
    assert words[1:] == ["spec.diffaugment=color,cutout"]
    assert len(sweep([f"outdir={tmp_path}", "spec.diffaugment=choice('color,cutout',color)"])) == 2


def test_labels():
    words = ["model=a", "seed=1", "model.generator.camera.yaw=2", "model.generator.other.yaw=3", "spec.gamma=1e-5"]
    full = "model.generator.camera.yaw2-model.generator.other.yaw3-gamma1e-5"
    assert sweep_label(words, ["seed"]) == full
    assert sweep_label(["seed=1", "spec=small"], ["seed"]) == ""
    long = [sweep_label([f"resume={'x' * 300}{i}"], []) for i in (1, 2)]
    assert len(set(long)) == 2 and max(map(len, long)) < 120


def test_one_that_fails_does_not_keep_the_others_from_being_made(tmp_path, capsys):
    with pytest.raises(UserError, match=r"1 of 3 trainings failed: #2 seed=2: number 2 broke") as caught:
        sweep([f"outdir={tmp_path}", "seed=1,2,3"], fail=[2])
    assert "\n" not in str(caught.value)
    out = capsys.readouterr().out
    assert "#3 seed=3 (of 3)" in out and "#2 seed=2 failed: number 2 broke" in out


def test_a_signal_that_stops_one_stops_all(tmp_path, capsys):
    assert len(sweep([f"outdir={tmp_path}", "seed=1,2,3,4"], stop_after=2)) == 2
    assert "Stopped as asked: the remaining 2 of 4 trainings were not begun." in capsys.readouterr().out


def test_settings_of_hydra_without_a_launcher(tmp_path, monkeypatch, capsys):
    """They leave the trainings in this process, where a signal stops all and every failure is named."""
    monkeypatch.setattr("training.launch.slurm._launch", no_task)
    words = [f"outdir={tmp_path}", "seed=1,2,3", f"hydra.sweep.dir={tmp_path}/jobs", "hydra/launcher=basic"]
    words.append("hydra/sweeper=basic")
    assert len(sweep(words, stop_after=1)) == 1
    out = capsys.readouterr().out
    assert "Stopped as asked: the remaining 2 of 3 trainings were not begun." in out
    note = "no effect without hydra/launcher= or hydra/sweeper=: the trainings run in this process.\n"
    assert out.startswith(f"hydra.sweep.dir= has {note}#1 seed=1 (of 3)\n")
    with pytest.raises(UserError, match=r"2 of 3 trainings failed: #1 seed=1: number 1 broke; #3 seed=3: number 3 bro"):
        sweep([*words, "hydra.verbose=true"], fail=[1, 3])
    assert capsys.readouterr().out.startswith(f"hydra.sweep.dir=, hydra.verbose= have {note}")
    # Settings of a launcher are Hydra's, which names those that its own launcher does not have.
    with pytest.raises(AssertionError, match="nothing is to be run"):
        sweep([*words[:2], "hydra.launcher.partition=gpu"])


def test_a_list_of_paths_is_explained(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"write 'data=choice\("):
        sweep([f"outdir={tmp_path}", f"data={tmp_path},{tmp_path}/a"])


def run(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["run_train.py", *words])
    with pytest.raises(SystemExit) as caught:
        run_cli(run_train.main)
    return caught.value.code


def test_run_folders_say_which_training_they_are(tmp_path, monkeypatch, capsys):
    words = [f"outdir={tmp_path}/runs", f"data={write_frames(tmp_path / 'data')}", *OVERRIDES, "imgsnap=null"]
    words += ["kimg=0.004"]
    assert run(monkeypatch, "-m", *words, "spec.gamma=2", "model=stylenerf_small,stylenerf_mead", "dry_run=true") == 0
    assert capsys.readouterr().out.count("(not made)") == 2 and not (tmp_path / "runs").exists()
    words += ["spec.gamma=0.5,1"]
    assert run(monkeypatch, "-m", *words) == 0
    name = "data-stylenerf_small-small-res16-mb4-gamma"
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [f"00000-{name}0.5", f"00001-{name}1"]
    for i, gamma in enumerate((0.5, 1)):
        folder = next((tmp_path / "runs").glob(f"0000{i}-*"))
        assert yaml.safe_load((folder / "training_options.yaml").read_text())["spec"]["gamma"] == gamma
    assert run(monkeypatch, "-m", *words, f"data={tmp_path}/nowhere", f"outdir={tmp_path}/new") == 2
    error = capsys.readouterr().err
    assert "nowhere" in error and error.count("\n") == 1 and not (tmp_path / "new").exists()


def test_jobs_of_hydra_s_launchers_know_their_words_and_labels(tmp_path, monkeypatch):
    """With a launcher that needs no cluster; a setting of the sweeper brings Hydra into play."""
    for name in ("PYTHONPATH", "PYTHONSAFEPATH", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "argv", ["run_train.py"])
    seen = []

    def task(config):
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == str(Path(__file__).resolve().parents[3])
        seen.append(job())

    words = ["-m", f"outdir={tmp_path}/a, ${{b}}'", "spec=small,paper", "seed=1,2", "data=x", "metrics=a"]
    words += ["hydra.sweeper.max_batch_size=9", f"hydra.sweep.dir={tmp_path}/jobs"]
    submit(words, task, train=no_task, check=no_task)
    fixed = ["data=x", "metrics=[a]"]
    first, *_, last = seen
    assert len(seen) == 4
    assert first == ([f"outdir={tmp_path}/a, ${{b}}'", "spec=small", "seed=1", *fixed], None, "seed1")
    assert last[0][1:3] == ["spec=paper", "seed=2"] and last[2] == "seed2"
    # Jobs that submitit may start again have names, which later commands do not share.
    environment = types.SimpleNamespace(job_id="41_0", num_tasks=1)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(JobEnvironment=lambda: environment))
    for environment.job_id in ("41_0", "42_0"):
        seen.clear()
        submit(words, task, train=no_task, check=no_task)
        assert [name for _, name, _ in seen] == [f"{tmp_path}/jobs/{i} {environment.job_id}" for i in range(4)]


SLURM = ("hydra/launcher=submitit_slurm", "outdir=out", "data=d")


@pytest.mark.parametrize(
    "words, message",
    [
        (["gpus=1,4"], "-m: the trainings have gpus=1,4, but all jobs of a command have as many; add gpus=N."),
        (["spec=paper,small"], "gpus=1,4, but all jobs"),
        (["gpus=1,4", "hydra.launcher.tasks_per_node=4"], "gpus=1,4, but all jobs"),
        (["spec=choice(paper)"], "-m: the trainings have gpus=4, but their jobs 1; add gpus=4."),
    ],
)
def test_jobs_have_a_task_for_each_gpu_of_their_training(words, message, monkeypatch):
    """Hydra composes the launcher once, without the swept values."""
    monkeypatch.setattr("training.launch.slurm._launch", no_task)
    with pytest.raises(UserError) as caught:
        submit(["-m", *SLURM, *words], no_task, train=no_task, check=no_task)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["spec=paper,small", "gpus=4"],
        ["spec=paper", "seed=1,2"],
        ["spec=choice(paper)", "hydra.launcher.tasks_per_node=4"],
        ["gpus=16", "hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=8"],
    ],
)
def test_jobs_that_fit_are_launched(words, monkeypatch):
    launched = []
    monkeypatch.setattr("training.launch.slurm._launch", lambda settings, options, *_: launched.append(options))
    submit(["-m", *SLURM, *words], no_task, train=no_task, check=no_task)
    assert len(launched) == 1


def test_the_home_folder_of_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    launched = []
    monkeypatch.setattr("training.launch.slurm._launch", lambda settings, options, *_: launched.append(options))
    submit(["-m", SLURM[0], "outdir=~/runs", "data=~/d"], no_task, train=no_task, check=no_task)
    assert launched == [[f"outdir='{tmp_path}/runs'", "data='~/d'"]]
