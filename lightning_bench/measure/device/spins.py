"""How long the device must wait for the host before a sample of each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

_FIRST_MS = 0.3
_LONGEST_MS = 100.0
_EXPOSED = 0.0


class Spins:
    """What was learnt about calls, in ms. It ends with the call: another may get its address."""

    def __init__(self) -> None:
        self._ms: WeakKeyDictionary[Callable[[], Any], float] = WeakKeyDictionary()

    def ms(self, fn: Callable[[], Any]) -> float:
        """Return how long the device must spin before a sample; 0 if no time is enough."""
        return self._ms.get(fn, _FIRST_MS)

    def lengthen(self, fn: Callable[[], Any]) -> None:
        """Note that the time was not enough: take four times as long, or none if that would be too long."""
        longer = 4 * self.ms(fn)
        self._ms[fn] = longer if longer <= _LONGEST_MS else _EXPOSED

    def exposed(self, fn: Callable[[], Any]) -> bool:
        """Return whether no time is enough."""
        return self.ms(fn) == _EXPOSED
