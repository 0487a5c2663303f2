"""The one exception whose message is meant for the user."""


class ResqError(Exception):
    """Something the user can put right: the message says what, where and what to do.

    The command line prints the message alone and exits with status 1; any other
    exception is a defect of this program.
    """
