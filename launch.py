r"""Trains and evaluates a recipe.

  python launch.py --config configs/quickstart.py --workdir runs/quickstart
  python launch.py --config configs/utkface_small.py:cpu --manual_dir DIR --workdir runs/small
  python launch.py --config configs/utkface_small.py --config.train.epochs=10 --manual_dir DIR --workdir runs/short \
      --dry_run
  python launch.py --config configs/adience_cnn.py --manual_dir DIR --workdir runs/adience --folds all
  python launch.py --config configs/voice_small.py:emodb --manual_dir DIR --workdir runs/emodb \
      --folds all --protocols paper,disjoint --repeats 3
  srun python launch.py --config configs/utkface_small.py --manual_dir DIR --workdir /shared/runs/small --distributed

--config.KEY=VALUE changes a key of the recipe; docs/GUIDE.md describes the keys, --dry_run prints them.
The same command resumes an interrupted run, and prints the results of a complete one.
"""

import time

_STARTED = time.monotonic()

import os  # noqa: E402  the clock above starts first
import sys  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from agegender_jax.flags import parse  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Recipe, FILE.py or FILE.py:ARGUMENT.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory: checkpoints, metrics, summary.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Folder of the downloaded dataset (archive, or unpacked).")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared data [TFDS_DATA_DIR or ~/tensorflow_datasets].")
_PROTOCOLS = flags.DEFINE_list("protocols", [], "Train under each of these and compare: paper,disjoint.")
_FOLDS = flags.DEFINE_string("folds", "", "Train these folds, `all` or 0,2, and print mean and spread.")
_REPEATS = flags.DEFINE_integer("repeats", 1, "Train each run this many times, with other seeds on the same split.")
_DISTRIBUTED = flags.DEFINE_boolean("distributed", False, "Several processes, detected by JAX: Slurm, TPU, Open MPI.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Several processes, set by flags: HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: the number of processes.")
_PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: the index of this process, from 0.")
_DRY_RUN = flags.DEFINE_boolean(
    "dry_run", False, "Print the recipe, data, split and model, and stop before the first step."
)


def main(argv: list[str]) -> None:
    """Runs the command."""
    from agegender_jax.train.command import command  # imports JAX: not needed for --help or a mistyped flag

    assert _WORKDIR.value is not None  # `parse` requires it
    code = command(
        _CONFIG.value,
        workdir=Path(_WORKDIR.value).expanduser(),
        manual_dir=Path(_MANUAL_DIR.value).expanduser() if _MANUAL_DIR.value else None,
        data_dir=Path(_DATA_DIR.value).expanduser() if _DATA_DIR.value else None,
        protocols=_PROTOCOLS.value,
        folds=_FOLDS.value,
        repeats=_REPEATS.value,
        dry_run=_DRY_RUN.value,
        processes={
            "automatic": _DISTRIBUTED.value,
            "coordinator": _COORDINATOR.value,
            "processes": _PROCESSES.value,
            "process": _PROCESS.value,
        },
        started=_STARTED,
    )
    if code == 130:  # Ctrl-C: XLA may still be compiling in a thread, which an orderly exit would crash
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main, flags_parser=partial(parse, required=("config", "workdir"), program="launch.py"))
