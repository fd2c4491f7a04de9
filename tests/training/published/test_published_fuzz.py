"""Damaged checkpoints: thousands of seeded changes end in an error or in a load, never in anything else.

An audit hook watches what the interpreter does meanwhile: no file's bytes may make it import, compile, run or connect.
"""

import contextlib
import dataclasses
import sys
import time

import numpy as np
import pytest
import torch

from dnnlib import UserError
from tests.training.published.published_files import (
    SPEC,
    Call,
    Name,
    dumps,
    number,
    omegaconf,
    parse,
    persistent,
    small_arrays,
    small_file,
    structure,
    tensor,
)
from training.checkpoints.snapshot import load_average_generator, load_snapshot
from training.published.__main__ import convert_checkpoint
from training.published.loader import parse_published
from training.published.modules import PublishedModule, plain_arguments
from training.published.pickle_values import UnreadablePickle

TINY = dataclasses.replace(
    SPEC, resolution=8, z_dim=4, motion_dim=4, w_dim=4, code_dim=2, mapping_layers=1, width=4, layers=2, octaves=1,
    view_octaves=1, features=4, motion_width=4, background_width=4, background_layers=2, channels=32, volume=4,
    samples=3, importance=3, lattice=2,
)  # fmt: skip
FORBIDDEN = ("import", "compile", "exec", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
             "socket.connect", "socket.bind", "ctypes.dlopen", "marshal.loads", "pickle.find_class", "webbrowser.open",
             "os.remove", "os.rename", "os.mkdir", "shutil.rmtree")  # fmt: skip

_watching: list | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _watching is not None and event in FORBIDDEN:
        _watching.append((event, str(arguments)[:200]))


sys.addaudithook(_hook)  # stays for good, and does nothing outside of `watched`


@contextlib.contextmanager
def watched():
    """Fails if anything happens that reading a file does not take."""
    global _watching
    _watching = events = []
    try:
        yield
    finally:
        _watching = None
    assert events == []


def damage(data: bytes, random: np.random.RandomState, reach: int | None = None) -> bytes:
    """One to four bytes changed, a stretch removed, doubled or zeroed, or the end cut off; `reach`: near the start."""
    damaged, reach = bytearray(data), reach or len(data)
    kind = random.randint(8)
    at, length = random.randint(reach), random.randint(1, 20)
    if kind < 4:
        for _ in range(kind + 1):
            damaged[random.randint(reach)] = random.randint(256)
    elif kind == 4:
        del damaged[at : at + length]
    elif kind == 5:
        damaged[at:at] = damaged[at : at + length]
    elif kind == 6:
        damaged[at : at + length] = bytes(length)
    else:
        del damaged[at:]
    return bytes(damaged)


def fuzz(data, read, *, cases, seed, errors, reach=None, limit=10.0):
    """Number of cases that loaded; every other one ended in one of `errors`, with a message of one line."""
    random, loaded = np.random.RandomState(seed), 0
    read(bytes(data))  # whatever is imported on first use
    with watched():
        for case in range(cases):
            damaged = damage(data, random, reach)
            before = time.thread_time()
            try:
                read(damaged)
                loaded += 1
            except errors as error:
                message = str(error)
                assert message and message.isprintable() and len(message) < 1000, f"case {case}: {message[:1000]!r}"
            assert time.thread_time() - before < limit, f"case {case} took long"
    return loaded


def everything() -> bytes:
    """One of each kind of object in a few kilobytes."""
    root = omegaconf({"spec": {"map": 8}})
    inner = persistent("Layer", {"_parameters": {"weight": tensor(np.ones((2, 2), np.float32), parameter=True)}})
    layers = Call(Name("torch.nn.modules.container", "ModuleList"), (), {"_modules": {"0": inner}}, new=True)
    state = {
        "training": False,
        "_buffers": {"w_avg": tensor(np.ones(3, np.float32))},
        "_modules": {"layers": layers},
        "_non_persistent_buffers_set": Call(Name("builtins", "set"), (["a"],)),
        "_init_args": (1, 2.5, None),
        "_init_kwargs": {"options": omegaconf({"num_layers": "${spec.map}", "range": [0.5, 1]}, root)},
        "gain": number(0.5),
        "prior": Call(Name("torch.distributions.beta", "Beta"), (), {"_batch_shape": ()}, new=True),
        "hooks": Call(Name("collections", "OrderedDict")),
    }
    return dumps({"G": persistent("Generator", state), "kwargs": {"a": "b" * 300, "c": -5}})


def read_everything(data):
    tree = parse(data)
    if isinstance(tree, dict):
        module = PublishedModule(tree.get("G"), "G")
        for x in module.tensors().values():
            x.read()
        module.arguments()
        plain_arguments(tree)


def test_pickles():
    loaded = fuzz(everything(), read_everything, cases=4000, seed=0, errors=UnreadablePickle)
    assert 200 < loaded < 3000  # many changes hit numbers and texts; most do not


@pytest.fixture(scope="module")
def tiny():
    arrays = small_arrays(TINY)
    arrays["D"] = {name: array for name, array in arrays["D"].items() if name.startswith("videoD")}
    return small_file(TINY, arrays=arrays)


@pytest.mark.slow
def test_published_files(tiny, tmp_path):
    """Whole files, through the functions that the commands use."""
    path = tmp_path / "x.pkl"

    def read(data):
        path.write_bytes(data)
        generator = load_average_generator(path)
        assert generator.resolution == 8
        load_snapshot(path)

    loaded = fuzz(tiny, read, cases=300, seed=1, errors=UserError)
    assert 10 < loaded < 290


@pytest.mark.slow
def test_own_files(tiny, tmp_path):
    """The same loader guards this program's format."""
    (tmp_path / "published.pkl").write_bytes(tiny)
    convert_checkpoint(tmp_path / "published.pkl", tmp_path / "own.pt")
    path = tmp_path / "x.pkl"

    def read(data):
        path.write_bytes(data)
        load_average_generator(path)
        load_snapshot(path)

    loaded = fuzz((tmp_path / "own.pt").read_bytes(), read, cases=300, seed=2, errors=UserError)
    assert 10 < loaded < 290


@pytest.mark.slow
def test_the_real_structure():
    """A file of the original's, cut off or with a few bytes changed in place; its tensors are zero, the rest is not."""
    data = structure("taichi")
    view, random = memoryview(data), np.random.RandomState(3)
    described = np.flatnonzero(np.frombuffer(data, np.uint8))
    parse_published(view, average_only=True)
    with watched():
        for case in range(60):
            places = random.choice(described, size=1 + case % 3)
            before = data[places[0]], data[places[-1]]
            for place in places[[0, -1]]:
                data[place] = random.randint(256)
            with contextlib.suppress(UnreadablePickle):
                parse_published(view[: places[0]] if case % 4 == 0 else view, average_only=True)
            data[places[0]], data[places[-1]] = before
    parse_published(view)


def test_the_watch_sees():
    """Otherwise the tests above could not fail."""
    for event in ("import", "exec", "os.system"):
        with pytest.raises(AssertionError, match=event), watched():
            sys.audit(event, "x")
    with pytest.raises(AssertionError, match="compile"), watched():
        eval("1 + 1")
    with watched():
        torch.zeros(3).sum()
