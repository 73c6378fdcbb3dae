"""Files of weights: the forms that PyTorch and Keras write, damaged ones, and ones that try to do something."""

import argparse
import io
import pickle
import pickletools
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from agegender_jax.errors import UserError
from agegender_jax.models.pretrained import keras_files, loading, sources, torch_files

SMALL = Path(__file__).parent / "parity" / "small_files.zip"
"""Made by `make_parity.py`."""

TORCH_SHAPES = {
    "0.weight": (3, 2, 3, 3),
    "0.bias": (3,),
    "1.weight": (3,),
    "1.bias": (3,),
    "1.running_mean": (3,),
    "1.running_var": (3,),
    "1.num_batches_tracked": (),
    "2.weight": (2, 3),
    "2.bias": (2,),
}
KERAS_SHAPES = {
    "c/kernel": (3, 3, 2, 3),
    "c/bias": (3,),
    "n/gamma": (3,),
    "n/beta": (3,),
    "n/moving_mean": (3,),
    "n/moving_variance": (3,),
    "d/kernel": (12, 2),
    "d/bias": (2,),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    with zipfile.ZipFile(SMALL) as archive:
        archive.extractall(folder)
    return folder


def _eighths(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 8


TORCH_FILES = ("zip.pth", "stream.pth", "half.pth", "bf.pth", "training.pth")
KERAS_FILES = ("whole.h5", "whole.keras", "only.weights.h5")


@pytest.mark.parametrize("name", [*TORCH_FILES, *KERAS_FILES])
def test_files_of_pytorch_and_keras_are_known_by_their_content(small: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes((small / name).read_bytes())
    kind, read, shapes = ("torch", torch_files.read, TORCH_SHAPES)
    if name in KERAS_FILES:
        kind, read, shapes = ("keras", keras_files.read, KERAS_SHAPES)
    assert sources.locate(str(path), "vgg16").kind == kind
    arrays = read(path)
    assert {key: array.shape for key, array in arrays.items()} == shapes
    for key, array in arrays.items():
        np.testing.assert_array_equal(array.astype(np.float32), _eighths(shapes[key]), err_msg=key)


class _Runs:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def _error(path: Path) -> str:
    """The message with which loading this file fails, which names the file."""
    with pytest.raises(UserError) as caught:
        loading.load(str(path), "resnet18", {}, {})
    assert str(path)[:200] in str(caught.value)
    return str(caught.value)


def _refusal(path: Path) -> str:
    """The same, of a file that is refused for what it asks for."""
    with pytest.raises(UserError) as caught:
        loading.load(str(path), "resnet18" if path.suffix in (".pth", ".safetensors") else "vgg16", {}, {})
    assert isinstance(caught.value.__cause__, torch_files.Refused), path
    return str(caught.value)


def _zipped(path: Path, description: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", description)
        for name, content in members.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


def _text(value: object) -> bytes:
    return b"X" + struct.pack("<I", len(str(value))) + str(value).encode()


@pytest.mark.parametrize("way", [2, 3, 4, 5, "INST", "OBJ"])
def test_a_pickle_that_runs_code_is_refused_and_named(tmp_path: Path, way: int | str) -> None:
    canary = tmp_path / "ran"
    arguments = _text(canary) + _text("w")
    if way == "INST":
        hostile = b"\x80\x02(" + arguments + b"iio\nopen\n."
    elif way == "OBJ":
        hostile = b"\x80\x02(cio\nopen\n" + arguments + b"o."
    else:
        hostile = pickle.dumps({"fc.weight": _Runs(canary)}, way)
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    (tmp_path / "bare.pth").write_bytes(hostile)
    (tmp_path / "stream.pth").write_bytes(start + hostile)
    _zipped(tmp_path / "zip.pth", hostile)

    for name in ("bare.pth", "stream.pth", "zip.pth"):
        assert re.search("INST" if way == "INST" else r"'_?io\.open'", _refusal(tmp_path / name))
    assert not canary.exists()
    pickle.loads(hostile)
    assert canary.exists()  # so it would have


def test_every_operation_that_weights_do_not_need_is_refused_by_its_name(tmp_path: Path) -> None:
    needed = {*torch_files._OPERATIONS, "SETITEM", "SETITEMS", "BUILD"}
    others = {opcode.name: opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.name not in needed}
    assert {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "DUP", "FROZENSET"} <= others.keys()
    for name, code in others.items():
        with pytest.raises(torch_files.Refused, match=name):
            torch_files.read(_zipped(tmp_path / "weights.pth", b"\x80\x02" + code))


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"\xff",  # no operation
        b"ctorch\nFloatStorage\n)R.",  # known, but nothing to call
        b"ccollections\nOrderedDict\n)R}b\x8c\x01xb.",  # BUILD on text
        b"ctorch._utils\n_rebuild_tensor\n}\x8c\x0c__defaults__)sb.",  # BUILD on what is called
        b"ccollections\nOrderedDict\n\x8c\x01a\x85R.",  # of no list of pairs
        b"ctorch._utils\n_rebuild_tensor_v2\n](NNNeR.",
        b"}\x8c\x01a\x8c\x01bs",  # no end
        b"\x85.",
        b"h\x07.",  # from an empty memo
        b"s.",
        b"t.",
        b"](",
        b"",
    ],
)
def test_pickles_of_no_state_dictionary_are_refused(tmp_path: Path, opcodes: bytes) -> None:
    _error(_zipped(tmp_path / "weights.pth", b"\x80\x02" + opcodes))


TWICE = b"q\x00h\x00\x86"
"""Of what is on top of the stack, the tuple of it and itself."""
STORAGE = b"(\x8c\x07storagectorch\nFloatStorage\n%s\x8c\x03cpuK\x06tQ"


@pytest.mark.parametrize(
    "description",
    [
        b"}" + b")" + b"\x85" * 200_000 + b"Ns.",  # a key of nested tuples, whose hash overflows the stack
        b"}(" + b")" + b"\x85" * 200_000 + b"Nu.",
        b"}" + b")" + TWICE * 200 + b"Ns.",  # a key whose hash takes 2^200 steps
        b"ccollections\nOrderedDict\n](]()Nee\x85R.",
        b"ccollections\nOrderedDict\n](](NNee\x85R.",
        b"}" + b"N" + b"Ns.",
        b"}" + b"G?\xf0\0\0\0\0\0\0" + b"Ns.",
        b"}" + b"\x8a\x40" + b"\x11" * 64 + b"Ns.",  # a number of 512 bits
        b"}" + STORAGE % (b")" + TWICE * 200) + b".",  # keys of a storage
        b"}" + STORAGE % b"K\x01" + b".",
        b"Nr\xff\xff\xff\x7f.",  # an index of the memo for which the unpickler in C allocates 32 GB
        b"X\xff\xff\xff\x7f.",  # a text of 2 GB that is not there
        bytes(1 << 20) + b".",
        b"ccollections\nOrderedDict\n(NNNNNNNNNtR.",
        b"(" + b"K\x01" * 100_000 + b"tq\x00" + b"ctorch._utils\n_rebuild_tensor\n(NK\x00h\x00h\x00tR0" * 1000 + b".",
    ],
    ids=range(15),
)
def test_pickles_that_would_fill_the_stack_the_memory_or_the_time_are_refused(
    tmp_path: Path, description: bytes
) -> None:
    path = _zipped(tmp_path / "weights.pth", b"\x80\x02" + description)
    tracemalloc.start()
    try:
        _error(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_an_ordered_dictionary_of_python_2_is_read() -> None:
    description = b"\x80\x02ccollections\nOrderedDict\n](](\x8c\x01aK\x01ee\x85R."
    assert torch_files._Unpickler(io.BytesIO(description)).load() == {"a": 1}


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    name = "a\x1b[2J\r\nb"
    state = _tensor(6, 0, (7,), (1,)).replace(b"\x8c\x01w", b"\x8c\x08" + name.encode())
    _zipped(tmp_path / "beyond.pth", state, **{"0": bytes(24)})
    save_file({name: np.ones(3, np.float32)}, tmp_path / "left.safetensors")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file[name] = h5py.SoftLink("/x")
    for path in ("beyond.pth", "left.safetensors", "link.h5"):
        message = _error(tmp_path / path) if path != "link.h5" else _refusal(tmp_path / path)
        assert message.isprintable(), path
        assert r"\x1b[2J\r\nb" in message, path


def _tensor(count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """The pickle of `{"w": tensor}` over a storage of so many floats, as `torch.save` writes it."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpu" + number(count) + b"tQ"
    view = number(offset) + numbers(shape) + numbers(strides)
    return (
        b"\x80\x02}\x8c\x01wctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + view
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


def test_a_tensor_written_by_hand_is_read(tmp_path: Path) -> None:
    path = _zipped(tmp_path / "w.pth", _tensor(6, 1, (2, 2), (1, 2)), **{"0": np.arange(6, dtype="<f4").tobytes()})
    assert torch_files.read(path)["w"].tolist() == [[1.0, 3.0], [2.0, 4.0]]
    for key in ("state_dict", "model_state_dict", "model"):
        inner = _tensor(6, 1, (2, 2), (1, 2)).removeprefix(b"\x80\x02").removesuffix(b".")
        nested = b"\x80\x02}" + _text(key) + inner + b"s."
        path = _zipped(tmp_path / f"{key}.pth", nested, **{"0": np.arange(6, dtype="<f4").tobytes()})
        assert list(torch_files.read(path)) == ["w"]


def test_the_refusal_of_what_a_checkpoint_holds_beside_its_weights_says_how_to_save_them_alone(tmp_path: Path) -> None:
    path = _zipped(tmp_path / "w.pth", pickle.dumps({"args": argparse.Namespace(lr=0.1), "state_dict": {}}, 2))
    assert re.search(r"argparse\.Namespace.*torch\.save\(model\.state_dict\(\)", _refusal(path))


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (6, 0, (7,), (1,)),
        (6, 5, (2,), (1,)),
        (6, -1, (2,), (1,)),
        (6, 0, (2,), (-1,)),
        (6, 0, (-2,), (1,)),
        (6, 0, (1 << 40,), (0,)),  # one number, repeated
        (6, 0, (1 << 31, 1 << 31, 4), (0, 0, 0)),
        (6, 0, (2, 2), (1,)),
        (7, 0, (2,), (1,)),  # the storage is shorter than it says
        (1 << 50, 0, (2,), (1,)),
        (-6, 0, (2,), (1,)),
        (6, 1 << 60, (2,), (1,)),
    ],
)
def test_views_beyond_their_storage_are_refused(
    tmp_path: Path, count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    numbers = np.arange(6, dtype="<f4").tobytes()
    _error(_zipped(tmp_path / "w.pth", _tensor(count, offset, shape, strides), **{"0": numbers}))


def test_archives_that_unfold_are_refused(tmp_path: Path) -> None:
    for name, member in (("w.pth", "archive/data.pkl"), ("w.keras", "model.weights.h5")):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, bytes(1 << 22))
        _refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["zip.pth", "stream.pth", *KERAS_FILES])
def test_damaged_files_are_an_error(small: Path, tmp_path: Path, name: str) -> None:
    content = (small / name).read_bytes()
    path = tmp_path / name
    damaged = [content[: int(share * len(content))] for share in (0.2, 0.5, 0.9, 0.999)]
    rng = np.random.default_rng(0)
    places = rng.choice(len(content), 150, replace=False).tolist() if name.endswith(".pth") else ()
    bits = ((place, content[place] ^ 1 << int(rng.integers(8))) for place in places)
    damaged += [content[:place] + bytes([value]) + content[place + 1 :] for place, value in bits]
    for some in damaged:
        path.write_bytes(some)
        with pytest.raises(UserError, match=re.escape(str(path))):  # if nothing else: these names are of no such net
            loading.load(str(path), "resnet18" if name.endswith(".pth") else "vgg16", {}, {})


def test_hdf5_that_points_to_other_files_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(range(64)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kernel"] = np.ones((4, 4), np.float32)

    layout = h5py.VirtualLayout((4, 4), np.float32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kernel", (4, 4))
    zeros = {"compression": "gzip", "data": np.zeros((4096, 4096))}
    hostile: dict[str, Callable[[h5py.Group], Any]] = {
        "external_link": lambda group: group.__setitem__("kernel", h5py.ExternalLink("other.h5", "/kernel")),
        "soft_link": lambda group: group.__setitem__("kernel", h5py.SoftLink("/fc1")),
        "external": lambda group: group.create_dataset("kernel", (4, 4), "f4", external=[(str(secret), 0, 64)]),
        "virtual": lambda group: group.create_virtual_dataset("kernel", layout),
        "compressed": lambda group: group.create_dataset("kernel", (4096, 4096), "f4", **zeros),
        "promised": lambda group: group.create_dataset("kernel", (1 << 20, 1 << 20), "f4"),  # 4 TB that nobody wrote
        "text": lambda group: group.__setitem__("kernel", np.array(["a", "b"], dtype=h5py.string_dtype())),
    }
    for name, add in hostile.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            add(file.create_group("fc1"))
        _refusal(tmp_path / f"{name}.h5")


@pytest.mark.parametrize("whole", [False, True])
def test_hdf5_of_keras_2_is_read_by_its_names_and_ranks(tmp_path: Path, whole: bool) -> None:
    ones = np.ones(3, np.float32)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["optimizer_weights/Adam/c/m:0" if whole else "top_level/0"] = ones
        start = "model_weights/" if whole else ""
        file[f"{start}c/c_b_1:0"], file[f"{start}c/c_W_1:0"] = ones, np.ones((1, 1, 2, 3), np.float32)
        for number, leaf in enumerate(("moving_variance", "moving_mean", "beta", "gamma")):
            file[f"{start}n/net/n/{leaf}:0"] = number * ones
        file.create_group(f"{start}flatten")
    read = keras_files.read(tmp_path / "w.h5")
    read.pop("top_level/0", None)
    assert read.keys() == {"c/kernel", "c/bias", *(f"n/{leaf}" for leaf in keras_files._NORM)}
    assert [read[f"n/{leaf}"][0] for leaf in keras_files._NORM] == [3, 2, 1, 0]


def test_hdf5_that_would_fill_the_stack_or_the_memory_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        file["/".join("a" * 40)] = np.ones(3)
    with h5py.File(tmp_path / "circle.h5", "w") as file:
        file.create_group("a")
        file["a/b"] = file["a/c"] = file["a"]
    for name, value in (("many", ["conv"] * 4), ("long", "c" * 5000)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["layers/conv/vars/0"] = np.ones((3, 3))
            file["layers/conv/vars"].attrs["name"] = value
    for name in ("deep", "circle", "many", "long"):
        _refusal(tmp_path / f"{name}.h5")


def test_safetensors_are_read_and_damaged_ones_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"fc.weight": np.ones((2, 3), np.float32)}, path)
    assert sources.locate(str(path), "vgg16").kind == "safetensors"
    assert loading._read_safetensors(path)["fc.weight"].tolist() == [[1.0] * 3] * 2
    content = path.read_bytes()
    for damaged in (content[:-4], struct.pack("<Q", 1 << 60) + content[8:]):
        path.write_bytes(damaged)
        _error(path)


def test_what_is_no_file_of_weights_is_an_error(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    for content in (b"", b"PK\x05\x06" + bytes(18), b"hello there, world", buffer.getvalue()):
        (tmp_path / "w").write_bytes(content)
        _error(tmp_path / "w")
    _error(tmp_path / "absent.h5")
    _error(tmp_path)
    for name, array in (("numbers", np.ones(3)), ("layers/conv2d/vars/0", np.ones((1, 1, 3, 2), np.float32))):
        with h5py.File(tmp_path / "w.h5", "w") as file:
            file[name] = array
        with pytest.raises(UserError, match=r"w\.h5"):
            loading.load(str(tmp_path / "w.h5"), "vgg16", {}, {})


def test_paths_that_cannot_be_read_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _error(Path("~nobody_of_this_name/x.pth"))
    assert len(_error(tmp_path / ("x" * 5000))) < 400
    path = tmp_path / "w.safetensors"
    save_file({"fc.weight": np.ones((2, 3), np.float32)}, path)
    weights = sources.locate(str(path), "vgg16")

    def denied(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # the permission itself would not hold back an administrator
    assert "Permission denied" in _error(path)
    with pytest.raises(UserError, match=r"w\.safetensors.*Permission denied"):
        weights.sha256()
