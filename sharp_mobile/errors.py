"""The error a user can act on."""


class SharpError(Exception):
    """A wrong input, told in one line: which file or field, what is wrong with it, and the way out.

    The command line prints it without a traceback and exits with status 1.
    """
