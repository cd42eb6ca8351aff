"""Errors that a user can act on: one sentence on what is wrong and one on what to do."""


class LbenchError(Exception):
    """An error whose message is for the user; the command line prints it without a traceback.

    ``exit_code`` is what the process ends with: 2 for bad usage, 1 for a failure while running.
    """

    exit_code = 1


class UsageError(LbenchError):
    """The call, the suite or the provider specification is wrong; nothing has run."""

    exit_code = 2


class Unavailable(LbenchError):  # noqa: N818 - a state of the machine, named as the row's status is
    """A provider cannot run on this machine; the message is the reason that its row gives."""
