"""Exported frame functions: the frames of the generator, in both formats; the command and its mistakes."""

import importlib.util
import inspect
import os
import sys

import click.testing
import pytest
import torch

from dnnlib import UserError
from tests.full_memory import REASON, no_memory
from tests.small_network import save_small_network, small_generator
from torch_utils import custom_ops
from training.export import __main__ as command
from training.export import frame_function
from training.export.frame_function import (
    INPUTS,
    FrameFunction,
    deviations,
    onnx_bytes,
    onnx_function,
    program_bytes,
    program_function,
    random_inputs,
    trace,
)
from training.networks.generator import Generator, ModulatedWeights

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs onnx, onnxscript and onnxruntime")

#: Generators with few operations. One has two passes, a background and motion, and all frames differ; the other has one
#: pass without them, isotropic encoding, a density prior, and labels.
SMALLER = {"resolution": 16, "mapping": {"num_layers": 1}, "rendering": {"num_samples": 3, "num_importance": 2}}
GENERATORS = {
    "full": SMALLER | {"foreground": {"num_layers": 2}, "background": {"num_layers": 2}},
    "spare": SMALLER
    | {
        "motion": None,
        "background": None,
        "c_dim": 3,
        "foreground": {
            "num_layers": 2,
            "encoding": "isotropic",
            "view_directions": False,
            "density_prior": {"peak": 60, "radius": 0.06},
        },
        "upsampler": {"mode": "pixelshuffle"},
        "rendering": {"num_samples": 4, "num_importance": 0},
    },
}


def make(name):
    return small_generator(**GENERATORS[name])


@pytest.fixture(scope="module")
def programs():
    """(generator, traced program) by name."""
    return {name: (generator := make(name), trace(generator)) for name in GENERATORS}


def differences(generator, exported):
    """The largest differences of image and depth from the plain function."""
    inputs = [random_inputs(generator, seed) for seed in (1, 2)]
    return [deviation.largest for deviation in deviations(exported, FrameFunction(generator), inputs)]


@pytest.mark.parametrize("name", GENERATORS)
def test_a_program_gives_the_frames_that_are_rendered(programs, name):
    generator, program = programs[name]
    exported = program_function(program_bytes(program))
    image, depth = exported(*random_inputs(generator, 1))
    assert list(image.shape) == [1, 3, 16, 16] and list(depth.shape) == [1, 8, 8]
    found = command.compare(generator, exported, samples=2)
    assert [deviation.name for deviation in found] == ["image", "depth"]
    for deviation in found:
        assert deviation.largest < 1e-5 < deviation.high - deviation.low


@pytest.mark.parametrize("name", GENERATORS)
def test_the_decompositions_for_onnx_change_nothing(programs, name):
    generator, program = programs[name]
    decomposed = program.run_decompositions(frame_function.DECOMPOSITIONS)
    used = {node.target for node in decomposed.graph.nodes}
    assert not used & set(frame_function.DECOMPOSITIONS)
    assert max(differences(generator, decomposed.module())) < 1e-5


@needs_onnx
@pytest.mark.parametrize("name", GENERATORS)
def test_onnx_gives_the_frames_that_are_rendered(name):
    generator = make(name)
    content = onnx_bytes(trace(generator))
    assert max(differences(generator, onnx_function(content))) < 1e-4

    import onnx

    graph = onnx.load_from_string(content).graph
    assert [entry.name for entry in graph.input] == list(INPUTS)
    assert not [node for node in graph.node if node.op_type.startswith("Scatter")]  # slow, see OUT_OF_PLACE


def test_traces_leave_nothing_behind(programs):
    """Constants that are cached while tracing serve later frames; threads and native operators are as before."""
    generator, _ = programs["full"]
    image, _ = FrameFunction(generator)(*random_inputs(generator, 1))
    assert type(image) is torch.Tensor and bool(image.isfinite().all())
    with frame_function._one_thread():
        assert torch.get_num_threads() == 1
    assert not getattr(custom_ops._plain, "depth", 0)


