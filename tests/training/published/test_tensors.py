"""Tensors, the bytes behind them, and numpy's numbers, as published checkpoints hold them."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from tests.training.published.published_files import (
    Call,
    Name,
    Persistent,
    dumps,
    number,
    parse,
    persistent,
    storage,
    storage_bytes,
    tensor,
)
from training.published.pickle_values import Inert, UnreadablePickle
from training.published.tensors import TensorData

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def read_tensor(description):
    return parse(dumps(description)).read()


# ----------------------------------------------------------------------------------------------------------------------
# Tensors


def test_tensors_and_parameters():
    for parameter in (False, True):
        x = read_tensor(tensor(ARRAY, parameter=parameter))
        assert x.dtype == torch.float32 and torch.equal(x, torch.from_numpy(ARRAY))
    assert read_tensor(tensor(np.array(3.5, np.float32))).item() == 3.5
    assert read_tensor(tensor(np.zeros((0, 3), np.float32))).shape == (0, 3)


def test_what_this_pytorch_pickles():
    """Tensors of today's PyTorch, of several types, transposed, sliced, sharing memory."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "plain": base,
        "transposed": base.transpose(0, 2),
        "slice": base[1, :, 1:3],
        "parameter": torch.nn.Parameter(base + 0.5),
        "double": base.double(),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "long": base.long(),
        "bytes": base.to(torch.uint8),
        "truth": base > 7,
        "scalar": torch.tensor(2.5),
    }
    for protocol in (3, 4, 5):  # protocol 2 has no byte strings
        found = parse(pickle.dumps(tensors, protocol))
        for name, expected in tensors.items():
            x = found[name].read()
            assert isinstance(found[name], TensorData)
            assert x.dtype == expected.dtype and torch.equal(x, expected.detach()), name


def test_a_tensor_read_is_a_copy_of_its_own():
    data = bytearray(dumps([tensor(ARRAY), tensor(ARRAY + 1)]))
    first, second = parse(data)
    x = first.read()
    x.zero_()
    assert torch.equal(first.read(), torch.from_numpy(ARRAY))
    assert first.nbytes == 48
    assert second.read().data_ptr() % 8 == 0  # aligned, though it stands anywhere in the file


def test_truth_values_are_made_of_any_byte():
    description = tensor(
        np.zeros(3, np.float32), storage=storage(storage_bytes(np.array([0, 2, 1], np.uint8), kind="BoolStorage"))
    )
    assert read_tensor(description).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"shape": (2**40,), "strides": (0,)}, "shape .* with only 12 numbers"),  # one number, said to be many
        ({"shape": (3, 5)}, "with only 12 numbers"),
        ({"offset": 1}, "with only 12 numbers"),
        ({"strides": (5, 1)}, "with only 12 numbers"),
        ({"shape": (2**60, 2**60), "strides": (1, 1)}, "impossible size"),
        ({"offset": -1}, "impossible size"),
        ({"strides": (-4, 1)}, "impossible size"),
        ({"shape": (3.0, 4)}, "impossible size"),
        ({"shape": (True, 4)}, "impossible size"),
        ({"shape": [3, 4]}, "tensor that is none"),
        ({"strides": True}, "tensor that is none"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "tensor that is none"),
        ({"shape": (3,)}, "tensor that is none"),
        ({"storage": b"abc"}, "tensor that is none"),
    ],
)
def test_impossible_tensors(changes, words):
    with pytest.raises(UnreadablePickle, match=words):
        parse(dumps(tensor(ARRAY, **changes)))


def test_impossible_parameters():
    with pytest.raises(UnreadablePickle, match="tensor that is none"):
        parse(dumps(Call(Name("torch._utils", "_rebuild_tensor_v2"))))
    with pytest.raises(UnreadablePickle, match="parameter that is not a tensor"):
        parse(dumps(Call(Name("torch._utils", "_rebuild_parameter"), ([], True))))


# ----------------------------------------------------------------------------------------------------------------------
# Storages


