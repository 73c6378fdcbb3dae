"""Trains and evaluates a recipe.

  python launch.py --config configs/quickstart.py --workdir runs/quickstart
  python launch.py --config configs/utkface_small.py:cpu --manual_dir DIR --workdir runs/small
  python launch.py --config configs/utkface_small.py --config.train.epochs=10 --workdir runs/short --dry_run

The same command goes on where an interrupted run stopped, and says so where the run is complete.
"""

import time

_STARTED = time.monotonic()

import os  # noqa: E402  the clock above starts first
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Recipe, FILE.py or FILE.py:ARGUMENT.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory: checkpoints, metrics, summary.")
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None, "Where the downloaded dataset lies (UTKFace.tar.gz, or unpacked)."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data lie [TFDS_DATA_DIR or ~/tensorflow_datasets].")
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Say what would be done, and stop before the first step.")


def main(argv: list[str]) -> None:
    """Runs the command."""
    from agegender_jax import train  # imports JAX: not for --help, nor for a mistyped flag

    assert _WORKDIR.value is not None  # `parse` has seen to it
    code = train.command(
        _CONFIG.value,
        workdir=Path(_WORKDIR.value).expanduser(),
        manual_dir=Path(_MANUAL_DIR.value).expanduser() if _MANUAL_DIR.value else None,
        data_dir=Path(_DATA_DIR.value).expanduser() if _DATA_DIR.value else None,
        dry_run=_DRY_RUN.value,
        started=_STARTED,
    )
    if code == 130:  # Ctrl-C: XLA may still be compiling in a thread, which an orderly exit would pull the rug from
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; what is wrong with them ends in one sentence."""
    try:
        rest = flags.FLAGS(argv)
        missing = [name for name in ("config", "workdir") if flags.FLAGS[name].value is None]
        if missing and not (flags.FLAGS["help"].value or flags.FLAGS["helpfull"].value):
            raise ValueError(f"--{missing[0]} is missing")
        if rest[1:]:
            raise ValueError(f"{rest[1]!r} is no flag")
        if _CONFIG.value is not None:
            _ = _CONFIG.value.name  # a recipe that is not there is only told of when it is looked at
    except SystemExit:
        raise
    except Exception as error:  # a recipe is a program: whatever its arguments make it raise
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)  # KeyError adds quotes
        text = text.replace("\\n", "\n").replace("\\'", "'")  # some come as they look in Python,
        text = text[1:-1] if text.startswith("''") else text  # and with quotes of their own
        # Of a recipe that raised, the last line is what it said; what goes before is a list of calls.
        told = isinstance(error, OSError) or "Traceback" in text
        message = " ".join(text.strip().splitlines()[-1:] if told else text.split()).strip(" .")
        stop = "" if message.endswith("?") else "."
        print(f"launch.py: {message}{stop} See python launch.py --help.", file=sys.stderr)
        sys.exit(2)
    return rest


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main, flags_parser=parse)
