"""The peer: PyTorch on the same net, batch, precision, augmentation and optimizer, and its DataLoader.

`python -m benchmarks.torch_peer` works on request, see `pipe_rpc.serve`. It needs PyTorch, torchvision and Pillow, and
nothing of this project's, so it may run in an environment of its own.
"""

import importlib.metadata
import io
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import pipe_rpc
from benchmarks.torch_nets import build

_WARM_UP = 3  # steps
_CHOOSING = 3  # steps that each mode is timed for


class Steps:
    """Training steps on random images that lie on the device.

    Channels-last, a fused optimizer, autocast where `dtype` is bfloat16, TF32 where the device has it (so has ours).
    Of the modes the fastest is taken: `eager`, `compile` (torch.compile of the net with its loss, and of the
    augmentation), `graphs` (the same with CUDA graphs).

    Args:
      net: see `torch_nets.build`, as are `outputs`, `image_size`, `dropout` and `layout`.
      outputs: logits of each head.
      layout: of small_cnn.
      image_size: pixels.
      batch_size: images in a step.
      dropout: rate.
      dtype: of the arithmetic.
      augmentation: strengths by name, as ours.
      mean: of the images' channels, in units of full scale.
      std: their standard deviation.
      learning_rate: of Adam.
      device: `cpu` or `cuda`.
      modes: to be tried.
    """

    def __init__(
        self,
        net: str,
        outputs: Mapping[str, int],
        layout: Any,
        image_size: int,
        batch_size: int,
        dropout: float,
        dtype: str,
        augmentation: Mapping[str, Any],
        mean: Sequence[float],
        std: Sequence[float],
        learning_rate: float,
        device: str,
        modes: Sequence[str],
    ) -> None:
        self.device = torch.device(device)
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        _allow_tf32(device)
        self.net = build(net, outputs, image_size, dropout, layout)
        self.net = self.net.to(self.device, memory_format=torch.channels_last).train()
        self._optimizer, self.fused = _adam(self.net, learning_rate)
        count = 2 * batch_size
        self._content = torch.randint(0, 256, (count, image_size, image_size, 3), dtype=torch.uint8).to(self.device)
        self._labels = {name: torch.randint(0, size, (count,)).to(self.device) for name, size in outputs.items()}
        self._rows = torch.stack([torch.randperm(count)[:batch_size] for _ in range(20)]).to(self.device)
        bfloat16, scale = dtype == "bfloat16", torch.tensor([mean, std], device=self.device) * 255
        mean, std = scale[0].view(1, 3, 1, 1), scale[1].view(1, 3, 1, 1)

        def see(content: Tensor) -> Tensor:
            images = (augment(content.permute(0, 3, 1, 2).float(), **augmentation) - mean) / std
            return images.contiguous(memory_format=torch.channels_last)

        def loss_of(images: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                logits = self.net(images)
            return torch.stack([F.cross_entropy(logits[name], label) for name, label in labels.items()]).sum()

        self._functions: tuple[Callable[..., Tensor], Callable[..., Tensor]] = see, loss_of
        self.tried: dict[str, str] = {}
        self.mode = self._choose(modes)

    def run(self, count: int) -> float:
        """Returns the seconds of so many steps."""
        self._wait()
        began = time.perf_counter()
        self._steps(count)
        self._wait()
        return time.perf_counter() - began

    def _steps(self, count: int) -> None:
        see, loss_of = self._functions
        for step in range(count):
            rows = self._rows[step % len(self._rows)]
            loss = loss_of(see(self._content[rows]), {name: label[rows] for name, label in self._labels.items()})
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def _choose(self, modes: Sequence[str]) -> str:
        """Chooses the fastest of the modes that work here; `tried` holds the outcome of each."""
        plain, working = self._functions, {}
        for mode in modes:
            try:
                self._functions = plain if mode == "eager" else self._compiled(plain, mode)
                self._steps(_WARM_UP)
                working[mode] = self.run(_CHOOSING) / _CHOOSING, self._functions
                self.tried[mode] = f"{1000 * working[mode][0]:.1f} ms a step"
            except Exception as error:  # what a missing or broken compiler raises depends on what is missing
                self.tried[mode] = f"failed ({(str(error).strip().splitlines() or [type(error).__name__])[0][:100]})"
        if not working:
            raise RuntimeError(f"no mode works: {self.tried}")
        fastest = min(working, key=lambda mode: working[mode][0])
        self._functions = working[fastest][1]
        return fastest

    def _compiled(self, plain: Sequence[Callable], mode: str) -> Any:
        if self.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            raise RuntimeError("there is no C++ compiler")
        options = {"mode": "reduce-overhead"} if mode == "graphs" else {}
        return tuple(torch.compile(function, **options) for function in plain)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _allow_tf32(device: str) -> None:
    if device == "cuda":
        torch.set_float32_matmul_precision("high")


def _adam(net: torch.nn.Module, learning_rate: float) -> tuple[torch.optim.Optimizer, bool]:
    try:
        return torch.optim.Adam(net.parameters(), learning_rate, fused=True), True
    except (RuntimeError, TypeError):
        return torch.optim.Adam(net.parameters(), learning_rate), False


def augment(x: Tensor, draws: Mapping[str, Tensor] | None = None, **options: Any) -> Tensor:
    """Makes a random view of each image, as `agegender_jax.data.augment.augment` makes it.

    Args:
      x: float32 `[batch, 3, size, size]`, 0 to 255.
      draws: `mirrored` bool, `shift_y`, `shift_x`, `zoom`, `light`, `contrast`, `saturation` from -1 to 1, `height`
        and `width` from 0.1 to 0.33, `chance`, `top` and `left` from 0 to 1, all `[batch]`; None draws them.
      **options: the strengths, as there.
    """
    batch, _, size, _ = x.shape
    draws = _draw(batch, x.device) if draws is None else draws
    if options["shift"] or options["zoom"]:
        centre = (size - 1) / 2
        scale = (1 + options["zoom"]) ** -draws["zoom"]
        sign = torch.where(draws["mirrored"] & bool(options["flip"]), -1.0, 1.0)
        zero, move = torch.zeros_like(scale), options["shift"] * size / centre
        across = torch.stack([sign * scale, zero, sign * move * draws["shift_x"]], 1)
        down = torch.stack([zero, scale, move * draws["shift_y"]], 1)
        grid = F.affine_grid(torch.stack([across, down], 1), [batch, 3, size, size], align_corners=True)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=True)
    elif options["flip"]:
        x = torch.where(_each(draws["mirrored"]), x.flip(3), x)
    if options["saturation"]:
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * _each(1 + options["saturation"] * draws["saturation"])
    if options["contrast"]:
        level = x.mean((1, 2, 3), keepdim=True)
        x = level + (x - level) * _each(1 + options["contrast"] * draws["contrast"])
    if options["brightness"]:
        x = x + _each(255 * options["brightness"] * draws["light"])
    if options["erase"]:
        pixel = torch.arange(size, device=x.device)
        inside = [_inside(pixel, draws[edge] * size, draws[place]) for edge, place in _RECTANGLE]
        erased = inside[0][:, :, None] & inside[1][:, None, :] & (draws["chance"] < options["erase"])[:, None, None]
        x = torch.where(erased[:, None], 127.5, x)
    return x.clamp(0, 255)


