"""Stages of whole networks: measured evaluations and losses of the published models, and rendering."""

import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.phases import PRECISIONS
from benchmarks.gpu.record import ROOT, Bench, largest, peak_gigabytes, precision, reset_peak, seconds_per_call
from benchmarks.rendering import FRAMES, PROGRAM, run_process
from dnnlib import UserError
from renderer.trajectories import camera_path
from renderer.video import image_grid, save_png, to_uint8
from training.checkpoints.snapshot import save_snapshot
from training.inference.frame_renderer import FrameRenderer, can_render
from training.inference.latents import SeedLatents, generator_latents
from training.launch.build import build_networks
from training.launch.config import compose_options
from training.launch.idle_options import check_precision
from training.loss import GanLoss

__all__ = ["goldens", "rendering"]

GOLDEN_PRECISIONS = {"float32": (False, False), "TF32": (True, False), "TF32 + fp16": (True, True)}  # TF32, half


def full_precision(*networks: torch.nn.Module) -> None:
    """Turn half precision off in all layers."""
    for network in networks:
        for module in network.modules():
            if hasattr(module, "fp16_resolutions"):
                module.fp16_resolutions = 0
            elif hasattr(module, "fp16"):
                module.fp16 = False


def goldens(bench: Bench) -> None:
    """The published models' frames, losses and gradients as measured with the original program."""
    if not (ROOT / "tests" / "goldens").is_dir():
        bench.record.fail("goldens", "There is no folder tests/ with the measured values: run this in a full checkout.")
        return
    from tests.goldens.evaluation import CASES, EVALUATION, case_generator, case_inputs
    from tests.goldens.measured_losses import LOSS_TOLERANCE
    from tests.goldens.networks import golden_arrays
    from tests.goldens.subsets import at_pixels

    passed = compared = 0
    worst = dict.fromkeys(GOLDEN_PRECISIONS, 0.0)
    for config in ("taichi",) if bench.tiny else ("faceforensics", "taichi"):
        arrays = golden_arrays(f"network_{config}.npz")
        for case in ("c2_fov20",) if bench.tiny else CASES:
            with bench.record.attempt(f"{config}, {case}"):
                inputs = {name: value.to(bench.device) for name, value in case_inputs(config, case).items()}
                for name, (tf32, half) in GOLDEN_PRECISIONS.items():
                    if bench.tiny and name != "float32":
                        continue
                    generator = case_generator(config, case).to(bench.device)
                    if not half:
                        full_precision(generator)
                    with torch.no_grad(), precision(tf32=tf32):
                        output = generator.synthesize(**inputs)
                    cells = {}
                    for what, images in (("img", output.image), ("img_nerf", output.image_raw)):
                        found, expected = at_pixels(images[0]).cpu(), arrays[f"eval_{case}/{what}/pixels"]
                        difference = (found.double() - expected.double()).abs()
                        cells |= {f"{what}, max": float(difference.max()), f"{what}, mean": float(difference.mean())}
                    worst[name] = largest([worst[name], cells["img, max"]])
                    verdict = "reported"
                    if name == "float32":
                        compared += 1
                        good = all(
                            cells[f"{what}, {kind}"] <= EVALUATION[bound]
                            for what in ("img", "img_nerf") for kind, bound in (("max", "absolute"), ("mean", "mean"))
                        )  # fmt: skip
                        passed += good
                        verdict = "pass" if good else "FAIL"
                        if not good:
                            bench.record.fail(f"{config}, {case}", f"float32 beyond the bounds {EVALUATION}: {cells}")
                    bench.record.row(
                        "Frames: difference from the original (values up to 3.5)",
                        model=config, case=case, precision=name, **cells, verdict=verdict,
                    )  # fmt: skip
    phases_passed = 0
    names = ("Dmain",) if bench.tiny else tuple(LOSS_TOLERANCE)
    for phase in names:
        for name, (tf32, half) in GOLDEN_PRECISIONS.items():
            if bench.tiny and name != "float32":
                continue
            with bench.record.attempt(f"{phase}, {name}"), precision(tf32=tf32):
                good = _golden_phase(bench, phase, name, half)
                phases_passed += good and name == "float32"
    bench.record.headline(
        f"float32: {passed} of {compared} frames and {phases_passed} of {len(names)} phases within the tests' bounds; "
        "frames differ by at most " + ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    )


def _golden_phase(bench: Bench, phase: str, name: str, half: bool) -> bool:
    """Losses, norms and inner products of the gradients of one phase; True if all are within the tests' bounds."""
    from tests.goldens.measured_losses import (
        LOSS_TOLERANCE,
        Reports,
        compare_gradients,
        expected_reports,
        real_batch,
        recorded_draws,
    )
    from tests.goldens.networks import paper_discriminators, paper_generator
    from tests.streams import Tape

    device = bench.device
    generator, discriminators = paper_generator("taichi").train().to(device), paper_discriminators("taichi").to(device)
    resolutions = {d: d.fp16_resolutions for d in discriminators.modules() if hasattr(d, "fp16_resolutions")}
    if not half:
        full_precision(generator, discriminators)
    reports = Reports()
    loss = GanLoss(generator=generator, discriminator=discriminators, statistics=reports)
    discriminators.zero_grad(set_to_none=True)
    try:
        loss.accumulate(phase, batch=real_batch(device), gain=1.0, stream=Tape(recorded_draws(phase), device))
    finally:
        for module, count in resolutions.items():
            module.fp16_resolutions = count

    losses = 0.0
    for report, expected in expected_reports(phase).items():
        found, wanted = reports[report].detach().double().flatten().cpu(), expected.double().flatten()
        losses = largest([losses, float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))])
    gradients = compare_gradients(phase, generator if phase[0] == "G" else discriminators)
    good = losses <= LOSS_TOLERANCE[phase] and not gradients.beyond
    bench.record.row(
        "Phases of the TaiChi model: relative differences from the original",
        phase=phase, precision=name, losses=losses, largest_norm=gradients.largest_norm,
        gradients_beyond_bounds=f"{len(gradients.beyond)} of {gradients.count}", non_finite=gradients.nonfinite,
        verdict=("pass" if good else "FAIL") if name == "float32" else "reported",
    )  # fmt: skip
    if name == "float32" and not good:
        bench.record.fail(
            phase, f"losses off by {losses:.2e}, gradients beyond the bounds: {', '.join(list(gradients.beyond)[:8])}"
        )
    return good


