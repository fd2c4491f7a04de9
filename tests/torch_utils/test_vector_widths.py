"""Native operators on processors with narrower vectors than this one's, or without its tiles."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torch_utils.native import needs_compiler
from torch_utils import op_build

pytestmark = [
    needs_compiler,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are those of x86"),
]

#: The tests of these operators cover all uses of csrc/fused_mlp/dense.h, where the vector width is set.
TESTS = [f"tests/torch_utils/test_{name}.py" for name in ("conv3x3", "fused_mlp", "point_linear")]


@pytest.mark.parametrize("extension", ["avx512f", "avx", "amx-bf16"])
def test_operators_on_vectors_are_right_with_narrower_ones(extension, monkeypatch):
    """The compiler is part of a library's key: the cache keeps these builds beside the usual ones."""
    features, _ = op_build.recipe("winograd", "cpu").versions
    macro = f"#define __{extension.upper().replace('-', '_')}__"
    if macro not in features:
        pytest.skip(f"without {extension} already: the operators' own tests are the same")
    usual = op_build.library_path("winograd-cpu", op_build.recipe("winograd", "cpu"))
    monkeypatch.setenv("CXX", f"{op_build.cxx_compiler()[0]} -mno-{extension}")
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert process.returncode == 0 and " passed" in process.stdout, process.stdout[-4000:] + process.stderr[-2000:]
    narrow = op_build.recipe("winograd", "cpu")
    assert macro not in narrow.versions[0]
    library = op_build.library_path("winograd-cpu", narrow)
    assert library.exists() and library != usual
