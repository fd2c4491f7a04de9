"""The packages depend on one another in one direction, and nothing relies on private PyTorch or on one machine."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Imports that each room may have: a room is a package, or a module at the top of `training`. Every room may import
# itself, and a room that is not in the table fails the test. `metrics` stands above `training`: run_train.py passes
# callbacks to the training loop. The renderer sees no network: a field is a callable.
MAY_IMPORT = {
    "dnnlib": set(),
    "torch_utils": {"dnnlib"},
    "renderer": {"dnnlib", "torch_utils"},
    "training": set(),
    "training.networks": {"dnnlib", "torch_utils", "renderer"},
    "training.augment": {"dnnlib", "torch_utils"},
    "training.data": {"dnnlib"},
    "training.schedule": set(),
    "training.phases": {"torch_utils"},
    "training.ema": {"torch_utils", "training.networks"},
    "training.loss": {"torch_utils", "renderer", "training.networks", "training.augment"},
    "training.cuda_graphs": {"dnnlib", "torch_utils", "training.phases", "training.loss"},
    "training.published": {"dnnlib", "training.networks"},
    # A checkpoint is our own format or the original's, and is kept as often as the schedule says.
    "training.checkpoints": {"dnnlib", "torch_utils", "training.networks", "training.published", "training.schedule"},
    "training.inference": {"dnnlib", "torch_utils", "renderer", "training.networks", "training.checkpoints"},
    "training.export": {"torch_utils", "renderer", "training.networks", "training.inference"},
    "training.dataset_tool": {"dnnlib", "training.data"},
    "training.synthetic": {"dnnlib", "torch_utils", "renderer", "training.data"},
    "training.report": {"dnnlib"},
    "training.sharing": set(),  # a command alone
    "training.monitoring": {
        "dnnlib", "torch_utils", "renderer", "training.networks", "training.data", "training.inference",
    },
    "training.inversion": {
        "dnnlib", "torch_utils", "renderer", "training.networks", "training.data", "training.checkpoints",
        "training.inference",
    },
    "training.training_loop": {
        "dnnlib", "torch_utils", "training.networks", "training.augment", "training.data", "training.schedule",
        "training.phases", "training.ema", "training.loss", "training.cuda_graphs", "training.checkpoints",
        "training.monitoring",
    },
    "training.launch": {
        "dnnlib", "torch_utils", "renderer", "training.networks", "training.augment", "training.data",
        "training.schedule", "training.phases", "training.ema", "training.loss", "training.cuda_graphs",
        "training.checkpoints", "training.monitoring", "training.synthetic", "training.training_loop",
    },
    # What is measured: datasets, and videos that a generator renders.
    "metrics": {"dnnlib", "torch_utils", "renderer", "training.networks", "training.data", "training.inference"},
    # One name to import for programs outside of the checkout, and the installed commands, which start the scripts.
    "video3d": {"dnnlib", "training.inference"},
}  # fmt: skip
# Imports that the rules forbid, as (module, room or __main__), with the reason.
EXCEPTIONS = {
    ("renderer.geometry", "renderer.mesh.__main__"): "the earlier name of this command",
    ("video3d.commands", "run_train"): "the installed command video3d-train",
    ("video3d.commands", "generate"): "the installed command video3d-generate",
    ("video3d.commands", "training.dataset_tool.__main__"): "the installed command video3d-data",
    ("video3d.commands", "metrics.__main__"): "the installed command video3d-metrics",
    ("video3d.commands", "renderer.viewer.__main__"): "the installed command video3d-view",
    ("training.dataset_tool.demo_clip", "training.dataset_tool.__main__"): "a command that continues with this one",
}

# These connect rooms, and may import everything in the repository but each other and the tests. So may every __main__.
SCRIPTS = ("run_train", "generate")
PACKAGES = ("dnnlib", "torch_utils", "renderer", "training", "metrics", "video3d")
OURS = {*PACKAGES, *SCRIPTS, "benchmarks", "tests"}
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


def room_of(module: str) -> str:
    """The package that a dotted name lies in, or for `training` the part of it."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "training" else 1])


def is_main(module: str) -> bool:
    return "__main__" in module.split(".")


