"""Stages on the machine: versions and rates of the GPU, a process group of one, metrics on the GPU and the CPU."""

import shutil
import subprocess

import torch
import torch.distributed as dist

from benchmarks.gpu.record import Bench, largest, precision, seconds_per_call
from benchmarks.work import QUICK
from metrics.distances import frechet_distance_of_features
from metrics.random_features import RandomFeatures
from torch_utils import distributed
from torch_utils.custom_ops import versions
from training.launch.build import build_networks
from training.launch.config import compose_options

__all__ = ["environment", "metrics", "nccl"]

QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm,mig.mode.current"


def environment(bench: Bench) -> None:
    """Versions, and the rates that limit everything else: copies and matrix products."""
    record, device = bench.record, bench.device
    for name, value in versions().items():
        if name != "cache":
            record.figure(name, value)
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True)
        record.figure("nvidia-smi", asked.stdout.decode(errors="replace").strip() or "no answer")
    record.figure("CUDA of torch", torch.version.cuda)
    record.figure("cuDNN", torch.backends.cudnn.version())
    if bench.cuda:
        properties = torch.cuda.get_device_properties(device)
        record.figure("compute capability", f"{properties.major}.{properties.minor}")
        record.figure("multiprocessors", properties.multi_processor_count)
        record.figure("memory", f"{properties.total_memory / 1e9:.1f} GB")
        record.figure("NCCL", ".".join(map(str, torch.cuda.nccl.version())))

    count = 1 << (16 if bench.tiny else 28)
    with record.attempt("copy"):
        source = torch.ones(count, device=device)
        target = torch.empty_like(source)
        seconds = seconds_per_call(lambda: target.copy_(source), device)
        record.figure("copy", f"{2 * 4 * count / seconds / 1e9:.0f} GB/s")
    size, rates = 128 if bench.tiny else 8192, []
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("float16", torch.float16, False),
        ("bfloat16", torch.bfloat16, False),
    ):
        with record.attempt(f"products in {name}"), precision(tf32=tf32):
            a = torch.randn(size, size, device=device).to(dtype)
            seconds = seconds_per_call(lambda: a @ a, device, rounds=5, warm_up=2)  # noqa: B023
            rates.append(f"{name} {2 * size**3 / seconds / 1e12:.3g}")
    record.figure(f"products {size}³, TFLOP/s", ", ".join(rates))
    record.headline(f"{record.content['figures'].get('copy')}, TFLOP/s: {', '.join(rates)}")


def nccl(bench: Bench) -> None:
    """The process group of a training with one process: collectives of tensors on the device, flags on the host."""
    record, device = bench.record, bench.device
    distributed.init(device_type=device.type, rank=0, world_size=1, meeting_point=f"{bench.scratch}/meeting-point")
    try:
        if bench.cuda:  # in this order in a training as well
            torch.cuda.set_device(torch.device("cuda", distributed.local_rank()))
        generator, _ = build_networks(compose_options(["outdir=.", "data=.", *QUICK]), c_dim=0)
        generator.to(device)
        before = [tensor.clone() for tensor in generator.state_dict().values()]
        x = torch.arange(4.0, device=device)
        for what, function in (
            ("all_reduce_sum", lambda: distributed.all_reduce_sum(x)),
            ("all_reduce", lambda: dist.all_reduce(x)),
            ("broadcast_module", lambda: distributed.broadcast_module(generator)),
            ("broadcast", lambda: [dist.broadcast(tensor, src=0) for tensor in generator.parameters()]),
            ("average", lambda: distributed.average([x])),
            ("barrier", distributed.barrier),
            ("any_rank", lambda: distributed.any_rank(False)),
            ("all_gather_objects", lambda: distributed.all_gather_objects({"rank": 0})),
        ):
            with record.attempt(what):
                function()
                record.row("Collectives of one process", call=what, ms=1e3 * seconds_per_call(function, device))
        if x.tolist() != [0, 1, 2, 3]:
            record.fail("collectives", f"a group of one has changed a tensor: {x.tolist()}")
        if not all(torch.equal(a, b) for a, b in zip(before, generator.state_dict().values())):
            record.fail("broadcast", "a group of one has changed the weights")
        flag = distributed.any_rank(True), distributed.any_rank(False)
        if flag != (True, False):
            record.fail("any_rank", f"{flag} for True and False")
        if bench.cuda:
            big = torch.ones(1 << 26, device=device)
            record.figure("all_reduce of 268 MB, ms", 1e3 * seconds_per_call(lambda: dist.all_reduce(big), device))
    finally:
        distributed.cleanup()
    failures = len(record.content["failures"])
    record.headline(f"backend {'cpu:gloo,cuda:nccl' if bench.cuda else 'gloo'}, {failures or 'no'} failures")


def metrics(bench: Bench) -> None:
    """Random features (the rfvd metrics) on the device and on the CPU, and the Fréchet distances of both."""
    random = torch.Generator().manual_seed(0)
    clips, frames, size = (4, 4, 16) if bench.tiny else (24, 16, 64)
    sets = [
        torch.randint(0, high, [clips, 3, frames, size, size], generator=random, dtype=torch.uint8)
        for high in (256, 200)
    ]
    results = {}
    for where in ("cpu", bench.device):
        extract = RandomFeatures(where)
        results[str(where)] = [extract(videos).cpu() for videos in sets]
    expected, actual = results["cpu"], results[str(bench.device)]
    error = largest(float((a - b).abs().max() / b.abs().max()) for a, b in zip(actual, expected))
    distances = [frechet_distance_of_features(*(f.numpy() for f in part)) for part in (expected, actual)]
    relative = abs(distances[1] / distances[0] - 1)
    bench.record.figure("largest difference of features, relative to the largest feature", error)
    bench.record.figure("Fréchet distance on the CPU and on the device", distances)
    bench.record.headline(f"features differ by {error:.1e}, the distance by {relative:.1e}")
    if not (error <= 1e-5 and relative <= 1e-3):
        bench.record.fail("metrics", "the device's features or distance are not those of the CPU")
