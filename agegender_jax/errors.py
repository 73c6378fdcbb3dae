"""The one exception that ends a command with a sentence instead of a traceback."""


class UserError(Exception):
    """Something that the person at the terminal can mend.

    The message is one clear sentence: what is wrong, where, and what to do. `launch.py` and the
    `agegender` command print it and exit with status 2; a traceback is left to genuine defects.
    """
