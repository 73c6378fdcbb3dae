"""Where weights come from: a file, a run's directory, an installed package, or a repository of the Hugging Face hub."""

import hashlib
import importlib
import importlib.util
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from agegender_jax.errors import UserError
from agegender_jax.models.backbones import BACKBONES

MAX_BYTES = 4 << 30
"""Of a file of weights; VGG16's have 553 MB."""

_HUB_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/([\w./-]+))?", re.ASCII)
_HDF5 = b"\x89HDF\r\n\x1a\n"


class Weights(NamedTuple):
    """Weights that are located and not yet read.

    Attributes:
      source: what the user asked for.
      kind: `keras` (HDF5 or `.keras`), `torch` (`torch.save`), `safetensors`, or `run` (a run's directory).
      path: of the file or the directory.
    """

    source: str
    kind: str
    path: Path

    def sha256(self) -> str:
        """Returns the file's SHA-256 in hexadecimal digits; raises UserError where it cannot be read."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}); give another file.") from error


def locate(source: str, backbone: str) -> Weights:
    """Finds the weights that `config.model.pretrained` names; a directory with a recipe.json is a run.

    The source is the path of a file or of a run's directory; `hf:OWNER/NAME` or `hf:OWNER/NAME/FILE` of the Hugging
    Face hub (the file is `model.safetensors` where none is named); or the name of a backbone with published weights. To
    mean a file that has such a name, write `./NAME`.

    Raises:
      UserError: there is nothing there, it is too large, or what would fetch it is not installed.
    """
    if source in _published():
        if source != backbone:
            raise UserError(
                f"config.model.pretrained={source!r} are the weights of another net than config.model.backbone="
                f"{backbone!r}; set one to the other."
            )
        spec = BACKBONES[source]
        path = _package_file(source, *spec.package) if spec.package else _hub_file(source, f"hf:{spec.hub}")
    elif source.startswith("hf:"):
        path = _hub_file(source, source)
    else:
        path = Path(source)
    try:
        path = path.expanduser()
        return Weights(source, _kind(source, path), path)
    except (OSError, RuntimeError) as error:  # of a home that nobody has, of a path too long, of permissions
        shown = source if len(source) <= 200 else f"{source[:200]}..."
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"config.model.pretrained={shown!r} cannot be read ({reason}); give another file.") from error


def _published() -> list[str]:
    return [name for name, spec in BACKBONES.items() if spec.hub or spec.package]


def _kind(source: str, path: Path) -> str:
    if (path / "recipe.json").is_file():
        return "run"
    if not path.is_file():
        raise UserError(
            f"config.model.pretrained={source!r} is no file of weights and no run's directory; give one of these, "
            f"hf:OWNER/NAME, or one of: {', '.join(_published())}."
        )
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES >> 30} GiB, which no weights need; give another file.")
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(_HDF5):
        return "keras"
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                return "keras" if "model.weights.h5" in archive.namelist() else "torch"
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise UserError(f"{path} cannot be read as weights: it is damaged ({error}); give another file.") from error
    # A pickle of protocol 2 and later begins with this byte; what it holds, the reader finds out.
    if start.startswith(b"\x80") and start[1:2] <= b"\x05":
        return "torch"
    if start[8:9] == b"{":
        return "safetensors"
    raise UserError(
        f"{path} is no file of weights in a known form; known are Keras' .h5, .weights.h5 and .keras, PyTorch's .pth "
        "and .pt, and .safetensors."
    )


def _package_file(source: str, module: str, file: str) -> Path:
    spec = importlib.util.find_spec(module)  # which does not import it
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / file).is_file():
            return path
    raise UserError(
        f"config.model.pretrained={source!r} needs the package {module}, which is not installed; install the "
        "extra `pretrained` (in a checkout: .venv/bin/pip install -c constraints.txt -e '.[pretrained]')."
    )


def _hub_file(source: str, name: str) -> Path:
    match = _HUB_NAME.fullmatch(name)
    if not match or ".." in name:
        raise UserError(f"config.model.pretrained={source!r} is not right; write hf:OWNER/NAME or hf:OWNER/NAME/FILE.")
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            f"config.model.pretrained={source!r} is on the Hugging Face hub, for which there is the extra `hub` (in a "
            "checkout: .venv/bin/pip install -c constraints.txt -e '.[hub]') and a network; install it or give a file."
        ) from error
    repository, file = match[1], match[2] or "model.safetensors"
    try:
        return Path(hub.hf_hub_download(repo_id=repository, filename=file))
    except Exception as error:  # whatever it raises, of the network and of the repository: many kinds
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"config.model.pretrained={source!r}: {file} of {repository} could not be fetched from the Hugging Face "
            f"hub ({type(error).__name__}: {reason}); check the name and the network, or give a file."
        ) from error
