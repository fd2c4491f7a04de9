"""Training cost per video and phase, communication volume, and predicted scaling over machines.

    python -m benchmarks.scaling [--json FILE]

Operations are counted (multiplications and additions of matrix products and convolutions, forward and backward); bytes
are those of the collectives. CPU time per video and phase is measured on this machine. Times on GPUs are predicted from
the counts and the rates in `ClusterRates`; nothing here has run on more than one GPU. See docs/scaling.md.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tables import JSON_OPTION, write_json
from dnnlib import UserError, choices_hint, run_cli
from dnnlib.command_line import Command
from torch_utils.memory import keep_freed_memory
from torch_utils.rng import RandomStream
from training.inference.frame_renderer import FrameRenderer
from training.launch.build import build_loss, build_networks, build_phases
from training.launch.config import compose_options
from training.loss import VideoBatch
from training.phases import Phase

FLOAT = 4  # bytes
GPUS = (1, 2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class ClusterRates:
    """Assumed rates of a cluster of nodes with eight GPUs; the defaults are those of V100 nodes at the paper's time."""

    teraflops: float = 15.7  # of a GPU, peak in float32
    utilisation: float = 0.3  # of the peak, by this kind of network
    gpus_per_node: int = 8
    inside: float = 120e9  # bytes per second of an all-reduce within a node (NVLink), per GPU
    between: float = 12.5e9  # bytes per second from node to node, per node (one link of 100 Gbit/s)
    latency: float = 20e-6  # seconds per step of an exchange between GPUs
    host_latency: float = 100e-6  # seconds per step of an exchange between hosts, over TCP
    disk: float = 500e6  # bytes per second of a shared file system

    def compute(self, flops: float) -> float:
        """Seconds for `flops` operations on one GPU."""
        return flops / (self.teraflops * 1e12 * self.utilisation)

    def all_reduce(self, count: int, size: float) -> float:
        """Seconds to sum `size` bytes over `count` GPUs: within the nodes first, then between them, in rings.

        A ring of n moves 2 (n − 1) / n of the bytes through every link; steps add up with the depth of a tree.
        """
        local = min(count, self.gpus_per_node)
        nodes = math.ceil(count / self.gpus_per_node)
        seconds = 2 * (local - 1) / local * size / self.inside + 2 * math.log2(local) * self.latency
        if nodes > 1:
            seconds += 2 * (nodes - 1) / nodes * size / self.between + 2 * math.log2(nodes) * self.latency
        return seconds

    def flag(self, count: int) -> float:
        """Seconds for the flag that all processes exchange on the host after every iteration."""
        return 2 * math.log2(count) * self.host_latency if count > 1 else 0.0


class Shapes:
    """Random stream on the 'meta' device, which has shapes but no values."""

    def uniform(self, name, shape):
        return torch.empty(tuple(shape), device="meta")

    normal = uniform

    def integers(self, name, low, high, shape):
        return torch.empty(tuple(shape), dtype=torch.int64, device="meta")

    def beta(self, name, a, b, shape):
        return torch.empty(tuple(shape), device="meta")


def build_training(options: dict, device: str):
    generator, discriminator = build_networks(options, c_dim=0, device=device)
    loss = build_loss(options, generator=generator, discriminator=discriminator, augment=None, statistics=None)
    phases = build_phases(options, generator=generator, discriminator=discriminator)
    return generator, discriminator, loss, phases


def batch_of(videos: int, resolution: int, device: str) -> VideoBatch:
    frames = torch.zeros(videos, 2, 3, resolution, resolution, device=device)
    return VideoBatch(frames=frames, dt=torch.zeros(videos, device=device), c=torch.zeros(videos, 0, device=device))


def one_pass(loss, phase: Phase, batch: VideoBatch, stream) -> None:
    phase.begin()
    loss.accumulate(phase.name, batch=batch, gain=phase.gain, stream=stream)
    for parameter in phase.parameters:
        parameter.requires_grad_(False)


def count_operations(options: dict, videos: int) -> dict[str, dict[str, float]]:
    """Operations per video, exchanged bytes and interval, by phase."""
    _, _, loss, phases = build_training(options, "meta")
    result = {}
    for phase in phases:
        with FlopCounterMode(display=False) as counter:
            one_pass(loss, phase, batch_of(videos, options["resolution"], "meta"), Shapes())
        gradients = [parameter for parameter in phase.parameters if parameter.grad is not None]
        result[phase.name] = {
            "flops": counter.get_total_flops() / videos,
            "bytes": FLOAT * sum(parameter.numel() for parameter in gradients),
            "interval": phase.interval,
        }
    return result


def measure(options: dict, videos: int, rounds: int) -> dict[str, float]:
    """CPU seconds per video of a pass of each phase on this machine."""
    keep_freed_memory()
    _, _, loss, phases = build_training(options, "cpu")
    seconds = {phase.name: math.inf for phase in phases}
    stream = RandomStream(0)
    for _ in range(rounds):
        for phase in phases:
            began = time.process_time()
            one_pass(loss, phase, batch_of(videos, options["resolution"], "cpu"), stream)
            seconds[phase.name] = min(seconds[phase.name], (time.process_time() - began) / videos)
    return seconds