# ----------------------------------------------------------------------------------------------------------------------
# Rendering


def rendering(bench: Bench) -> None:
    """The README's video of 16 frames: the loop in all precisions, and the whole command."""
    record, device = bench.record, bench.device
    model = ("model=stylenerf_small", "spec=small") if bench.tiny else ("model=stylenerf_faceforensics", "spec=paper")
    rates, reference = {}, None
    for name, (words, tf32) in PRECISIONS.items():
        with record.attempt(name), precision(tf32=tf32):
            options = compose_options(["outdir=.", "data=.", *model, *words])
            try:
                check_precision(options, device.type)
            except UserError as error:
                record.note(f"{name}: {error}")
                continue
            generator, _ = build_networks(options, c_dim=0)
            generator.eval().to(device)
            latents = generator_latents(generator, 0, 0)
            cameras = camera_path(PROGRAM, generator.camera_prior, FRAMES)
            codes = {"z_motion": latents.z_motion.to(device), "z_bg": latents.z_bg.to(device)}
            half = "precision=bf16" in words and can_render("bfloat16", device)
            codes["precision"] = "bfloat16" if half else "float32"

            @torch.inference_mode()
            def loop() -> torch.Tensor:
                renderer = FrameRenderer(generator, generator.mapping(latents.z.to(device), None), **codes)  # noqa: B023
                frames = [
                    to_uint8(renderer.render(step / (FRAMES - 1), cameras[FRAMES - 1 - step])).cpu()  # noqa: B023
                    for step in range(FRAMES)
                ]
                return torch.cat(frames)

            reset_peak(device)
            seconds = seconds_per_call(loop, device, rounds=1 if bench.tiny else 5, warm_up=1)
            frames = loop()
            reference = frames if reference is None else reference
            difference = (frames.int() - reference.int()).abs()
            rates[name] = FRAMES / seconds
            record.row(
                "Loop of the README's command: 16 frames, cameras moving, copied to the host",
                precision=name, ms_per_frame=1e3 * seconds / FRAMES, frames_per_second=rates[name],
                peak_GB=peak_gigabytes(device), largest_difference_of_255=int(difference.max()),
            )  # fmt: skip
            if name == "TF32":
                with record.attempt("16 videos at a time"):
                    _many(bench, generator, 2 if bench.tiny else 16)
    if reference is not None and not bench.tiny:
        save_png(image_grid(reference[::4], 4), bench.folder / "rendering.png")
    with record.attempt("generate.py"):
        record.figure("the README's command as a process, s", _command(bench, model))
    record.headline("frames/s: " + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items()))


def _many(bench: Bench, generator: torch.nn.Module, videos: int) -> None:
    """Frames per second with several videos at a time."""
    latents = SeedLatents.join(generator_latents(generator, seed, seed) for seed in range(videos)).to(bench.device)
    codes = {"z_motion": latents.z_motion, "z_bg": latents.z_bg}
    with torch.inference_mode():
        renderer = FrameRenderer(generator, generator.mapping(latents.z, None), **codes)
        cameras = camera_path(PROGRAM, generator.camera_prior, FRAMES)
        steps = iter(range(1 << 30))

        def frame() -> None:
            step = next(steps) % FRAMES
            renderer.render(step / (FRAMES - 1), cameras[[step] * videos])

        seconds = seconds_per_call(frame, bench.device, rounds=1 if bench.tiny else 10)
    bench.record.figure(f"frames/s in TF32, {videos} videos at a time", videos / seconds)


def _command(bench: Bench, model: tuple[str, ...]) -> float:
    """Seconds of `generate.py` as a process, the better of two."""
    generator, discriminator = build_networks(compose_options(["outdir=.", "data=.", *model]), c_dim=0)
    networks = {"generator": generator, "generator_ema": generator, "discriminator": discriminator}
    progress = {"cur_nimg": 0, "tick": 0, "iteration": 0}
    with tempfile.TemporaryDirectory() as folder:
        snapshot = save_snapshot(folder, **networks, augment=None, dataset={}, progress=progress)
        words = ["--outdir", str(Path(folder) / "out"), "--network_pkl", str(snapshot), "--seeds", "0"]
        words += ["--render_program", PROGRAM, "--time_steps", str(FRAMES), "--n_steps", str(FRAMES)]
        words += ["--device", bench.device.type]
        runs = [run_process(words)["seconds"] for _ in range(1 if bench.tiny else 2)]
    return min(runs)
