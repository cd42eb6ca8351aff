"""Which host and which GPU: twelve hex digits each, since a serial number says more than a figure needs.

With LBENCH_IDENTITY=plain they are written as they are.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from lightning_bench.errors import UsageError

_VARIABLE = "LBENCH_IDENTITY"
_DIGITS = 12


def identity(text: str) -> str:
    """Return the digits of what identifies a device, or the text itself if LBENCH_IDENTITY asks for it.

    Raises UsageError if that variable is neither `plain` nor `hashed`.
    """
    wanted = os.environ.get(_VARIABLE, "").strip() or "hashed"
    if wanted not in ("hashed", "plain"):
        raise UsageError(f"{_VARIABLE}={wanted!r} is not known; allowed: hashed (the default), plain")
    return text if wanted == "plain" or not text else digits(text)


def host_identity(machine_id: Path = Path("/etc/machine-id")) -> str:
    """Return the identity of this host: its name, with the id of its system where that is kept.

    A container has a name and often no such id, so a new container may be a new host.
    """
    try:
        system = machine_id.read_text(errors="replace").strip()
    except OSError:
        system = ""
    return identity("/".join(filter(None, [platform.node(), system])))


def digits(text: str) -> str:
    """Return twelve hex digits for a text: the first of its SHA-256 digest that do not read as a number.

    A spreadsheet or pandas would mangle a number (about one digest in a hundred).
    """
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    windows = (digest[start : start + _DIGITS] for start in range(len(digest) - _DIGITS + 1))
    return next((window for window in windows if set(window) & set("abcdf")), digest[:_DIGITS])
