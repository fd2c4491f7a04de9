"""Objects of published checkpoints as plain data: networks, tensors and their storages, numpy's numbers.

`allowed_globals` lists every global that such a file may name, with its replacement here. Two of them execute code in
the original: `_reconstruct_persistent_obj` runs source code from the file, `_load_from_bytes` opens a second pickle.
Here the former only keeps its arguments, and the latter is read by the same restricted unpickler.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from training.published.pickle_values import Budget, Global, Inert, UnreadablePickle, inert
from training.published.safe_unpickler import read_pickle

__all__ = ["RECONSTRUCT", "Storage", "TensorData", "allowed_globals"]

RECONSTRUCT = "torch_utils.persistence._reconstruct_persistent_obj"

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# `torch.save` before zip archives: three pickles, the object, a list of keys, and raw numbers.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

MAX_DIMENSIONS, MAX_SIZE = 8, 1 << 48  # of tensors

#: Classes whose objects are kept inert, because nothing here needs them.
INERT = inert(
    "builtins.int", "builtins.float", "builtins.str", "builtins.bool", "builtins.bytes", "builtins.complex",
    "numpy.ndarray", "torch.device", "torch.float16", "torch.float32", "torch.float64", "torch.nn.modules.*",
    "torch.distributions.*", "omegaconf.*", "typing.*",
)  # fmt: skip


class Storage:
    """A storage: numbers of one type, as a view of the file's bytes."""

    __slots__ = ("data", "dtype")

    def __init__(self, dtype: torch.dtype, data: memoryview):
        self.dtype, self.data = dtype, data

    def __len__(self) -> int:
        return len(self.data) // self.dtype.itemsize


class TensorData:
    """A tensor that is not read yet: its place in a storage."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def read(self) -> torch.Tensor:
        """The tensor as a contiguous, aligned copy."""
        dtype = self.storage.dtype
        if math.prod(self.shape) == 0:
            return torch.empty(self.shape, dtype=dtype)
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
        span = self.storage.data[self.offset * dtype.itemsize : (self.offset + last + 1) * dtype.itemsize]
        raw = torch.frombuffer(bytearray(span), dtype=torch.uint8 if dtype == torch.bool else dtype)
        tensor = raw.as_strided(self.shape, self.strides).contiguous()
        return tensor != 0 if dtype == torch.bool else tensor  # bytes other than 0 and 1 are not valid booleans


def allowed_globals(budget: Budget) -> dict[str, Callable[[tuple], Any]]:
    """Name of a global → function that replaces calling it, for `read_pickle`."""
    return INERT | {
        RECONSTRUCT: lambda arguments: Inert(RECONSTRUCT, arguments),
        "collections.OrderedDict": lambda arguments: _dictionary(arguments, budget),
        "collections.defaultdict": lambda arguments: _dictionary((), budget),
        "dnnlib.util.EasyDict": lambda arguments: _dictionary(arguments, budget),
        "builtins.dict": lambda arguments: _dictionary(arguments, budget),
        "builtins.list": lambda arguments: _list(arguments, budget),
        "builtins.set": lambda arguments: _list(arguments, budget),
        "builtins.frozenset": lambda arguments: _list(arguments, budget),
        "builtins.tuple": lambda arguments: tuple(_list(arguments, budget)),
        "torch.Size": lambda arguments: tuple(_list(arguments, budget)),
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch.nn.parameter.Parameter": _parameter,
        "dnnlib.tflib.*": _tensorflow,
        "torch.storage._load_from_bytes": lambda arguments: _nested_storage(arguments, budget),
    } | {
        f"numpy{core}.multiarray.{name}": function
        for core in (".core", "._core")
        for name, function in (("scalar", _number), ("_reconstruct", _array))
    } | {"numpy.dtype": _NumberType}  # fmt: skip


def _tensorflow(_: tuple) -> None:
    raise UnreadablePickle(
        "is a pickle of the TensorFlow version of StyleGAN, an image generator; this program renders only 3D video "
        "generators."
    )


# Containers


def _list(arguments: tuple, budget: Budget) -> list:
    if not arguments:
        return []
    if len(arguments) != 1 or type(arguments[0]) not in (list, tuple):
        raise UnreadablePickle("makes a container of something that is not a list; it is damaged or not a checkpoint.")
    budget.spend(len(arguments[0]))
    return list(arguments[0])


def _dictionary(arguments: tuple, budget: Budget) -> dict:
    """A dictionary, empty or from a list of pairs."""
    pairs = _list(arguments, budget)
    if not all(type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) is str for pair in pairs):
        raise UnreadablePickle(
            "makes a dictionary of something that does not consist of pairs; it is damaged or not a checkpoint."
        )
    return {key: value for key, value in pairs}


# numpy's numbers


class _NumberType(Inert):
    """A numpy dtype; `layout` is its format for `struct`, with the byte order from its state."""

    __slots__ = ()

    KINDS = {
        "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q",
        "f2": "e", "f4": "f", "f8": "d",
    }  # fmt: skip

    def __init__(self, arguments: tuple):
        super().__init__("numpy.dtype", arguments)

    @property
    def layout(self) -> str:
        kind = self.arguments[0] if self.arguments else None
        order = self.state[1] if type(self.state) is tuple and len(self.state) > 1 else "|"
        if type(kind) is not str or kind not in self.KINDS or order not in ("<", ">", "|", "="):
            raise UnreadablePickle("holds numpy data that are not plain numbers; no published checkpoint does.")
        return (">" if order == ">" else "<") + self.KINDS[kind]


def _number(arguments: tuple) -> bool | int | float:
    if len(arguments) != 2 or not isinstance(arguments[0], _NumberType) or type(arguments[1]) is not memoryview:
        raise UnreadablePickle("holds a numpy number that is none; it is damaged or not a checkpoint.")
    layout, data = arguments[0].layout, arguments[1]
    if len(data) != struct.calcsize(layout):
        raise UnreadablePickle(f"holds a numpy number of {len(data)} bytes; it is damaged.")
    return struct.unpack(layout, data)[0]


def _array(arguments: tuple) -> Inert:
    """An array, kept inert: nothing here needs one."""
    return Inert("numpy.ndarray", arguments)


# Tensors


def _tensor(arguments: tuple) -> TensorData:
    """A tensor from the original's arguments: storage, offset, shape, strides, requires_grad, hooks."""
    storage, offset, shape, strides = (*arguments[:4], None, None, None, None)[:4]
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise UnreadablePickle("holds a tensor that is none; it is damaged or not a checkpoint.")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise UnreadablePickle("holds a tensor that is none; it is damaged or not a checkpoint.")
    if not all(type(size) is int and 0 <= size < MAX_SIZE for size in (offset, *shape, *strides)):
        raise UnreadablePickle("holds a tensor of impossible size; it is damaged or not a checkpoint.")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    if math.prod(shape) > len(storage) or (math.prod(shape) and last >= len(storage)):
        raise UnreadablePickle(
            f"holds a tensor of shape {list(shape)} with only {len(storage)} numbers; it is damaged or malicious."
        )
    return TensorData(storage, offset, shape, strides)