def zip_bytes(array=ARRAY, *, compression=zipfile.ZIP_STORED, key="0", byteorder=b"little"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        identity = ("storage", Name("torch", "FloatStorage"), "0", "cpu", array.size)
        archive.writestr("archive/data.pkl", dumps(Persistent(identity), 2))
        archive.writestr("archive/byteorder", byteorder)
        archive.writestr(f"archive/data/{key}", array.tobytes())
    return file.getvalue()


def test_storages_in_zip_archives():
    assert torch.equal(read_tensor(tensor(ARRAY, storage=storage(zip_bytes()))), torch.from_numpy(ARRAY))


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("true",)


def evil_in_zip():
    file = io.BytesIO()
    torch.save(Evil(), file)
    return file.getvalue()


@pytest.mark.parametrize(
    "data, words",
    [
        (storage_bytes(ARRAY)[:-1], "claims 12 numbers of 4 bytes and holds 47 bytes"),
        (storage_bytes(ARRAY) + b"x", "claims 12 numbers of 4 bytes and holds 49 bytes"),
        (storage_bytes(ARRAY, count=2**40), "claims 1099511627776 numbers"),
        (storage_bytes(ARRAY, count=-12), "claims -12 numbers"),
        (storage_bytes(ARRAY)[:-48][:-4], "cut off"),
        (storage_bytes(ARRAY)[:60], "cut off"),
        (storage_bytes(ARRAY, kind="QInt8Storage"), "asks for torch.QInt8Storage"),
        (b"", "cut off"),
        (pickle.dumps("text", 2), "cut off"),
        (pickle.dumps(1, 2) * 3, "no format of torch.save"),
        (pickle.dumps(Evil(), 2), "asks for posix.system"),
        (storage_bytes(ARRAY).replace(b"FloatStorage", b"hub\nload\n.."), "asks for torch.hub"),
        (dumps(0x1950A86A20F9469CFC6C, 2) + dumps(1001, 2) + pickle.dumps(Evil(), 2), "asks for posix.system"),
        (evil_in_zip(), "asks for posix.system"),
        (zip_bytes(compression=zipfile.ZIP_DEFLATED), "compressed zip"),
        (zip_bytes(key="1"), "damaged zip"),
        (zip_bytes(byteorder=b"big"), "another order of bytes"),
        (zip_bytes()[:-30], "damaged zip"),
        (zip_bytes(ARRAY[:2]).replace(ARRAY[:2].tobytes(), b"x" * 32), "damaged zip"),  # its checksum says so
    ],
)
def test_storages_that_are_none(data, words):
    with pytest.raises(UnreadablePickle, match=words) as caught:
        parse(dumps(tensor(ARRAY, storage=storage(data))))
    assert "tensor data that cannot be read" in str(caught.value)


def identity(word="storage", view=None):
    return Persistent((word, Name("torch", "FloatStorage"), "94387236", "cpu", 12, view))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"little_endian": False}, "another order of bytes"),
        ({"keys": ["1"]}, "names other data"),
        ({"keys": "94387236"}, "names other data"),
        ({"identity": identity(view=("v", 0, 1))}, "a view of other data"),
        ({"identity": identity("module")}, "in an unknown way"),
        ({"identity": Persistent("94387236")}, "in an unknown way"),
        ({"identity": []}, "0 storages instead of one"),
        ({"identity": [identity(), identity()]}, "2 storages instead of one"),
        ({"identity": Call(Name("torch", "FloatStorage"), (10**12,))}, "calls a storage type"),
        ({"magic": [5]}, "no format of torch.save"),
        ({"protocol": 1002}, "no format of torch.save"),
    ],
)
def test_descriptions_that_are_none(changes, words):
    with pytest.raises(UnreadablePickle, match=words):
        parse(dumps(storage(storage_bytes(ARRAY, **changes))))


def test_the_same_bytes_cannot_be_opened_again_and_again():
    data = zip_bytes(np.zeros(1000, np.float32))
    assert len(parse(dumps([storage(data), b"x" * len(data), storage(data)]))) == 3
    content = dumps([storage(data) for _ in range(50)])
    assert len(content) < 2 * len(data)  # it is there but once
    with pytest.raises(UnreadablePickle, match="far more work"):
        parse(content)


# ----------------------------------------------------------------------------------------------------------------------
# numpy, containers, and objects that are only kept


def test_numpy_numbers():
    values = [np.float64(0.1), np.float32(0.5), np.int64(-3), np.bool_(True), np.uint8(200), np.float16(0.25)]
    for protocol in (3, 4, 5):
        found = parse(pickle.dumps(values, protocol))
        assert found == values and all(type(x) in (float, int, bool) for x in found)
    assert parse(dumps(number(0.1))) == 0.1
    big = Call(Name("numpy", "dtype"), ("i4", 0, 1), (3, ">", None, None, None, -1, -1, 0))
    assert parse(dumps(Call(Name("numpy.core.multiarray", "scalar"), (big, b"\x00\x00\x01\x00")))) == 256


@pytest.mark.parametrize(
    "description",
    [
        number(1.0).arguments[0],  # fine by itself
        Call(Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b")),
        Call(Name("torch.distributions.beta", "Beta"), (), {"concentration": tensor(ARRAY)}, new=True),
        Call(Name("torch.nn.modules.activation", "LeakyReLU"), (), {"negative_slope": 0.2}, new=True),
        persistent("Anything", {"x": 1}),
    ],
)
def test_kept_objects(description):
    assert isinstance(parse(dumps(description)), Inert)


def test_numpy_arrays_are_kept():
    assert isinstance(parse(pickle.dumps(np.arange(3), 3)), Inert)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((1, b"x"), "is none"),
        ((Call(Name("numpy", "dtype"), ("f8", 0, 1)), "text"), "is none"),
        ((Call(Name("numpy", "dtype"), ("f8", 0, 1)), b"1234"), "of 4 bytes"),
        ((Call(Name("numpy", "dtype"), ("O", 0, 1)), b"12345678"), "not plain numbers"),
        ((Call(Name("numpy", "dtype"), ("f8", 0, 1), (3, ["<"])), b"12345678"), "not plain numbers"),
    ],
)
def test_numpy_numbers_that_are_none(arguments, words):
    with pytest.raises(UnreadablePickle, match=words):
        parse(dumps(Call(Name("numpy.core.multiarray", "scalar"), arguments)))


def test_containers():
    import collections

    ordered = collections.OrderedDict(b=1, a=2)
    default = collections.defaultdict(list, x=[1])
    assert list(parse(pickle.dumps(ordered, 3)).items()) == [("b", 1), ("a", 2)]
    assert parse(pickle.dumps(default, 3)) == {"x": [1]}
    assert parse(pickle.dumps({1, 2}, 3)) == [1, 2]
    assert parse(pickle.dumps(torch.Size([2, 3]), 3)) == (2, 3)
    assert parse(dumps(Call(Name("dnnlib.util", "EasyDict"), (), new=True))) == {}
    with pytest.raises(UnreadablePickle, match="not consist of pairs"):
        parse(dumps(Call(Name("collections", "OrderedDict"), ([1],))))
    with pytest.raises(UnreadablePickle, match="not a list"):
        parse(dumps(Call(Name("builtins", "set"), (3,))))