def wrong_imports(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports that the file of a module (dotted) must not have."""
    package = module if is_package else module.rpartition(".")[0]
    room, wrong = room_of(module), []
    for name in imported_modules(ast.parse(source), package):
        target = room_of(name)
        if name.split(".")[0] not in OURS:
            continue
        if is_main(name):
            target = name[: name.index("__main__") + len("__main__")]
        allowed = {*MAY_IMPORT, module} if is_main(module) else MAY_IMPORT[room] | {room}
        if target not in allowed and (module, target) not in EXCEPTIONS:
            wrong.append(name)
    return wrong


def import_graph(sources: dict[str, str], packages: set[str]) -> dict[str, set[str]]:
    """Modules that each module imports, also inside functions and for the type checker alone.

    Args:
        sources: Dotted name → text.
        packages: The names that are packages.
    """
    graph = {}
    for module, source in sources.items():
        package = module if module in packages else module.rpartition(".")[0]
        found = set()
        for name in imported_modules(ast.parse(source), package):
            while name and name not in sources:  # a function of a module, a class
                name = name.rpartition(".")[0]
            found.add(name)
        graph[module] = found - {"", module}
    return graph


def import_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another: strongly connected components (Tarjan, 1972) of two or more."""
    index, low, stack, circles = {}, {}, [], []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            start = stack.index(module)
            component = stack[start:]
            del stack[start:]
            if len(component) > 1:
                circles.append(sorted(component))

    for module in graph:
        if module not in index:
            visit(module)
    return sorted(circles)


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
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def project_files() -> list[pathlib.Path]:
    folders = [ROOT / name for name in (*PACKAGES, "benchmarks", "conf", "docs", "tests", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    return sorted(p for p in files if p.suffix in TEXT_SUFFIXES or p.name in ("Makefile", "run"))


def test_there_is_something_to_check():
    rooms = {path.relative_to(ROOT).parts[0] for path in library_files()}
    assert {"dnnlib", "torch_utils", "renderer"} <= rooms
    assert ROOT / "Makefile" in project_files()


@pytest.mark.parametrize("path", library_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_the_table_allows(path):
    assert wrong_imports(path.read_text(), module_of(path), is_package=path.stem == "__init__") == []


def test_the_table_has_an_order():
    """The table itself has no circle either, and names no room that does not exist."""
    assert import_circles(MAY_IMPORT) == []
    assert {room_of(module_of(path)) for path in library_files()} == set(MAY_IMPORT)
    assert not any(target.startswith("training") for target in MAY_IMPORT["renderer"])
    assert all("metrics" not in allowed for allowed in MAY_IMPORT.values())


def test_no_modules_import_one_another():
    sources = {module_of(path): path.read_text() for path in library_files()}
    packages = {module_of(path) for path in library_files() if path.stem == "__init__"}
    found = import_circles(import_graph(sources, packages))
    assert found == []


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
    "source, module",
    [
        ("import torch_utils.ops", "dnnlib.util"),
        ("from renderer import cameras", "torch_utils.rng"),
        ("def f():\n    from training.networks.generator import Generator", "renderer.volume_rendering"),
        ("if TYPE_CHECKING:\n    from training.networks.generator import Generator", "renderer.mesh.extraction"),
        ("import importlib\nimportlib.import_module('metrics.evaluator')", "training.training_loop"),
        ("import metrics", "training.monitoring.previews"),
        ("from ..launch import config", "training.synthetic.render"),
        ("from training import loss", "training.networks.generator"),
        ("from training.checkpoints.snapshot import load_average_generator", "training.published.loader"),
        ("from training.training_loop import TrainingLoop", "training.loss"),
        ("from training.launch.setup import build_loop", "metrics.evaluator"),
        ("import run_train", "training.launch.setup"),
        ("import generate", "metrics.__main__"),
        ("from tests.streams import Tape", "training.report.__main__"),
        ("import benchmarks.tables", "training.report.page"),
        ("from metrics.__main__ import main", "metrics.evaluator"),
        ("from .__main__ import main", "renderer.viewer.server"),
        ("from renderer.viewer.__main__ import main", "renderer.mesh.__main__"),
    ],
)
def test_wrong_imports_are_found(source, module):
    assert len(wrong_imports(source, module)) == 1


@pytest.mark.parametrize(
    "source, module",
    [
        ("from . import util\nfrom .util import x\nimport torch, os", "dnnlib.command_line"),
        ("from .. import rng\nfrom dnnlib.util import UserError", "torch_utils.ops.bias_act"),
        ("import metrics.distances\nimport torch_utils", "metrics.evaluator"),
        ("from training.networks import generator", "training.loss"),
        ("import training.training_loop, renderer, metrics.evaluator", "metrics.__main__"),
        ("import training.checkpoints.snapshot", "renderer.viewer.__main__"),
        ("from metrics.__main__ import main", "metrics.__main__"),
    ],
)
def test_right_imports_pass(source, module):
    assert wrong_imports(source, module) == []


def test_circles_are_found():
    sources = {
        "a": "",
        "a.top": "from . import middle",
        "a.middle": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.low import Thing",
        "a.low": "def late():\n    import a.middle",
        "a.beside": "from a.low import Thing",
    }
    graph = import_graph(sources, {"a"})
    assert graph["a.top"] == {"a.middle"} and graph["a.beside"] == {"a.low"}
    assert import_circles(graph) == [["a.low", "a.middle"]]
    assert import_circles({"x": {"y"}, "y": {"z"}, "z": {"x"}, "w": {"x"}}) == [["x", "y", "z"]]


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
