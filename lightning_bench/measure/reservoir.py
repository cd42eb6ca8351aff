"""Which of many events are looked at: as few as asked for, each as likely as any other, none foreseeable."""

from __future__ import annotations

import secrets

# Taken before any provider is imported, which could replace it.
below = secrets.randbelow


class Reservoir:
    """Places for at most `most` of a number of events that is not known beforehand."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.events = 0

    def place(self) -> int | None:
        """Return where the next event is kept, in place of what was kept there; None if it is not."""
        self.events += 1
        place = below(self.events) if self.events > self._most else self.events - 1
        return place if place < self._most else None
