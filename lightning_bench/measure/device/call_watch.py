"""Call watch: what is done before and after every timed call, outside of what is timed."""

from __future__ import annotations

from typing import Any, Protocol


class CallWatch(Protocol):
    """Is told of the turns of a task and of its calls, and may say why the task must end."""

    failure: str | None

    def begins(self, *, certain: bool = False) -> None:
        """Prepare a turn; if `certain`, its first call is looked at whatever that costs."""

    def before(self) -> None:
        """Prepare a call; on a GPU, what is enqueued here runs before the first event."""

    def after(self, result: Any) -> None:
        """Look at what a call returned; on a GPU, what is enqueued here runs right after the second event."""

    def drained(self, ms: float) -> None:
        """Note for how long a GPU was busy after the last of its calls had ended."""

    def ends(self) -> None:
        """End a turn."""


class NoCallWatch:
    """Looks at nothing."""

    failure: str | None = None

    def begins(self, *, certain: bool = False) -> None:
        """Do nothing."""

    def before(self) -> None:
        """Do nothing."""

    def after(self, result: Any) -> None:
        """Do nothing."""

    def drained(self, ms: float) -> None:
        """Do nothing."""

    def ends(self) -> None:
        """Do nothing."""
