"""Every CUDA operator compiles, including its binding, for the oldest and the newest GPUs that the toolkit supports.

Nothing runs here: kernels are executed by the tests of the operators, on the CPU.
"""

import re

import pytest
import torch

from torch_utils import custom_ops, op_build

NAMES = sorted(path.stem for path in op_build.SOURCES.glob("*/*.cu"))
CAPABILITIES = [(7, 5), (9, 0)]  # Turing to Hopper; toolkits that know newer ones have given up Volta
needs_cuda_torch = pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is built without CUDA")
needs_nvcc = pytest.mark.skipif(
    op_build.cuda_home() is None or op_build.cxx_compiler() is None,
    reason="no CUDA toolkit ($CUDA_HOME, or nvcc on the PATH), or no C++ compiler",
)


def test_there_are_operators():
    assert {"bias_act", "upfirdn2d"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_do_without_torch_and_have_a_binding(name):
    """Torch's headers would make nvcc take minutes."""
    for path in [op_build.SOURCES / name / f"{name}.cu", op_build.SOURCES / name / f"{name}.h"]:
        assert re.findall(r"#\s*include\s*[<\"](?:torch|ATen|c10)", path.read_text()) == []
    assert (op_build.SOURCES / name / f"{name}_cuda.cpp").is_file()


@needs_nvcc
@needs_cuda_torch
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_builds_and_loads(name):
    recipe = op_build.recipe(name, "cuda", capabilities=CAPABILITIES)
    custom_ops.load_library(f"{name}-cuda", recipe, torch.ops.load_library)
    schemas = (op_build.SOURCES / name / f"{name}_binding.h").read_text()
    functions = re.findall(r'"(\w+)\(', schemas)
    assert functions and all(hasattr(torch.ops.video3d_cuda, function) for function in functions)


@needs_nvcc
@needs_cuda_torch
@pytest.mark.slow
def test_a_binding_refuses_tensors_of_another_device():
    recipe = op_build.recipe("bias_act", "cuda", capabilities=CAPABILITIES)
    custom_ops.load_library("bias_act-cuda", recipe, torch.ops.load_library)
    with pytest.raises(RuntimeError, match="a CUDA tensor is needed"):
        torch.ops.video3d_cuda.bias_act(torch.zeros(2, 3), None, None, None, 0, 1, 0, 0.0, 1.0, None, False)
