"""The packages build on one another in one direction, and nothing leans on private PyTorch or on one machine."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What each package may import of ours, besides itself. `training` never imports `metrics`: run_train.py hands it
# callbacks.
MAY_IMPORT = {
    "dnnlib": set(),
    "torch_utils": {"dnnlib"},
    "renderer": {"torch_utils", "dnnlib"},
    "training": {"renderer", "torch_utils", "dnnlib"},
    "metrics": {"torch_utils", "dnnlib"},
}
# Scripts that live in a package: the implementation of `python -m metrics` puts training and metrics together, as
# run_train.py does; viewer and geometry put networks behind a renderer that knows none. They may import everything of
# ours but the tests; only the package's __main__ may import them.
SCRIPTS = {"metrics.__main__", "renderer.viewer.__main__", "renderer.geometry"}
OURS = {*MAY_IMPORT, "run_train", "generate", "tests"}
MACHINE_PATH = re.compile(r"(?<![\w.])/" + r"work\b|\bshared/" + r"(?:goldens|spec|seed)")
TEXT_SUFFIXES = {".py", ".sh", ".yaml", ".yml", ".toml", ".md", ".txt", ".cpp", ".cu", ".h"}


def imported_modules(tree: ast.AST, package: str) -> list[str]:
    """Every module that a file of `package` (dotted, '' at the top) imports, relative imports resolved."""
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            modules.extend(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                modules.append(str(node.args[0].value))
    return modules


def wrong_imports(source: str, package: str, *, file: str = "module") -> list[str]:
    """Imports that a file (its name without .py) of `package` must not have."""
    room = package.split(".")[0]
    allowed = set(MAY_IMPORT) if f"{package}.{file}" in SCRIPTS else MAY_IMPORT[room] | {room}
    wrong = []
    for module in imported_modules(ast.parse(source), package):
        parts = module.split(".")
        scripts = [name for name in SCRIPTS if f"{module}.".startswith(f"{name}.")]
        of_a_script = scripts and (file != "__main__" or scripts[0].rpartition(".")[0] != package)
        if parts[0] in OURS and (parts[0] not in allowed or of_a_script):
            wrong.append(module)
    return wrong


def is_private(path: list[str]) -> bool:
    return path[0] == "torch" and any(re.match(r"_(?!_)", name) for name in path[1:])


def private_torch(source: str) -> list[str]:
    """Uses of names of PyTorch that start with one underscore, through any alias that an import introduces."""
    tree = ast.parse(source)
    found = [module for module in imported_modules(tree, "") if is_private(module.split("."))]
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = (alias.name if alias.asname else "").split(".")
                if not alias.asname:
                    aliases[alias.name.split(".")[0]] = [alias.name.split(".")[0]]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                aliases[alias.asname or alias.name] = [*node.module.split("."), alias.name]
    for node in ast.walk(tree):
        path, inner = [], node
        while isinstance(inner, ast.Attribute):
            path.insert(0, inner.attr)
            inner = inner.value
        if path and isinstance(inner, ast.Name):
            full = [*aliases.get(inner.id, [inner.id]), *path]
            if is_private(full):
                found.append(".".join(full))
    return found


def library_files() -> list[pathlib.Path]:
    return sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def project_files() -> list[pathlib.Path]:
    folders = [ROOT / name for name in (*MAY_IMPORT, "benchmarks", "conf", "docs", "tests", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    return sorted(p for p in files if p.suffix in TEXT_SUFFIXES or p.name in ("Makefile", "run"))


def test_there_is_something_to_check():
    rooms = {path.relative_to(ROOT).parts[0] for path in library_files()}
    assert {"dnnlib", "torch_utils", "renderer"} <= rooms
    assert ROOT / "Makefile" in project_files()


@pytest.mark.parametrize("path", library_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    assert wrong_imports(path.read_text(), package, file=path.stem) == []


def test_no_private_names_of_torch():
    files = [path for path in project_files() if path.suffix == ".py"]
    found = {str(path.relative_to(ROOT)): private_torch(path.read_text()) for path in files}
    assert {name: uses for name, uses in found.items() if uses} == {}


def test_no_paths_of_one_machine():
    found = {str(path.relative_to(ROOT)): MACHINE_PATH.findall(path.read_text()) for path in project_files()}
    assert {name: matches for name, matches in found.items() if matches} == {}


def texts_without_encoding(source: str) -> list[int]:
    """Lines on which a text file is opened, or a program's output read, in whatever encoding the system has."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        opens = isinstance(node.func, ast.Name) and name == "open"
        mode = given.get("mode") or (node.args[1] if opens and len(node.args) > 1 else None)
        binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
        wanting = (opens and not binary) or (
            name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute)
        )
        if None in given:  # **options
            continue
        if (wanting or "text" in given and name in ("run", "Popen", "check_output")) and "encoding" not in given:
            lines.append(node.lineno)
    return lines


