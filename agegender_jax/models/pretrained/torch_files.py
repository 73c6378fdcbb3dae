"""Reads what `torch.save` wrote of a `state_dict`, without PyTorch and without unpickling.

Such a file is a pickle beside raw numbers: since PyTorch 1.6 in a zip archive, before in one stream. A pickle is a
program, and unpickling runs it. Here a small interpreter follows it, which knows the operations that a state
dictionary needs, can build nothing but dictionaries, lists, tuples, numbers, text and descriptions of tensors, and
refuses every other operation and every name that is not in its tables, before anything is called.
"""

import io
import math
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

MAX_PICKLE_BYTES = 1 << 22
"""Of the description of the tensors; ResNet101's has 0.1 MB, and its training state three times that."""

MAX_OPERATIONS = 1 << 19
"""Of one description, each of which may cost some hundred bytes of memory; a tensor needs about 40."""

MAX_DEPTH = 8
"""Of tuples within tuples; a state dictionary needs 2."""

_LEGACY = (0x1950A86A20F9469CFC6C, 1001)
"""The numbers with which the stream form begins: its magic number, and its version."""

_STORAGES: Mapping[str, Any] = {
    "torch.DoubleStorage": np.float64,
    "torch.FloatStorage": np.float32,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}


_DAMAGES = (
    *(IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error),  # of what the pickle says
    *(zipfile.BadZipFile, EOFError, RuntimeError),  # of the archive; encrypted ones are a RuntimeError
)


class Refused(ValueError):
    """The file asks for something that stored weights do not need."""


class _Name(NamedTuple):
    """The name of a function or of a type, which is never looked up."""

    text: str


class _Storage(NamedTuple):
    """Where numbers lie: the storage's key, their type and how many they are."""

    key: str
    dtype: Any
    length: int


class _Tuple(tuple[Any, ...]):
    """A tuple that knows how many tuples lie within each other in it: following them could overflow the stack."""

    depth: int


