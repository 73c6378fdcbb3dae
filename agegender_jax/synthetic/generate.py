"""Synthetic datasets, each in its original's own layout, ready to be prepared like a download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agegender_jax import atomic
from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from tfds_builders.archive import SYNTHETIC_FILE

VOICE_SPEAKERS = 4  # speakers of each class of synthetic voices: the fewest that can be in three parts, and one more


def _utkface(folder: Path, count: int, seed: int, progress: bool) -> None:
    from agegender_jax.synthetic.faces import write_utkface_archive  # OpenCV, which only generating needs

    write_utkface_archive(folder / "UTKFace.tar.gz", count, seed=seed, progress=progress)


def _adience(folder: Path, count: int, seed: int, progress: bool, fold_files: Path | None = None) -> None:
    from agegender_jax.synthetic.adience import write_adience

    write_adience(folder, count, seed=seed, fold_files=fold_files, progress=progress)


def _voices(folder: Path, count: int, seed: int, progress: bool) -> None:
    from agegender_jax.synthetic.voices import CLASSES, write_voices

    recordings = max(1, round(count / (len(CLASSES) * VOICE_SPEAKERS)))
    write_voices(folder, recordings_per_speaker=recordings, seed=seed, progress=progress)


GENERATORS: dict[str, Callable[..., None]] = {"utkface": _utkface, "adience": _adience, "voice_age_gender": _voices}


def builder_options(name: str) -> dict[str, Any]:
    """Returns the options of the builder that a synthetic dataset needs."""
    if name == "voice_age_gender":
        from agegender_jax.synthetic.voices import SPEAKER_PATTERN

        return {"speaker_pattern": SPEAKER_PATTERN}
    return {}


def generate(name: str, folder: Path, count: int, *, seed: int = 0, progress: bool = True, **options: Any) -> None:
    """Generates a dataset of `GENERATORS` in a new folder, whole or not at all, with a note that it is synthetic.

    The folder is the manual directory that the dataset can be prepared from. It has about `count` examples; 0 leaves
    that to the generator, where it has a default. The same seed, 0 or more, generates the same. The options are the
    generator's: `fold_files` of adience.

    Raises:
      UserError: an unknown name, or a folder that is there already or cannot be written.
    """
    if name not in GENERATORS:
        raise UserError(f"Nothing generates {name!r}; choose one of: {', '.join(GENERATORS)}.")
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it, or name another folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(folder) as temporary:
            temporary.mkdir()
            GENERATORS[name](temporary, count, seed, progress, **options)
            (temporary / SYNTHETIC_FILE).write_text(f"{DISCLAIMER}\n", encoding="utf-8")
    except OSError as error:
        if folder.exists():  # another process was first, and generated the same
            return
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); free some space or choose another place."
        ) from error