def test_text_files_name_their_encoding():
    files = [path for path in project_files() if path.suffix == ".py" and "tests" not in path.relative_to(ROOT).parts]
    found = {str(path.relative_to(ROOT)): texts_without_encoding(path.read_text(encoding="utf-8")) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


# The checks themselves must be able to fail.


@pytest.mark.parametrize(
    "source, package",
    [
        ("import torch_utils.ops", "dnnlib"),
        ("from renderer import cameras", "torch_utils"),
        ("def f():\n    from training.networks.generator import Generator", "renderer"),
        ("import importlib\nimportlib.import_module('metrics.fvd')", "training"),
        ("import metrics", "training"),
        ("from renderer.video import to_uint8", "metrics"),
        ("import run_train", "training.sub"),
        ("from tests.tape import Tape", "training"),
    ],
)
def test_wrong_imports_are_found(source, package):
    assert len(wrong_imports(source, package)) == 1


@pytest.mark.parametrize(
    "source, package",
    [
        ("from . import util\nfrom .util import x\nimport torch, os", "dnnlib"),
        ("from .. import misc\nfrom dnnlib.util import UserError", "torch_utils.ops"),
        ("import metrics.distances\nimport torch_utils", "metrics"),
    ],
)
def test_right_imports_pass(source, package):
    assert wrong_imports(source, package) == []


def test_a_script_in_a_package_may_import_everything_and_nobody_imports_it():
    assert wrong_imports("import training.training_loop, renderer, metrics.fvd", "metrics", file="command") == []
    assert wrong_imports("import generate", "metrics", file="command") == ["generate"]
    assert wrong_imports("import training.command", "metrics", file="fvd") == ["training.command"]
    assert wrong_imports("from metrics.__main__ import run", "metrics", file="fvd") == ["metrics.__main__.run"]
    assert wrong_imports("from metrics.__main__ import main", "metrics", file="__main__") == []
    assert wrong_imports("from metrics.__main__ import main", "training", file="__main__") == ["metrics.__main__.main"]
    deeper = "from renderer.viewer.__main__ import main"
    assert wrong_imports("import training.checkpoints.snapshot", "renderer.viewer", file="command") == []
    assert wrong_imports(deeper, "renderer.viewer", file="__main__") == []
    assert wrong_imports(deeper, "renderer", file="__main__") == ["renderer.viewer.__main__.main"]
    assert wrong_imports(deeper, "training", file="loop") == ["renderer.viewer.__main__.main"]


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch._C.x()",
        "import torch.nn.functional as F\nF._pad(x)",
        "from torch import nn\nnn.modules._functions",
        "from torch._utils import x",
        "import torch._dynamo",
    ],
)
def test_private_torch_is_found(source):
    assert private_torch(source)


def test_public_torch_passes():
    assert private_torch("import torch\ntorch.__version__\ntorch.nn.Linear\nself._x.y\nself.torch._x") == []


def test_machine_paths_are_found():
    assert MACHINE_PATH.search("open('/" + "work/x')") and MACHINE_PATH.search("../shared/" + "goldens/a.npz")
    assert not MACHINE_PATH.search("a/work/x or a shared/weights")


@pytest.mark.parametrize(
    "source, found",
    [
        ("open(path)", [1]),
        ("open(path, 'a')", [1]),
        ("path.read_text()", [1]),
        ("path.write_text(x)", [1]),
        ("subprocess.run(x, text=True)", [1]),
        ("open(path, 'rb')", []),
        ("open(path, 'x', encoding='utf-8')", []),
        ("path.read_text(encoding='utf-8')", []),
        ("archive.open(member)", []),
        ("os.open(path, os.O_RDONLY)", []),
    ],
)
def test_texts_without_encoding_are_found(source, found):
    assert texts_without_encoding(source) == found