class _Tensor(NamedTuple):
    """A view of a storage, strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a `state_dict` by name, as they are stored.

    Args:
      path: of a file that `torch.save` wrote: a state dictionary, or a dictionary with one under `state_dict` or
        `model`.

    Raises:
      Refused: the file asks for code, or for anything else that a state dictionary does not need.
      ValueError: the file is damaged, or something else.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return _read_stream(path)
    except _DAMAGES as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        # PyTorch does not compress; so nothing can unfold, and what is read in all is at most the file itself.
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise Refused("its parts are compressed, which PyTorch never does")
        if sum(info.file_size for info in members.values()) > os.path.getsize(path):
            raise Refused("its parts overlap")
        descriptions = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
        if len(descriptions) != 1:
            raise ValueError("it is a zip archive without the data.pkl of PyTorch")
        folder = descriptions[0].split("/")[0]
        if members[descriptions[0]].file_size > MAX_PICKLE_BYTES:
            raise Refused(f"its description has more than {MAX_PICKLE_BYTES} bytes")
        if f"{folder}/byteorder" in members and archive.read(f"{folder}/byteorder") != b"little":
            raise ValueError("its numbers are stored big end first")
        tensors = _state_dict(_interpret(io.BytesIO(archive.read(descriptions[0])))[0])

        def stored(storage: _Storage) -> bytes:
            return archive.read(f"{folder}/data/{storage.key}")

        return _arrays(tensors, stored)


def _read_stream(path: Path) -> dict[str, np.ndarray]:
    size = os.path.getsize(path)
    with path.open("rb") as file:
        start = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        if tuple(_interpret(start)[0] for _ in range(2)) != _LEGACY:
            raise ValueError("it is no file of torch.save")
        if _of(dict, _interpret(start)[0]).get("little_endian") is not True:
            raise ValueError("its numbers are stored big end first")
        value, met = _interpret(start)
        tensors = _state_dict(value)
        wanted = {tensor.storage.key for tensor in tensors.values()}
        storages = {storage.key: storage for storage in met}
        if any(storages[storage.key] != storage for storage in met):
            raise ValueError("it says different things of one storage")
        keys = _of(list, _interpret(start)[0])
        file.seek(start.tell())
        data = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storage = storages[_of(str, key)]
            end = file.tell() + count * _itemsize(storage)
            if count != storage.length or end > size:
                raise ValueError("it is cut short, or damaged")
            if key in wanted:
                data[key] = file.read(count * _itemsize(storage))
            file.seek(end)
        return _arrays(tensors, lambda storage: data[storage.key])


def _itemsize(storage: _Storage) -> int:
    return np.dtype(storage.dtype).itemsize


def _state_dict(value: Any) -> dict[str, _Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if (
        not isinstance(value, dict)
        or not value
        or not all(isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in value.items())
    ):
        raise ValueError("it holds no dictionary of tensors by name (a state_dict)")
    return value


def _arrays(tensors: Mapping[str, _Tensor], stored: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    flat: dict[_Storage, np.ndarray] = {}
    arrays = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        if storage not in flat:
            data = stored(storage)
            if len(data) != storage.length * _itemsize(storage):
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


def _interpret(stream: BinaryIO) -> tuple[Any, list[_Storage]]:
    """Follows one pickle up to its end: what it describes, and all storages that it met."""
    stack: list[Any] = []
    met: list[_Storage] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    operations: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]] = pickletools.genops(stream)
    for number, (opcode, argument, _) in enumerate(operations):
        name = opcode.name
        if number >= MAX_OPERATIONS:
            raise Refused(f"its description has more than {MAX_OPERATIONS} operations")
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [_tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(_tuple(since_mark()))
        elif name in ("APPENDS", "APPEND"):
            items = since_mark() if name == "APPENDS" else [stack.pop()]
            _of(list, stack[-1]).extend(items)
        elif name in ("SETITEMS", "SETITEM"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _put(_of(dict, stack[-1]), zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_known(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            last = _of(str, stack.pop())
            stack.append(_known(f"{_of(str, stack.pop())}.{last}"))
        elif name == "BINPERSID":
            met.append(_storage(stack.pop()))
            stack.append(met[-1])
        elif name == "REDUCE":
            arguments = _short(stack.pop())
            stack.append(_CALLS[_of(_Name, stack.pop()).text](*arguments))
        elif name == "BUILD":  # the attribute _metadata, versions of the layers, which a state dictionary has
            stack.pop()
            _of(dict, stack[-1])
        elif name == "STOP":
            return stack.pop(), met
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"it contains the operation {name}, which stored weights do not need")
    raise ValueError("its description has no end")


_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": lambda: _tuple([]),
}
_LITERALS = (
    *("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
)


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"it has a {_kind(value)} where a {kind.__name__} belongs")
    return value


def _kind(value: Any) -> str:
    return type(value).__name__.lstrip("_")


def _tuple(items: list[Any]) -> _Tuple:
    value = _Tuple(items)
    value.depth = 1 + max((item.depth for item in items if isinstance(item, _Tuple)), default=0)
    if value.depth > MAX_DEPTH:
        raise Refused(f"it has more than {MAX_DEPTH} tuples within each other, which stored weights do not need")
    return value


def _short(value: Any) -> tuple[Any, ...]:
    """A tuple of few items, as arguments and shapes are: copying a long one again and again could take hours."""
    if len(_of(tuple, value)) > 8:
        raise ValueError(f"it has a tuple of {len(value)} items where at most 8 belong")
    return tuple(value)


def _put(target: dict[Any, Any], pairs: Iterable[tuple[Any, Any]]) -> None:
    """Only text and numbers are keys: to look up anything else would call code of its own, or run without end."""
    for key, value in pairs:
        if type(key) not in (str, int):
            raise Refused(f"it has a {_kind(key)} as a key, which stored weights do not need")
        target[key] = value


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    """A dictionary of a list of pairs (so Python 2 stored it), which is used up: many copies could fill the memory."""
    made: dict[Any, Any] = {}
    if items:
        _put(made, ((pair[0], pair[1]) for pair in _of(list, items)))
        items.clear()
    return made


def _known(name: str) -> _Name:
    if name not in _CALLS and name not in _STORAGES:
        raise Refused(f"it asks for {name!r}, which stored weights do not need")
    return _Name(name)


def _storage(identifier: Any) -> _Storage:
    """A storage from its persistent identifier: ("storage", type, key, device, count), and perhaps a view of it."""
    kind, dtype, key, _, count, *view = _short(identifier)
    if kind != "storage" or view not in ([], [None]):
        raise ValueError("it holds views of storages, which is not supported")
    if not 0 <= _of(int, count) < 1 << 40:
        raise ValueError(f"a storage of {count} numbers is not possible")
    return _Storage(_of(str, key), _STORAGES[_of(_Name, dtype).text], count)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    shape, strides = _short(shape), _short(strides)
    numbers = (offset, *shape, *strides)
    if not all(type(number) is int for number in numbers):
        raise ValueError("it has a tensor whose shape is no numbers")
    return _Tensor(_of(_Storage, storage), offset, shape, strides)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: _of(_Tensor, tensor),
}
"""What a pickle may call, and what is called instead."""