def test_decompositions_of_operations():
    x = torch.rand(2, 5, dtype=torch.float64)
    torch.testing.assert_close(frame_function._cumprod(x, -1), x.cumprod(-1), rtol=0, atol=1e-15)
    torch.testing.assert_close(frame_function._tan(x), x.tan(), rtol=1e-14, atol=0)
    edges = x.cumsum(-1)
    values = torch.cat([edges, edges + 0.1, edges - 0.1], dim=-1)  # edges themselves too
    assert torch.equal(frame_function._searchsorted(edges, values), torch.searchsorted(edges, values))


def test_deviations_are_measured():
    inputs = [(torch.zeros([]),), (torch.ones([]),)]
    wanted = torch.tensor([[0.0, 2.0]])

    def exported(x):
        return wanted + torch.tensor([[0.0, 3.0]]) * x, wanted

    image, depth = deviations(exported, lambda x: (wanted, wanted), inputs)
    assert (image.largest, image.rms, image.low, image.high) == (3.0, 1.5, 0.0, 2.0)
    assert str(image) == "image: largest error 3, root mean square 1.5 (values from 0 to 2)"
    assert (depth.largest, depth.rms) == (0.0, 0.0)


def test_plain_pytorch_holds_back_native_operators(monkeypatch):
    monkeypatch.setattr(custom_ops, "_outcome", lambda name, device_type: "library")
    monkeypatch.setattr(custom_ops, "_loaded", {})
    with custom_ops.plain_pytorch(), custom_ops.plain_pytorch():
        assert custom_ops.load("bias_act", "cpu") is None
    with pytest.raises(KeyError), custom_ops.plain_pytorch():
        raise KeyError
    assert not custom_ops._plain.depth


class Halved(Generator):
    """A class of a user's own, with other weights."""

    def modulate(self, ws, precision="float32"):
        return super().modulate(0.5 * ws, precision)


class Paired(Halved):
    """And in a form of its own."""

    def modulate(self, ws, precision="float32"):
        weights = super().modulate(ws, precision)
        return weights.foreground, weights.upsampler

    def condition(self, weights, **arguments):
        return super().condition(ModulatedWeights(*weights), **arguments)

    def upsample(self, rendered, weights, **arguments):
        return super().upsample(rendered, ModulatedWeights(*weights), **arguments)


@pytest.mark.parametrize("own", [Halved, Paired])
def test_steps_of_an_own_class_are_its_own(own):
    plain = make("full")
    generator = own(**plain.config).eval()
    generator.load_state_dict(plain.state_dict())

    def exported(*inputs):
        with torch.no_grad(), custom_ops.plain_pytorch():
            return FrameFunction(generator)(*inputs)

    assert max(deviation.largest for deviation in command.compare(generator, exported, samples=1)) < 1e-5
    with pytest.raises(UserError, match="^Not written: the exported function differs from the generator"):
        command.compare(plain, exported, samples=1)


def test_inputs_are_named_as_the_function_names_them():
    assert INPUTS == ("ws", "z_motion", "z_bg", "time", "cam2world", "fov")
    assert tuple(inspect.signature(FrameFunction.forward).parameters) == ("self", *INPUTS)


def test_training_mode_is_refused():
    generator = small_generator().train()
    with pytest.raises(ValueError, match="evaluation mode"):
        FrameFunction(generator)


# ----------------------------------------------------------------------------------------------------------------------
# The command


def run(*arguments):
    return click.testing.CliRunner().invoke(command.main, [str(argument) for argument in arguments])


def test_the_command_writes_a_program(tmp_path):
    generator = save_small_network(tmp_path, make("spare"))
    out = tmp_path / "frame.pt2"
    result = run(tmp_path, out, "--format", "torch.export", "--samples", 1)
    assert result.exception is None, result.output
    assert result.output.splitlines()[0].startswith("image: largest error")
    assert result.output.splitlines()[1].startswith("depth: largest error")
    assert max(differences(generator, program_function(out.read_bytes()))) < 1e-5


def test_a_function_that_differs_is_not_written(tmp_path, monkeypatch):
    save_small_network(tmp_path, small_generator())
    black = torch.zeros(1, 3, 32, 32), torch.zeros(1, 8, 8)
    monkeypatch.setattr(command, "make_file", lambda *_: (b"", lambda *inputs: black))
    result = run(tmp_path, tmp_path / "frame.pt2", "--format", "torch.export")
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("Not written: the exported function differs from the generator (image:")
    assert not (tmp_path / "frame.pt2").exists()


