"""The measured evaluations of the paper's models, repeated."""

import functools

import torch

from tests.goldens.networks import golden_arrays, paper_generator
from training.networks.generator import Generator, SynthesisOutput

# Bounds in float32. The original differs from itself by up to 9e-5 on another machine (values up to 3.5).
EVALUATION = {"relative": 0, "absolute": 5e-4, "mean": 2e-5}

# Case → fractions of the camera's ranges, field of view, frames, changes of the sampling, styles.
CASES = {
    "c1": ((0.2, 0.7, 0.5), None, [0, 1, 2, 3], {}, "inputs/ws"),
    "c0": ((0.5, 0.5, 0.5), None, [0, 3], {}, "inputs/ws"),
    "c2_fov20": ((0.5, 0.5, 0.5), 20.0, [0], {}, "inputs/ws"),
    "c1_steps20": ((0.2, 0.7, 0.5), None, [0], {"num_samples": 20, "num_importance": 20}, "inputs/ws"),
    "c1_wsvaried": ((0.2, 0.7, 0.5), None, [0], {}, "inputs/ws_varied"),
}


def case_generator(config: str, case: str) -> Generator:
    """The paper's generator with the case's sampling."""
    generator = paper_generator(config)
    changes = CASES[case][3]
    if changes:
        arguments = generator.config | {"rendering": generator.config["rendering"] | changes}
        other = Generator(**arguments).eval()
        other.load_state_dict(generator.state_dict())
        generator = other
    return generator


def case_inputs(config: str, case: str) -> dict:
    """Arguments of `Generator.synthesize`."""
    fractions, fov, frames, _, ws = CASES[case]
    goldens, generator = golden_arrays(f"network_{config}.npz"), paper_generator(config)
    ws = goldens[ws] if goldens[ws].ndim == 3 else goldens[ws][:, None].expand(-1, generator.num_ws, -1)
    return {
        "ws": ws,
        "z_motion": goldens["inputs/z_motion"],
        "z_bg": goldens["inputs/z_shape_bg"],
        "times": goldens["inputs/Ts"].reshape(1, -1)[:, frames],
        "cameras": generator.camera_prior.at(*fractions, fov=fov),
    }


@functools.cache
@torch.no_grad()
def evaluate(config: str, case: str) -> SynthesisOutput:
    """The case's frames; shared by tests, so leave them as they are."""
    return case_generator(config, case).synthesize(**case_inputs(config, case))
