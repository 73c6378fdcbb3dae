"""Stores what the original implementations compute, for `test_parity.py`; and what they wrote, for `test_reading.py`.

    python tests/models/pretrained/make_parity.py

needs the extra `parity` (PyTorch, torchvision, Keras). The nets are torchvision's and Keras' own; their weights and
the images are made with NumPy from seeds, by name and shape, so only names, shapes and logits are stored. The files
here were made with torch 2.13.0, torchvision 0.28.0 and Keras 3.15.1 (on PyTorch), on a CPU in float32.
"""

import dataclasses
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported: otherwise it imports TensorFlow

HERE = Path(__file__).parent / "parity"
CLASSES = 10
SEED = 20


@dataclasses.dataclass(frozen=True)
class Case:
    """A net of another implementation, the edge of its images, their number, and a factor of the classifier.

    The factor brings the logits to about 1, so that a difference of 1e-4 means the same for all.
    """

    library: str
    net: str
    size: int
    batch: int
    gain: float

    @property
    def name(self) -> str:
        return f"{self.library}_{self.net}"


CASES = (
    Case("torchvision", "alexnet", 224, 1, 0.25),
    Case("torchvision", "vgg16", 224, 1, 0.2),
    Case("torchvision", "resnet18", 64, 2, 1.0),
    Case("torchvision", "resnet50", 64, 2, 1.0),
    Case("torchvision", "densenet161", 64, 2, 4.0),
    Case("keras", "vgg16", 224, 1, 0.3),
    Case("keras", "resnet50", 64, 2, 1.0),
)


NAMES = ("vgg11", "vgg11_bn", "vgg16_bn", "resnet34", "resnet101")
"""Further nets of torchvision's, of which only names and shapes are stored."""


def images(case: Case, seed: int = SEED) -> np.ndarray:
    """Images of noise, RGB from 0 to 1, float32 `[batch, size, size, 3]`."""
    return np.random.default_rng(seed).random((case.batch, case.size, case.size, 3), np.float32)


def weights(case: Case, shapes: Mapping[str, list[int]], seed: int = SEED) -> dict[str, np.ndarray]:
    """Weights by the original's names: He's normal for kernels, and norms that do something."""
    return {name: _values(name, tuple(shape), case, seed) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...], case: Case, seed: int) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    # The numbers repeat after a prime number of them, as making 100 million would take seconds.
    numbers = rng.standard_normal(min(math.prod(shape), 1_000_003), np.float32)
    torch = case.library == "torchvision"
    if name.endswith(("_var", "_variance")):
        numbers = np.exp(0.3 * numbers)
    elif len(shape) == 1:
        # Scales below 1, so that the sums of residual blocks do not grow beyond what the later blocks add.
        numbers = 0.1 * numbers + np.float32(0.6 * name.endswith((".weight", "/gamma")))
    else:
        factor = math.sqrt(2 / math.prod(shape[1:] if torch else shape[:-1]))
        if shape[0 if torch else -1] == CLASSES:
            factor *= case.gain
        if not torch and shape[-2] == 3:
            factor /= 64  # Keras' pixels are up to 255
        numbers = numbers * np.float32(factor)
    return np.resize(numbers, shape)


def original(case: Case, seed: int = SEED) -> tuple[dict[str, list[int]], np.ndarray]:
    """Names and shapes of the original's weights, and its logits, float32 `[batch, CLASSES]`."""
    return (_torchvision if case.library == "torchvision" else _keras)(case, seed)


def _torchvision(case: Case, seed: int) -> tuple[dict[str, list[int]], np.ndarray]:
    import torch

    torch.set_num_threads(1)
    net, shapes = _torchvision_net(case.net)
    arrays = weights(case, shapes, seed)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, assign=True)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    x = ((images(case, seed) - mean) / std).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        return shapes, net(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def _torchvision_net(name: str) -> tuple[Any, dict[str, list[int]]]:
    """A net without values, and the shapes of its arrays."""
    import torch
    import torchvision

    with torch.device("meta"):
        net = getattr(torchvision.models, name)(num_classes=CLASSES).eval()
    return net, {name: list(value.shape) for name, value in net.state_dict().items()}


def _text(shapes: Mapping[str, list[int]]) -> np.ndarray:
    return np.frombuffer(json.dumps(shapes).encode(), np.uint8)


def _keras(case: Case, seed: int) -> tuple[dict[str, list[int]], np.ndarray]:
    import keras

    module = getattr(keras.applications, case.net)
    build = {"vgg16": keras.applications.VGG16, "resnet50": keras.applications.ResNet50}[case.net]
    net = build(weights=None, input_shape=(case.size, case.size, 3), classes=CLASSES, classifier_activation=None)
    shapes = {}
    for layer in net.layers:
        shapes |= {f"{layer.name}/{weight.name}": list(weight.shape) for weight in layer.weights}
    arrays = weights(case, shapes, seed)
    for layer in net.layers:
        layer.set_weights([arrays[f"{layer.name}/{weight.name}"] for weight in layer.weights])
    x = module.preprocess_input(255 * images(case, seed))
    return shapes, np.asarray(net.predict(x, verbose=0))


def small_files(folder: Path) -> None:
    """A small net in every form of file: 0, 1/8, 2/8, ... in every array."""
    import keras
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2))
    state = net.state_dict()
    for value in state.values():
        value.copy_(torch.arange(value.numel()).reshape(value.shape) / 8)
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "stream.pth", _use_new_zipfile_serialization=False)
    # The form of one stream, with storages besides those of the net: the momentum of a step.
    optimizer = torch.optim.SGD(net.parameters(), 0.0, momentum=0.9)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    training = {"optimizer": optimizer.state_dict(), "epoch": 3, "state_dict": state}
    torch.save(training, folder / "training.pth", _use_new_zipfile_serialization=False)
    halves = {k: torch.nn.Parameter(v.half()) if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"state_dict": halves, "epoch": 3}, folder / "half.pth")
    torch.save(
        {k: v.bfloat16().t().contiguous().t() if v.ndim == 2 else v for k, v in state.items()}, folder / "bf.pth"
    )
    stack = [
        keras.Input((4, 4, 2)),
        keras.layers.Conv2D(3, 3, name="c"),
        keras.layers.BatchNormalization(name="n"),
        keras.layers.Flatten(),
        keras.layers.Dense(2, name="d"),
    ]
    model = keras.Sequential(stack)
    for weight in model.weights:
        weight.assign(np.arange(math.prod(weight.shape), dtype=np.float32).reshape(weight.shape) / 8)
    model.save(folder / "whole.keras")
    model.save(folder / "whole.h5")
    model.save_weights(folder / "only.weights.h5")


def main() -> None:
    """Writes everything."""
    HERE.mkdir(exist_ok=True)
    for case in CASES:
        shapes, logits = original(case)
        print(case.name, f"{len(shapes)} arrays, logits of deviation {logits.std():.3f}")
        np.savez_compressed(HERE / f"{case.name}.npz", shapes=_text(shapes), logits=logits)
    for net in NAMES:
        np.savez_compressed(HERE / f"torchvision_{net}.npz", shapes=_text(_torchvision_net(net)[1]))
    with tempfile.TemporaryDirectory() as folder:
        small_files(Path(folder))
        with zipfile.ZipFile(HERE / "small_files.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(Path(folder).iterdir()):
                archive.write(path, path.name)


if __name__ == "__main__":
    main()
