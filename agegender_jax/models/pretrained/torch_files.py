"""Reads the `state_dict` in a file that `torch.save` wrote, without PyTorch and without running anything from the file.

Such a file is a pickle beside raw numbers: since PyTorch 1.6 in a zip archive, before in one stream. A pickle is a
program; the unpickler here, like that of `torch.load(weights_only=True)`, knows only the operations and the names that
a state dictionary needs, and refuses every other one before anything is called.
"""

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

MAX_PICKLE_BYTES = 1 << 20
"""Size of the pickle, each byte of which may cost a hundred bytes of memory; ResNet101's has 0.1 MB."""

_LEGACY = (0x1950A86A20F9469CFC6C, 1001)
"""The numbers with which the stream form begins: its magic number, and its version."""

_DTYPES: Mapping[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

_DAMAGES = (
    *(LookupError, TypeError, AttributeError, OverflowError, struct.error, pickle.UnpicklingError),  # in the pickle
    *(zipfile.BadZipFile, EOFError, RuntimeError),  # in the archive; encrypted ones are a RuntimeError
)


class Refused(ValueError):
    """The file asks for something that stored weights do not need."""


class _Storage(NamedTuple):
    """A storage: its key in the file, the dtype and the count of its numbers, its size in bytes."""

    key: str
    dtype: np.dtype
    length: int
    bytes: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a `state_dict`, or of one under `state_dict`, `model_state_dict` or `model`, as stored.

    Raises:
      Refused: the file asks for code, or for anything else that a state dictionary does not need.
      ValueError: the file is damaged, or something else.
    """
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_stream(path)
    except _DAMAGES as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        # PyTorch does not compress; so nothing can unfold, and what is read in all is at most the file itself.
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise Refused("its members are compressed, which PyTorch never does")
        if sum(info.file_size for info in members.values()) > os.path.getsize(path):
            raise Refused("its members overlap")
        descriptions = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
        if len(descriptions) != 1:
            raise ValueError("it is a zip archive without the data.pkl of PyTorch")
        folder = descriptions[0].split("/")[0]
        if members[descriptions[0]].file_size > MAX_PICKLE_BYTES:
            raise Refused(f"its description has more than {MAX_PICKLE_BYTES} bytes")
        if f"{folder}/byteorder" in members and archive.read(f"{folder}/byteorder") != b"little":
            raise ValueError("its numbers are stored big end first")
        tensors = _state_dict(_Unpickler(io.BytesIO(archive.read(descriptions[0]))).load())
        return _arrays(tensors, lambda storage: archive.read(f"{folder}/data/{storage.key}"))


def _read_stream(path: Path) -> dict[str, np.ndarray]:
    size = os.path.getsize(path)
    with path.open("rb") as file:
        start = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        if tuple(_Unpickler(start).load() for _ in range(2)) != _LEGACY:
            raise ValueError("it is no file of torch.save")
        if _of(dict, _Unpickler(start).load()).get("little_endian") is not True:
            raise ValueError("its numbers are stored big end first")
        unpickler = _Unpickler(start)
        tensors = _state_dict(unpickler.load())
        wanted = {tensor.storage.key for tensor in tensors.values()}
        keys = _of(list, _Unpickler(start).load())
        file.seek(start.tell())
        data = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storage = unpickler.storages[_of(str, key)]
            end = file.tell() + storage.bytes
            if count != storage.length or end > size:
                raise ValueError("it is cut short, or damaged")
            if key in wanted:
                data[key] = file.read(storage.bytes)
            file.seek(end)
        return _arrays(tensors, lambda storage: data[storage.key])


def _state_dict(value: Any) -> dict[str, _Tensor]:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    items = value.items() if isinstance(value, dict) else ()
    if not items or not all(isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in items):
        raise ValueError("it holds no dictionary of tensors by name (a state_dict)")
    return value


def _arrays(tensors: Mapping[str, _Tensor], stored: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    flat: dict[_Storage, np.ndarray] = {}
    arrays = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        if storage not in flat:
            data = stored(storage)
            if len(data) != storage.bytes:
                raise ValueError(f"the numbers of {name!r} are cut short")
            flat[storage] = np.frombuffer(data, storage.dtype)
        numbers = flat[storage]
        if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
            raise ValueError(f"the shape {shape} of {name!r} is not possible")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        # Equal strides may repeat a number without end: no weight needs more numbers than are stored.
        if math.prod(shape) and (last >= numbers.size or math.prod(shape) > numbers.size):
            raise Refused(f"{name!r} reaches beyond the numbers that are stored for it")
        steps = [stride * numbers.itemsize for stride in strides]
        arrays[name] = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
    return arrays


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"it has a value of the type {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    """Makes a dictionary of a list of pairs (so Python 2 stored it), which it empties: copies could fill the memory."""
    made: dict[Any, Any] = {}
    if items:
        for key, value in _of(list, items):
            made[_key(key)] = value
        items.clear()
    return made


def _key(key: Any) -> Any:
    """Checks the type of a key: hashing nested tuples or long numbers could run without end, or overflow the stack."""
    if type(key) is not str and not (type(key) is int and key.bit_length() < 64):
        raise Refused(f"it has a key of the type {type(key).__name__}, which stored weights do not need")
    return key


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any = None, hooks: Any = None, metadata: Any = None
) -> _Tensor:
    if max(len(_of(tuple, shape)), len(_of(tuple, strides))) > 8:
        raise ValueError("it has a tensor of more than 8 axes")
    if not all(type(number) is int for number in (offset, *shape, *strides)):
        raise ValueError("it has a tensor whose shape is not of integers")
    return _Tensor(_of(_Storage, storage), offset, shape, strides)


def _rebuild_parameter(tensor: Any, grad: Any = None, hooks: Any = None) -> _Tensor:
    return _of(_Tensor, tensor)


_GLOBALS: Mapping[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    **{f"torch.{name}": np.dtype(dtype) for name, dtype in _DTYPES.items()},
}
"""The names that a pickle may use, and what stands for them here."""

_OPERATIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("BININT", "BININT1", "BININT2", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"),
    *("SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("APPEND", "APPENDS", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE"),
)
"""The operations that a state dictionary needs and that the unpickler of the standard library does safely."""

_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}

_BASE: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Dispatch(dict[int, Callable[[Any], None]]):
    """Handlers of operations by their codes."""

    def __missing__(self, code: int) -> Any:
        raise Refused(f"it contains the operation {_NAMES.get(code, code)}, which stored weights do not need")


class _Unpickler(_BASE):
    """Unpickles dictionaries, lists, tuples, numbers, text and descriptions of tensors.

    It derives from the standard library's implementation in Python: the one in C lets nobody take operations away,
    hashes keys that are nested without bound, and allocates as large a memo as the file asks for.

    Attributes:
      storages: all storages that were met, by key.
    """

    dispatch = _Dispatch({code: _BASE.dispatch[code] for code, name in _NAMES.items() if name in _OPERATIONS})

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a name, which is never imported."""
        if f"{module}.{name}" not in _GLOBALS:
            raise Refused(f"it asks for {f'{module}.{name}'!r}, which stored weights do not need")
        return _GLOBALS[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage of `("storage", type, key, device, count)`, perhaps followed by a view of it."""
        kind, storage_type, key, _, count, *view = _of(tuple, pid)
        if kind != "storage" or view not in ([], [None]):
            raise ValueError("it holds views of storages, which is not supported")
        if not 0 <= _of(int, count) < 1 << 40:
            raise ValueError(f"a storage of {count} numbers is not possible")
        dtype = _of(np.dtype, storage_type)
        storage = _Storage(_of(str, key), dtype, count, count * dtype.itemsize)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"it describes the storage {key!r} in two ways")
        return storage

    def _set_items(self, items: list[Any]) -> None:
        target = _of(dict, self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _load_build(self) -> None:
        """Drops the attribute `_metadata` of a state dictionary, the versions of the layers."""
        self.stack.pop()
        _of(dict, self.stack[-1])

    dispatch |= {
        pickle.SETITEM[0]: lambda self: self._set_items([self.stack.pop(-2), self.stack.pop()]),
        pickle.SETITEMS[0]: lambda self: self._set_items(self.pop_mark()),
        pickle.BUILD[0]: _load_build,
    }
