"""A generator whose foreground is a known body, and runs of the commands that write its geometry."""

import types

import click.testing
import torch

from renderer.volume_rendering import Fields
from tests.training.tiny import make_plan
from training.launch.build import build_networks

RADIUS, GROWTH = 0.07, 0.03  # of the ball at time 0, and by how much it grows until time 1


class Ball:
    """Fog that is thick inside a ball, coloured by y and z; the density is 25 at its radius."""

    plate = 0.0  # density in front of the frontal camera's near plane, where cameras from the side see it

    def __init__(self, time, feature_dim, slope):
        self.radius, self.feature_dim, self.slope = RADIUS + GROWTH * time, feature_dim, slope

    def __call__(self, points, directions):
        rgb = points * 8 * torch.tensor([0.0, 1.0, 1.0]) + torch.tensor([0.3, 0.0, 0.0])
        rest = torch.zeros([*points.shape[:-1], self.feature_dim])
        density = 50 * torch.sigmoid((self.radius - points.norm(dim=-1)) * self.slope)
        density = density + self.plate * (points[..., 0] > 0.155)
        return density, (torch.cat([rgb, rest], dim=-1),)

    def project(self, features, accumulation=1.0):
        return features[0]


def build(folder, *more):
    """A tiny generator without the ball."""
    words = ["resolution=32", "model.generator.rendering.resolution=16", "model.generator.rendering.path_lattice=8"]
    words += [f"model.generator.rendering.{word}" for word in ("near=0.85", "far=1.15", "num_samples=20")]
    return build_networks(make_plan(folder, *words, *more).options, c_dim=0)[0].eval().requires_grad_(False)


def put_ball(generator, monkeypatch, *, slope):
    """Replace the foreground until the end of the test; the slope is that of the sigmoid at the ball's radius."""

    def condition(self, weights, *, times, motion, z_bg):
        ball = Ball(float(times[0, 0]), self.foreground.feature_dim, slope)
        return Fields(ball, self.background.condition(z_bg))

    monkeypatch.setattr(generator, "condition", types.MethodType(condition, generator))
    return generator


def load_instead(generator, monkeypatch):
    """Let the commands load this generator, whatever their --network_pkl."""
    monkeypatch.setattr("training.inference.scenes.load_average_generator", lambda path, *, device: generator)


def runs_of(command, folder, *base):
    """`run(*words)` gives the names of the files in `run.out`; `run.output` is what the command printed."""
    network = folder / "network.pt"
    network.touch()

    def run(*words):
        words = ["--outdir", str(run.out), "--network_pkl", str(network), "--device", "cpu", *base, *words]
        result = click.testing.CliRunner().invoke(command, words)
        if result.exception is not None:
            raise result.exception
        run.output = result.output
        return sorted(path.name for path in run.out.iterdir())

    run.out = folder / "out"
    return run