def count_frames(options: dict) -> tuple[float, int]:
    """Operations per frame of a preview, and frames per set of previews."""
    generator, _, _, _ = build_training(options, "meta")
    generator.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ws = torch.empty(1, generator.num_ws, generator.w_dim, device="meta")
        cameras = generator.camera_prior.sample(1, RandomStream(0)).to("meta")
        codes = {
            "z_motion": torch.empty(1, generator.motion_dim, device="meta"),
            "z_bg": torch.empty(1, generator.background_dim, device="meta"),
        }
        FrameRenderer(generator, ws, **codes).render(0.5, cameras)
    shown = options["previews"]
    return counter.get_total_flops(), 2 * shown["images"] + 2 * shown["videos"] * options["nframes"]


def predict(
    phases: dict[str, dict], options: dict, rates: ClusterRates, *, frame: tuple[float, int], file: float
) -> list:
    """Rows of the table, at the paper's micro-batch per GPU: the batch grows with the number of GPUs."""
    spec = options["spec"]
    rows = []
    for gpus in GPUS:
        batch = max(gpus * spec["mbstd"], spec["mb"])
        share = batch // gpus
        compute = sum(rates.compute(share * p["flops"]) / p["interval"] for p in phases.values())
        exchange = sum(rates.all_reduce(gpus, p["bytes"]) / p["interval"] for p in phases.values()) if gpus > 1 else 0
        # Work of one process while the others wait, averaged over iterations: previews and saving.
        per_tick = max(1, math.ceil(spec["kimg_per_tick"] * 1000 / batch))
        alone = (rates.compute(frame[0] * frame[1]) + file / rates.disk) / (spec["imgsnap"] * per_tick)
        total = compute + exchange + rates.flag(gpus) + alone
        rows.append(
            {
                "gpus": gpus,
                "batch": batch,
                "compute": compute,
                "exchange": exchange,
                "flag": rates.flag(gpus),
                "alone": alone,
                "efficiency": compute / total,
                "hours": spec["kimg"] * 1000 / batch * total / 3600,
            }
        )
    return rows


def show(phases: dict, measured: dict | None, rows: list) -> str:
    lines = [
        "| phase | every | operations per video | CPU seconds per video | bytes exchanged |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for name, p in phases.items():
        seconds = "" if measured is None else f"{measured[name]:.2f}"
        lines.append(f"| {name} | {p['interval']} | {p['flops'] / 1e9:.0f} G | {seconds} | {p['bytes'] / 1e6:.1f} MB |")
    flops = sum(p["flops"] / p["interval"] for p in phases.values())
    size = sum(p["bytes"] / p["interval"] for p in phases.values())
    time = "" if measured is None else f"{sum(measured[n] / p['interval'] for n, p in phases.items()):.2f}"
    lines.append(f"| an iteration, on average | | {flops / 1e9:.0f} G | {time} | {size / 1e6:.1f} MB |")
    lines += ["", "| GPUs | videos per step | computing | exchange | flag | one alone | efficiency | 25,000 kimg |"]
    lines.append("| --: | --: | --: | --: | --: | --: | --: | --: |")
    for row in rows:
        times = " | ".join(f"{row[key] * 1000:.1f} ms" for key in ("compute", "exchange", "flag", "alone"))
        lines.append(
            f"| {row['gpus']} | {row['batch']} | {times} | {row['efficiency']:.0%} | {row['hours'] / 24:.1f} days |"
        )
    return "\n".join(lines)


def parse_rates(changes: Sequence[str]) -> ClusterRates:
    """The cluster with rates changed by `name=number` arguments.

    Raises:
        UserError: Unknown rate, or not a number above zero.
    """
    known = {field.name: type(field.default) for field in dataclasses.fields(ClusterRates)}
    rates = {}
    for change in changes:
        name, _, text = (part.strip() for part in change.partition("="))
        if name not in known:
            raise UserError(f"--set {change}: there is no rate '{name}'; {choices_hint(name, known)}")
        try:
            rates[name] = known[name](text)
        except ValueError:
            rates[name] = 0
        if not 0 < rates[name] < math.inf:
            kind = "an integer" if known[name] is int else "a number"
            raise UserError(f"--set {change}: write {kind} above 0, like {name}={known[name](2)}.")
    return ClusterRates(**rates)


@click.command(cls=Command)
@click.option("--model", default="stylenerf_faceforensics", show_default=True, help="A file of conf/model.")
@click.option("--videos", default=2, show_default=True, help="Per measured pass.")
@click.option("--rounds", default=2, show_default=True, help="Passes of every phase; 0: count only.")
@click.option("--set", "changes", multiple=True, help="A rate of the cluster, e.g. between=50e9.")
@JSON_OPTION
def main(model: str, videos: int, rounds: int, changes: tuple[str, ...], file: Path | None) -> None:
    """Cost per video and phase, communication, and predictions for many GPUs."""
    options = compose_options(["outdir=.", "data=.", "spec=paper", f"model={model}", "fp32=true"])
    rates = parse_rates(changes)
    phases = count_operations(options, options["spec"]["mbstd"])
    generator, discriminator, _, _ = build_training(options, "meta")
    sizes = [sum(p.numel() for p in network.parameters()) for network in (generator, discriminator)]
    saved = FLOAT * (6 * sizes[0] + 4 * sizes[1])  # snapshot and state
    measured = measure(options, videos, rounds) if rounds else None
    rows = predict(phases, options, rates, frame=count_frames(options), file=saved)
    click.echo(show(phases, measured, rows))
    machine = dataclasses.asdict(rates)
    write_json(file, {"phases": phases, "cpu_seconds": measured, "machine": machine, "rows": rows})


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
