"""Providers of other distributions, by the entry-point group `lightning_bench.providers`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

from lightning_bench.case import Device
from lightning_bench.errors import Unavailable
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.checked import NotAProvider, as_provider
from lightning_bench.providers.registry.packages import load_error

GROUP = "lightning_bench.providers"


@dataclass(frozen=True)
class Plugin:
    """One entry point: the name of its provider, `module:attribute` and the distribution that declares it."""

    name: str
    value: str
    dist: str
    _entry: metadata.EntryPoint

    def load(self) -> Provider:
        """Import the provider. Raise whatever its import raises, or NotAProvider."""
        provider = as_provider(self._entry.load(), self.value)
        if provider.name != self.name:
            raise NotAProvider(f"{self.value} is named {provider.name}, its entry point {self.name}")
        return provider


class BrokenPlugin(Provider):
    """A placeholder for an entry point that does not load: always unavailable, with the reason."""

    def __init__(self, plugin: Plugin, error: BaseException) -> None:
        self.name = plugin.name  # type: ignore[misc]
        self.label = plugin.name  # type: ignore[misc]
        self.package = plugin.dist  # type: ignore[misc]
        self.family = "linear"  # type: ignore[misc]  # unknown without its class
        self.reason = f"entry point {plugin.name} of {plugin.dist} does not load: {load_error(error)}"

    def unavailable(self, device: Device) -> str:
        """Return why the entry point does not load."""
        return self.reason

    def load(self) -> None:
        """Raise Unavailable with the same reason."""
        raise Unavailable(self.reason)


def plugins() -> list[Plugin]:
    """Return every entry point of the group, by name and then distribution; imports none of them.

    A suite asks once per provider and group, and reading takes milliseconds: they are read again only if
    sys.path or a folder in it has changed, as it does when a distribution is installed.
    """
    return list(_read(tuple((path, _changed_ns(path)) for path in map(os.path.abspath, sys.path))))


def _changed_ns(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=1)
def _read(folders: tuple[tuple[str, int | None], ...]) -> tuple[Plugin, ...]:
    """Read the entry points; `folders` says when those of sys.path have changed."""
    found = [
        Plugin(entry.name, entry.value, entry.dist.name if entry.dist else "an unnamed distribution", entry)
        for entry in metadata.entry_points(group=GROUP)
    ]
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.dist)))


def load_plugin(plugin: Plugin) -> Provider:
    """Return the provider of `plugin`, or a BrokenPlugin: faults of plugins never stop a listing."""
    try:
        return plugin.load()
    except (Exception, SystemExit) as error:
        return BrokenPlugin(plugin, error)
