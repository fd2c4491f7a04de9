"""The ablation study: `python -m benchmarks.learning WORK` trains, evaluates and reports (docs/learning.md)."""

from pathlib import Path

import click

from benchmarks.learning.evaluation import Sizes
from benchmarks.learning.measuring import make_reference, measure_all, require_snapshot
from benchmarks.learning.report import write_report
from benchmarks.learning.runs import COMMON, DEVICES, plan_runs, train_all
from dnnlib import explain_file_trouble, run_cli
from dnnlib.command_line import Command, finite_float
from dnnlib.processes import cores
from training.launch.config import compose_options
from training.synthetic.make_dataset import make_dataset
from training.synthetic.render import SyntheticConfig


@click.command(cls=Command)
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option("--kimg", type=finite_float(0.016), default=20, show_default=True, help="Length of the main run.")
@click.option("--ablation-kimg", type=finite_float(0), help="Length of each ablation; 0: none.  [default: a quarter]")
@click.option("--long-kimg", type=finite_float(0.016), help="Length of two more runs.  [default: none]")
@click.option("--device", type=click.Choice(list(DEVICES)), default="cpu", show_default=True, help="Of the runs.")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time.  [default: one per core, two at most]")
@click.option("--videos", type=click.IntRange(min=16), default=512, show_default=True, help="Size of the dataset.")
@click.option("--report", type=click.Path(dir_okay=False, writable=True, path_type=Path),
              help="What to write.  [default: WORK/report/learning.md]")  # fmt: skip
@click.option("--measure-only", is_flag=True, help="Do not train; evaluate and report the existing runs.")
def main(
    work: Path,
    kimg: float,
    ablation_kimg: float | None,
    long_kimg: float | None,
    device: str,
    jobs: int | None,
    videos: int,
    report: Path | None,
    measure_only: bool,
) -> None:
    """Train the small model and its ablations on synthetic heads in WORK and report the results."""
    jobs = jobs or min(cores(), 2)
    runs = plan_runs(kimg, kimg / 4 if ablation_kimg is None else ablation_kimg, long_kimg)
    options = compose_options(COMMON)
    sizes = Sizes(clips=videos)
    camera = options["model"]["generator"]["camera"]
    config = SyntheticConfig(
        videos=videos, frames=sizes.frames, resolution=options["resolution"], supersample=2, seed=0, camera=camera
    )
    work = work.absolute()
    if measure_only:
        require_snapshot(work, runs[0])
    report = report or work / "report" / "learning.md"
    with explain_file_trouble(report):  # before the trainings
        report.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    make_dataset(work / "data", config, workers=jobs)
    if not measure_only:
        train_all(work, runs, data=work / "data", device=device, jobs=jobs)
    reference = make_reference(work, options, sizes, data=config.key())
    measure_all(work, runs, sizes, jobs, data=config.key())
    write_report(work, runs, reference, report)
    click.echo(f"Written: {report}")


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