def _parameter(arguments: tuple) -> TensorData:
    if not arguments or not isinstance(arguments[0], TensorData):
        raise UnreadablePickle("holds a parameter that is not a tensor; it is damaged or not a checkpoint.")
    return arguments[0]


# Storages: the two formats of `torch.save`


def _storage_types() -> dict[str, Callable[[tuple], Any]]:
    def refuse(_: tuple) -> None:
        raise UnreadablePickle("calls a storage type inside of tensor data; it is damaged or malicious.")

    return {f"torch.{name}": refuse for name in DTYPES}


def _nested_storage(arguments: tuple, budget: Budget) -> Storage:
    if len(arguments) != 1 or type(arguments[0]) is not memoryview:
        raise UnreadablePickle("holds tensor data that are not bytes; it is damaged or not a checkpoint.")
    data = arguments[0]
    budget.spend(nested=len(data))
    try:
        return _zip_storage(data, budget) if bytes(data[:4]) == b"PK\x03\x04" else _legacy_storage(data, budget)
    except UnreadablePickle as error:
        raise UnreadablePickle(f"holds tensor data that cannot be read. They are a file which {error}") from error


def _record_storage(identity: Any, records: list[tuple[torch.dtype, str, int]]) -> None:
    """Record a persistent id ('storage', type, key, device, count, view): the nested pickle's storage."""
    entries = identity if type(identity) is tuple and len(identity) in (5, 6) else (None,) * 5
    tag, kind, key, _, count = entries[:5]
    if tag != "storage" or not isinstance(kind, Global) or type(key) is not str or type(count) is not int:
        raise UnreadablePickle("names data in an unknown way.")
    if len(entries) == 6 and entries[5] is not None:
        raise UnreadablePickle("holds a view of other data.")
    records.append((DTYPES[kind.name.rpartition(".")[2]], key, count))


def _read_storage_record(data: memoryview, start: int, budget: Budget) -> tuple[torch.dtype, str, int, int]:
    """Type, key and count of a pickle's only storage, and the end of the pickle."""
    records: list[tuple[torch.dtype, str, int]] = []
    _, end = read_pickle(
        data,
        start=start,
        allowed=_storage_types(),
        budget=budget,
        persistent=lambda identity: _record_storage(identity, records),
    )
    if len(records) != 1:
        raise UnreadablePickle(f"holds {len(records)} storages instead of one.")
    return *records[0], end


def _checked(dtype: torch.dtype, count: int, raw: memoryview) -> Storage:
    if count < 0 or count * dtype.itemsize != len(raw):
        raise UnreadablePickle(f"claims {count} numbers of {dtype.itemsize} bytes and holds {len(raw)} bytes.")
    return Storage(dtype, raw)


def _legacy_storage(data: memoryview, budget: Budget) -> Storage:
    header, end = [], 0
    for _ in range(3):
        value, end = read_pickle(data, start=end, allowed={}, budget=budget)
        header.append(value)
    magic, protocol, system = header
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        raise UnreadablePickle("is in no format of torch.save.")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise UnreadablePickle("was written on a machine with another order of bytes.")
    dtype, key, count, end = _read_storage_record(data, end, budget)
    keys, end = read_pickle(data, start=end, allowed={}, budget=budget)
    if type(keys) is not list or keys != [key]:
        raise UnreadablePickle("names other data than it holds.")
    if len(data) < end + 8:
        raise UnreadablePickle("is cut off.")
    if struct.unpack("<q", data[end : end + 8])[0] != count:
        raise UnreadablePickle("contradicts itself about its size.")
    return _checked(dtype, count, data[end + 8 :])


def _zip_storage(data: memoryview, budget: Budget) -> Storage:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            budget.spend(len(entries))
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
                raise UnreadablePickle("is a compressed zip, which torch.save never writes.")
            if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
                raise UnreadablePickle("was written on a machine with another order of bytes.")
            dtype, key, count, _ = _read_storage_record(memoryview(archive.read(entries["data.pkl"])), 0, budget)
            return _checked(dtype, count, memoryview(archive.read(entries[f"data/{key}"])))
    except UnreadablePickle:
        raise
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, RuntimeError, ValueError, struct.error) as error:
        raise UnreadablePickle("is a damaged zip.") from error
