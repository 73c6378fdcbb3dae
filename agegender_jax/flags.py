"""Flags and recipes of a command: an error in them ends in one sentence."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from agegender_jax.errors import UserError


def parse(argv: list[str], *, required: Sequence[str], program: str) -> list[str]:
    """Parses the flags; exits with code 2 and a sentence where they are wrong.

    Args:
      argv: of the process.
      required: flags that must be given.
      program: the command's name, for the sentence.

    Returns:
      The rest of `argv`: its first entry.
    """
    try:
        rest = flags.FLAGS(argv)
        missing = [name for name in required if flags.FLAGS[name].value is None]
        if missing and not (flags.FLAGS["help"].value or flags.FLAGS["helpfull"].value):
            raise ValueError(f"--{missing[0]} is missing")
        if rest[1:]:
            raise ValueError(f"{rest[1]!r} is not a flag")
        if flags.FLAGS["config"].value is not None:
            _ = flags.FLAGS["config"].value.seed  # raises here, not later, where there is no such recipe
    except SystemExit:  # of --help and the like, after which absl exits with 1
        sys.exit(0)
    except Exception as error:  # a recipe is a program: whatever its arguments make it raise
        print(f"{program}: {_sentence(error)} See python {program} --help.", file=sys.stderr)
        sys.exit(2)
    return rest


def read_recipe(config: str, changes: Sequence[str]) -> Any:
    """Reads the recipe of `--config` with changes, as `launch.py` does.

    Args:
      config: `FILE.py` or `FILE.py:ARGUMENT`.
      changes: each `KEY=VALUE`.

    Raises:
      UserError: there is no such recipe, argument or key, or the value is of another type.
    """
    from ml_collections import config_flags

    given = ["recipe", f"--config={config}", *(f"--config.{change}" for change in changes)]
    values = flags.FlagValues()
    # Without `sys_argv`, flags of a recipe's keys read the process's own arguments.
    try:
        holder = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=given)
        values(given)
        _ = holder.value.seed  # raises here, not later, where there is no such recipe
        return holder.value
    except Exception as error:  # a recipe is a program: whatever its arguments make it raise
        sentence = _sentence(error)
        raise UserError(sentence if sentence.startswith(config) else f"{config}: {sentence}") from error


def _sentence(error: Exception) -> str:
    """Returns the message on one line; of a traceback its last line, which is the message of the recipe."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)  # KeyError adds quotes
    lines = text.replace("\\n", "\n").replace("\\'", "'").strip().splitlines() or [type(error).__name__]
    message = lines[-1].strip() if "Traceback" in text or isinstance(error, OSError) else " ".join(lines)
    message = re.sub(r"^\[Errno \d+\] (.+): '([^']+)'$", r"\2: \1", message)
    if isinstance(error, KeyError | AttributeError):
        name, _, rest = message.strip("'\"").partition(" Did you mean ")
        name, similar = name.strip("'\""), re.match(r"\"(\w+)\"", rest)
        message = f"unknown key '{name}'" + (f"; did you mean '{similar[1]}'?" if similar else "")
    if "before a value for --config was specified" in message:
        message = "--config.KEY=VALUE stands before --config; put --config first"
    message = " ".join(message.split()).rstrip(" .")
    return message if message.endswith("?") else f"{message}."
