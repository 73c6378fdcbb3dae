"""The exceptions that end a command with a sentence instead of a traceback, and the exit codes they end it with."""

import warnings

from absl import logging

EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_PREEMPTED = 75
"""The system's EX_TEMPFAIL: run the same command again."""


class UserError(Exception):
    """Something that the person at the terminal can mend.

    The message is one clear sentence: what is wrong, where, and what to do. Commands print it and exit with
    `exit_code`; a traceback is left to genuine defects.
    """

    exit_code = EXIT_USER_ERROR
    shared = False
    """Whether all processes of a run raise it, see `distributed.all_or_none`."""


class Refused(UserError):
    """The data cannot honour the protocol that was asked for."""


class Diverged(UserError):
    """The loss is no longer finite."""

    exit_code = EXIT_DIVERGED


class Preempted(UserError):
    """The process was asked to stop; the state has been saved and the same command goes on from it."""

    exit_code = EXIT_PREEMPTED


def quiet_libraries() -> None:
    """Leaves warnings to this project: Orbax logs its life, and logs with tracebacks what it raises anyway.

    Pillow warns of damage and of large images, which an error tells or a lower limit refuses.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
