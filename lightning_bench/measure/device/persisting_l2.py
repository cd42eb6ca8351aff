"""The part of a GPU's L2 that is set aside for persisting lines: what lies there outlasts a flush.

Only the driver's library knows it, which torch has loaded and does not wrap.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

# CUresult and CUlimit of cuda.h.
_SUCCESS, _UNSUPPORTED_LIMIT, _NOT_SUPPORTED = 0, 215, 801
_SET_ASIDE = 0x06


class PersistingL2:
    """Asks the driver for the current context. `driver` is its library, or None where there is none."""

    def __init__(self, driver: Any | None) -> None:
        self._driver = driver

    def reset(self) -> None:
        """Make all persisting lines normal ones, which the next flush overwrites.

        Raise RuntimeError if the driver reports an error; a GPU without such lines has nothing to reset.
        """
        if self._driver is not None and not self._done("cuCtxResetPersistingL2Cache"):
            self._driver = None

    @property
    def set_aside(self) -> int | None:
        """Bytes that are set aside, or None if this GPU cannot."""
        size = ctypes.c_size_t()
        if self._driver is None or not self._done("cuCtxGetLimit", ctypes.byref(size), _SET_ASIDE):
            return None
        return size.value

    @set_aside.setter
    def set_aside(self, size: int) -> None:
        if self._driver is not None:
            self._done("cuCtxSetLimit", _SET_ASIDE, ctypes.c_size_t(size))

    def _done(self, name: str, *arguments: Any) -> bool:
        """Call a function of the driver. Return False if this GPU does not support it."""
        result = int(getattr(self._driver, name)(*arguments))
        if result in (_UNSUPPORTED_LIMIT, _NOT_SUPPORTED):
            return False
        if result != _SUCCESS:
            raise RuntimeError(f"{name} of the CUDA driver failed with CUresult {result}")
        return True


def loaded_driver() -> Any | None:
    """Return the driver's library that this process has loaded already, or None."""
    try:
        return ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except (OSError, AttributeError):  # no NVIDIA GPU is in use, or this is not Linux
        return None
