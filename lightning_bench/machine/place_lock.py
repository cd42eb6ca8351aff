"""Who has a GPU: a lock that ends with its process, however that ends, and that tells the holder's id.

The lock is a socket in Linux's abstract namespace, bound under the name of the device. It leaves no file
behind and works between users. Containers with a network of their own do not see each other's.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import psutil

from lightning_bench.errors import UsageError
from lightning_bench.words import brief

_NAMESPACE = "lightning-bench"
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group
_MOST_ASKED = 4096  # so many may ask for the holder before it goes


@contextmanager
def hold(devices: Mapping[str, str]) -> Iterator[None]:
    """Hold devices, each with a name for people, for the time of the block.

    Raise UsageError if another process, or another block of this one, holds one of them.
    """
    with ExitStack() as stack:
        for device, name in devices.items():
            lock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            try:
                lock.bind(_address(device))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise UsageError(
                        f"cannot lock {name}: {error.strerror}; leave --gpus out to measure on one device"
                    ) from error
                raise UsageError(
                    f"{name} is in use by {_in_words(holder(device))}, which measures on it: wait for it, or "
                    "name others by --gpus (`lbench gpus` lists GPUs and who uses them)"
                ) from None
            lock.listen(_MOST_ASKED)
        yield


def holder(device: str) -> int | None:
    """Return the id of the process that holds a device, 0 if that is not told, None if there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(_address(device))
        except BlockingIOError:  # too many have asked
            return 0
        except OSError:
            return None
        found = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(found)[0])


def _in_words(pid: int | None) -> str:
    if not pid:
        return "another lbench"
    with contextlib.suppress(psutil.Error):
        return f"pid {pid} ({brief(' '.join(psutil.Process(pid).cmdline()))})"
    return f"pid {pid}"


def _address(device: str) -> str:
    return f"\0{_NAMESPACE} {device}"