def test_a_full_memory_is_one_line(tmp_path, monkeypatch):
    save_small_network(tmp_path, small_generator())
    monkeypatch.setattr(command, "make_file", no_memory)
    result = run(tmp_path, tmp_path / "frame.pt2", "--format", "torch.export")
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == f"The memory is full ({REASON}). End other programs, or use a larger machine."


@pytest.mark.parametrize("ignored", [name for name in INPUTS if name != "ws"])
def test_a_function_that_ignores_an_input_is_refused(ignored):
    generator = make("full")
    function, constants = FrameFunction(generator), dict(zip(INPUTS, random_inputs(generator, seed=0)))

    def deaf(*inputs):
        with torch.no_grad(), custom_ops.plain_pytorch():
            return function(**dict(zip(INPUTS, inputs)) | {ignored: constants[ignored]})

    with pytest.raises(UserError, match="^Not written: the exported function differs from the generator"):
        command.compare(generator, deaf, samples=1)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    save_small_network(tmp_path, small_generator())
    result = run(tmp_path, tmp_path / "frame.onnx", "--format", "onnx")
    assert isinstance(result.exception, UserError)
    assert "pip install onnx onnxscript onnxruntime" in str(result.exception)
    assert not (tmp_path / "frame.onnx").exists()


def test_mistakes_are_answered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_small_network(tmp_path, small_generator())
    pkl = tmp_path / "network-snapshot-000000.pt"
    folder = run(pkl, tmp_path, "--format", "onnx").exception
    assert str(folder) == f"{tmp_path} is a folder; give the name of a file."
    itself = run(pkl, pkl, "--format", "onnx").exception
    assert str(itself) == f"{pkl} is the checkpoint itself; give the result another name."
    link = tmp_path / "latest-network-snapshot.pt"  # a hard link
    assert "is the checkpoint itself" in str(run(pkl, link, "--format", "onnx").exception)
    other = run(tmp_path, tmp_path / "latest-network-snapshot.pt", "--format", "onnx").exception  # a run folder
    assert str(other) == f"{link} is a checkpoint, which the result would replace; give it another name."
    remote = run("http://127.0.0.1:9/a.pt", tmp_path / "a.onnx", "--format", "onnx").exception
    assert str(remote).startswith("Cannot download http://127.0.0.1:9/a.pt to ")
    nowhere = run(pkl, tmp_path / "none" / "a.onnx", "--format", "onnx").exception
    assert str(nowhere) == f"{tmp_path / 'none' / 'a.onnx'}: its folder does not exist."
    for name, given, usual in (("onnx", "a.pt2", ".onnx"), ("torch.export", "a.ONNX", ".pt2")):
        suffix = os.path.splitext(given)[1].lower()
        message = f"{given}: '{suffix}' is the suffix of another format than {name}; write '{usual}'."
        assert str(run(pkl, given, "--format", name).exception) == message
    assert "'tf' is not one of" in run(pkl, tmp_path / "a", "--format", "tf").output


def test_random_inputs_are_those_of_the_seed():
    generator = small_generator(c_dim=3)
    first, again, other = (random_inputs(generator, seed) for seed in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(first, again))
    assert not torch.equal(first[0], other[0])
    assert [list(x.shape) for x in first] == [
        [1, generator.num_ws, 16], [1, 10], [1, 6], [1], [1, 4, 4], [1]]  # fmt: skip
    assert 0 <= float(first[3]) <= 1
    prior = generator.camera_prior
    for inputs in (first, other):
        assert 0.7 * prior.fov <= float(inputs[5]) < 0.99 * prior.fov
        distance = float(inputs[4][0, :3, 3].norm())
        assert 0.005 < abs(distance / prior.radius[0] - 1) <= 0.1
    generator.label_examples = torch.tensor([[0.5, 2.0, -1.0]])
    z = torch.randn([1, generator.z_dim], generator=torch.Generator().manual_seed(1))
    assert torch.equal(random_inputs(generator, 1)[0], generator.mapping(z, generator.label_examples))