_RECTANGLE = (("height", "top"), ("width", "left"))


def _inside(pixel: Tensor, length: Tensor, place: Tensor) -> Tensor:
    start = (place * (len(pixel) - length))[:, None]
    return (pixel >= start) & (pixel < start + length[:, None])


def _each(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _draw(batch: int, device: torch.device) -> dict[str, Tensor]:
    uniform = torch.rand((12, batch), device=device)
    symmetric = dict(
        zip(("shift_y", "shift_x", "zoom", "light", "contrast", "saturation"), 2 * uniform[:6] - 1, strict=True)
    )
    rectangle = {"height": 0.1 + 0.23 * uniform[6], "width": 0.1 + 0.23 * uniform[7]}
    return (
        symmetric
        | rectangle
        | dict(zip(("chance", "top", "left"), uniform[8:11], strict=True))
        | {"mirrored": uniform[11] < 0.5}
    )


class Encoded(Dataset):
    """Encoded images in memory, decoded as recipes for PyTorch do: uint8 `[3, size, size]`.

    Args:
      path: of an .npz: `content` (all bytes, one image after the other) and `ends` (where each ends).
      size: edge of the images, pixels.
      draft: whether large JPEG images are decoded at a reduced scale, as ours are.
    """

    def __init__(self, path: str, size: int, draft: bool = False) -> None:
        with np.load(path) as stored:
            self._content, self._ends = stored["content"].tobytes(), stored["ends"].tolist()
        self._size, self._draft = size, draft

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> Tensor:
        content = self._content[self._ends[row - 1] if row else 0 : self._ends[row]]
        file = Image.open(io.BytesIO(content))
        if self._draft:
            file.draft("RGB", (self._size, self._size))
        image = file.convert("RGB").resize((self._size, self._size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class Input:
    """Passes of a DataLoader over encoded images; its workers live on from pass to pass.

    Args:
      path: see `Encoded`.
      size: edge of the images, pixels.
      batch_size: images in a batch.
      workers: processes.
      draft: see `Encoded`.
    """

    def __init__(self, path: str, size: int, batch_size: int, workers: int, draft: bool = False) -> None:
        self._loader = DataLoader(
            Encoded(path, size, draft),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=bool(workers),
        )
        self.pass_over()  # the first starts the workers

    def pass_over(self) -> float:
        """Returns the images a second of one pass, from asking for it to its last batch."""
        began = time.perf_counter()
        seen = sum(len(batch) for batch in self._loader)
        return seen / (time.perf_counter() - began)


def matmul_peak(dtype: str, edge: int, device: str) -> float:
    """Measures the floating-point operations a second of a square matrix product, the best of several tries."""
    _allow_tf32(device)
    left, right = (torch.randn(edge, edge, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    left @ right
    seconds = []
    for _ in range(5):
        wait()
        began = time.perf_counter()
        for _ in range(4):
            left @ right
        wait()
        seconds.append((time.perf_counter() - began) / 4)
    return 2 * edge**3 / min(seconds)


_working: dict[str, Any] = {}  # what the last request of its kind has set up


def handle(do: str, **options: Any) -> Any:
    """Handles a request of the side that measures."""
    if do == "versions":
        if options["device"] == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no CUDA device here")
        return {"torch": torch.__version__, "torch's python": platform.python_version()} | {
            f"torch's {package}": importlib.metadata.version(package) for package in ("torchvision", "numpy", "pillow")
        }
    if do == "peak":
        return matmul_peak(**options)
    if do == "steps":
        steps = _working["steps"] = Steps(**options)
        parameters = sum(parameter.numel() for parameter in steps.net.parameters())
        return {"parameters": parameters, "mode": steps.mode, "tried": steps.tried, "fused": steps.fused}
    if do == "run":
        return _working["steps"].run(**options)
    if do == "input":
        _working["input"] = Input(**options)
        return None
    if do == "pass":
        return _working["input"].pass_over()
    raise ValueError(f"there is no request {do!r}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    pipe_rpc.serve(handle)
