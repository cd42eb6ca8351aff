"""From what a user types to a provider: its name, or code in a file or on the Hugging Face kernels Hub."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_bench.case import FAMILIES
from lightning_bench.errors import UsageError
from lightning_bench.providers.built_in import BUILT_IN, built_in_provider
from lightning_bench.providers.bundled import source_digest
from lightning_bench.providers.nicknames import lacking, plain_name
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.files import canonical_file_spec, file_provider
from lightning_bench.providers.registry.hub import hub_provider
from lightning_bench.providers.registry.plugins import Plugin, load_plugin, plugins
from lightning_bench.providers.registry.probe import (
    declared_file_provider,
    declared_hub_provider,
    declared_plugin,
    forget_code,
)
from lightning_bench.providers.registry.specs import is_file_spec, is_hub_spec
from lightning_bench.words import any_of, nearest_words

_MOST_SUGGESTED = 4

_declared: dict[Plugin, Provider] = {}


def provider_names() -> list[str]:
    """Return the names of all providers: the built-in ones in their order, then those of entry points."""
    return list(dict.fromkeys([*BUILT_IN, *(plugin.name for plugin in plugins())]))


def get_provider(spec: str) -> Provider:
    """Return the provider of a name in `provider_names()`, of a file or of the Hub (`registry/specs.py`).

    An entry point that does not load gives a provider that is unavailable. Raise UsageError for an unknown
    name, for a name that two distributions claim, and for code that gives no provider.
    """
    if is_file_spec(spec):
        return file_provider(spec)
    if is_hub_spec(spec):
        return hub_provider(spec)
    plugin = _claim(spec)
    return built_in_provider(spec) if plugin is None else load_plugin(plugin)


def declared_provider(spec: str) -> Provider:
    """Return the provider of `spec` as far as planning needs it: only built-in code is run here.

    Files, kernels of the Hub and entry points are asked once, in processes of their own.
    """
    if is_file_spec(spec):
        return declared_file_provider(spec)
    if is_hub_spec(spec):
        return declared_hub_provider(spec)
    plugin = _claim(spec)
    if plugin is None:
        return built_in_provider(spec)
    if plugin not in _declared:
        _declared[plugin] = declared_plugin(plugin)
    return _declared[plugin]


def forget_declared() -> None:
    """Forget what providers have declared and the digests of kernels: a session outlives edits of both."""
    forget_code()
    _declared.clear()
    source_digest.cache_clear()


def _claim(name: str) -> Plugin | None:
    """Return the entry point of that name, None for a built-in one. Raise UsageError if it is not one."""
    claims = [plugin for plugin in plugins() if plugin.name == name]
    if clash := name_clash(name, claims):
        raise UsageError(clash)
    if not claims and name not in BUILT_IN:
        raise UsageError(_unknown(name))
    return claims[0] if claims else None


def canonical_spec(spec: str) -> str:
    """Return `spec` with an absolute path, so that a process in another folder finds the same provider."""
    return canonical_file_spec(spec) if is_file_spec(spec) else spec


def name_clash(name: str, claims: list[Plugin]) -> str | None:
    """Return which distributions claim `name`, or None if at most one does. `claims` are its entry points."""
    owners = ["lightning-bench"] if name in BUILT_IN else []
    owners += [f"{plugin.dist} ({plugin.value})" for plugin in claims]
    if len(owners) < 2:
        return None
    return f"provider name {name} is claimed by {' and '.join(owners)}; rename or uninstall all but one"


def _unknown(spec: str) -> str:
    near: Sequence[str] = nearest_words(plain_name(spec), provider_names(), most=_MOST_SUGGESTED)
    why = ""
    if found := lacking(spec):
        kernel, near = found
        why = f" and none is of {kernel}"
    hint = f" Did you mean {any_of(near)}?" if near else ""
    if spec in FAMILIES:
        hint = f" It is a family: `lbench providers --family {spec}` lists its providers."
    return (
        f"no provider is named {spec!r}{why}.{hint} `lbench providers` lists all; code of your own is "
        "path/to/file.py:NAME or hub:ORG/NAME@REVISION:FUNCTION."
    )
