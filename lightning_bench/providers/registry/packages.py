"""Installed versions, and one-line reasons for what is missing, from metadata only: nothing is imported."""

from __future__ import annotations

import re
from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING

from lightning_bench.errors import LbenchError

if TYPE_CHECKING:
    from lightning_bench.case import Device
    from lightning_bench.providers.registry.base import Provider

HARNESS = "lightning-bench"
REASON_LENGTH = 240

_EXTRA = re.compile(r"""^(?P<dist>[A-Za-z0-9._-]+).*;.*\bextra\s*==\s*['"](?P<extra>[^'"]+)['"]""")
_FOLDER = re.compile(r"(?:/[^/\s:]+)+/(?=[^/\s:]+)")


def installed_version(dist: str) -> str:
    """Return the version of distribution `dist` from its metadata, or "" if it is not installed."""
    try:
        return metadata.version(dist)
    except (metadata.PackageNotFoundError, ValueError):
        return ""


def missing_package(dist: str) -> str | None:
    """Return what to install for distribution `dist`, or None if it is installed."""
    if installed_version(dist):
        return None
    return f"{dist} is not installed; pip install {_requirement(dist)}"


def missing_device(provider: Provider, device: Device) -> str | None:
    """Return why `provider` cannot run on `device`, or None.

    It compares declarations only: the caller knows whether the machine has such a device.
    """
    if device in provider.devices:
        return None
    if provider.devices == ("cuda",):
        return "needs a CUDA device"
    if device == "cpu":
        return f"{provider.name} has no CPU kernel"
    return f"{provider.name} runs on {', '.join(provider.devices)}, not on {device}"


def load_error(exc: BaseException) -> str:
    """Return one line on why a library did not load, without the folders of the files it names."""
    text = " ".join(str(exc).split())
    if not text:
        return type(exc).__name__
    if not isinstance(exc, LbenchError):
        text = _FOLDER.sub("", text)
    if not isinstance(exc, (ImportError, OSError, LbenchError)):
        text = f"{type(exc).__name__}: {text}"
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def _requirement(dist: str) -> str:
    """Return the smallest extra of lightning-bench that has `dist`, or `dist` if none has."""
    try:
        requirements = metadata.requires(HARNESS) or []
    except metadata.PackageNotFoundError:  # a bare checkout
        requirements = []
    matches = [match for requirement in requirements if (match := _EXTRA.match(requirement))]
    extras = [match["extra"] for match in matches if _normal(match["dist"]) == _normal(dist)]
    if extras:
        sizes = Counter(match["extra"] for match in matches)
        return f'"{HARNESS}[{min(extras, key=sizes.__getitem__)}]"'
    return dist


def _normal(dist: str) -> str:
    return re.sub(r"[-_.]+", "-", dist).lower()
