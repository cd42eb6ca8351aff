"""Errors that a user can act on, and the exit codes of `lbench`: one code per meaning."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What `lbench` ends with; docs/ci.md has the table."""

    OK = 0
    FOUND = 1
    USAGE = 2
    UNDECIDED = 3
    DIED = 4
    INTERRUPTED = 130
    UNREAD = 141
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """The meaning in one line, as the table of docs/ci.md has it."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done: every case has a row and none failed; `compare`: decided, and nothing is worse",
    ExitCode.FOUND: "done, and found: a case crashed, timed out or was wrong; `compare`: something is worse; "
    "`verify --at-least`: fewer times hold",
    ExitCode.USAGE: "the call, a suite, a provider or a file that it names is wrong; nothing was measured",
    ExitCode.UNDECIDED: "`compare`: nothing is decided, or cells that both sides have cannot be compared",
    ExitCode.DIED: "not done: no worker starts; a file or output cannot be written; a file changed; a bug",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; the rows until then are kept",
    ExitCode.UNREAD: "the reader of the output closed it, as `head` does; the rows until then are kept",
    ExitCode.TERMINATED: "terminated, as a cancelled job is; the rows until then are kept",
}


class LbenchError(Exception):
    """An error whose message is for the user; the command line prints it without a traceback.

    Its message is one sentence on what is wrong and one on what to do; `exit_code` is what the process ends
    with.
    """

    exit_code = ExitCode.DIED


class UsageError(LbenchError):
    """The call, the suite or the provider specification is wrong; nothing has run."""

    exit_code = ExitCode.USAGE


class Unavailable(LbenchError):  # noqa: N818 - a state of the machine, named as the row's status is
    """A provider cannot run on this machine; the message is the reason that its row gives."""
