"""Flags and recipes as commands are given them: what is wrong with them ends in one sentence."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from agegender_jax.errors import UserError

_NO_FILE = re.compile(r"\[Errno 2\] No such file or directory: '.+'")
_KEY = re.compile(r"""["']+(\w+)["']+(?: Did you mean "(\w+)" instead of "\1"\?)?""")
"""What ml_collections says of a key that is not there."""


def parse(argv: list[str], *, required: Sequence[str], program: str) -> list[str]:
    """Parses the flags, and exits with 2 and a sentence where they are wrong.

    Args:
      argv: of the process.
      required: flags that must be given.
      program: the command's name, for the sentence.

    Returns:
      What is left of `argv`: its first entry.
    """
    try:
        rest = flags.FLAGS(argv)
        values = {name: flags.FLAGS[name].value for name in required}
        missing = [name for name, value in values.items() if value is None]
        if missing and not (flags.FLAGS["help"].value or flags.FLAGS["helpfull"].value):
            raise ValueError(f"--{missing[0]} is missing")
        if rest[1:]:
            raise ValueError(f"{rest[1]!r} is no flag")
        if values["config"] is not None:
            _ = values["config"].name  # a recipe that is not there is only told of when it is looked at
    except SystemExit:  # of --help and the like, after which absl exits with 1
        sys.exit(0)
    except Exception as error:  # a recipe is a program: whatever its arguments make it raise
        message = _explain(error)
        stop = "" if message.endswith("?") else "."
        print(f"{program}: {message}{stop} See python {program} --help.", file=sys.stderr)
        sys.exit(2)
    return rest


def read_recipe(config: str, changes: Sequence[str]) -> Any:
    """The recipe that `--config` and its changes mean, as `launch.py` reads them.

    Args:
      config: `FILE.py` or `FILE.py:ARGUMENT`.
      changes: each `KEY=VALUE`.

    Raises:
      UserError: there is no such recipe, argument or key, or the value is of another type.
    """
    from ml_collections import config_flags

    given = ["recipe", f"--config={config}", *(f"--config.{change}" for change in changes)]
    values = flags.FlagValues()
    # By themselves, flags of a recipe's keys look at the process's own arguments.
    try:
        holder = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=given)
        values(given)
        _ = holder.value.name  # a recipe that is not there is only told of when it is looked at
        return holder.value
    except Exception as error:  # a recipe is a program: whatever its arguments make it raise
        raise UserError(f"{config}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """What reading a recipe raised, as a part of a sentence."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)  # KeyError adds quotes
    text = text.replace("\\n", "\n").replace("\\'", "'")  # some come as they look in Python,
    text = text[1:-1] if text.startswith("''") else text  # and with quotes of their own
    # Of a recipe that raised, the last line is what it said; what goes before is a list of calls.
    told = isinstance(error, OSError) or "Traceback" in text
    message = " ".join(text.strip().splitlines()[-1:] if told else text.split()).strip(" .")
    if isinstance(error, KeyError | AttributeError) and (key := _KEY.fullmatch(message)):
        return f"there is no key {key[1]!r}" + (f"; did you mean {key[2]!r}?" if key[2] else "")
    if _NO_FILE.fullmatch(message):
        return "there is no such recipe; configs/ holds some"
    if "get_config() takes 0 positional arguments" in message:
        return "this recipe takes no argument; leave out the colon and what follows it"
    return message
