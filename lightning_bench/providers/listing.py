"""The list of all providers with the reason why each is unavailable here, for `lbench providers`."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_bench.case import Device, Family
from lightning_bench.providers.built_in import BUILT_IN, built_in_provider
from lightning_bench.providers.lookup import name_clash, provider_names
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.packages import HARNESS, load_error
from lightning_bench.providers.registry.plugins import Plugin, plugins
from lightning_bench.providers.registry.probe import DeclaredProvider, declared_plugin

# torch and the bundled kernels load wherever they are installed; importing torch to confirm it takes seconds.
_NOT_LOADED = frozenset({"torch", HARNESS})


@dataclass(frozen=True)
class ProviderInfo:
    """One line of a listing. `reason` says why the provider is unavailable; it is "" if it can run.

    `version` is "" if the package is not installed. Label, family and layout are "", `packs`,
    `grouped_heads` and `on_ranks` None for an entry point that does not load.
    """

    name: str
    label: str
    family: str
    layout: str
    version: str
    package: str
    reason: str
    summary: str = ""
    packs: bool | None = None
    grouped_heads: bool | None = None
    on_ranks: bool | None = None

    @property
    def axes(self) -> str:
        """The axes of a suite that it takes and not every provider does."""
        taken = {"packing": self.packs, "ranks": self.on_ranks, "kv_heads": self.grouped_heads}
        return ", ".join(name for name, takes in taken.items() if takes)


def describe(device: Device, deep: bool, family: Family | None = None) -> list[ProviderInfo]:
    """Return what each registered provider is, and why it is unavailable on `device` if it is.

    With `family`, only its providers are asked. With `deep` the libraries of the available providers are
    imported too, to find those that are installed but do not load. Nothing is raised: every fault becomes a
    reason. Entry points are asked in processes of their own.
    """
    claims: dict[str, list[Plugin]] = {}
    for plugin in plugins():
        claims.setdefault(plugin.name, []).append(plugin)
    infos = []
    for name in provider_names():
        claimed = claims.get(name, [])
        provider = _declared(name, claimed, deep, family)
        known = not isinstance(provider, DeclaredProvider) or provider.is_loaded
        if family is None or (known and provider.family == family):
            infos.append(_info(name, provider, known, name_clash(name, claimed), device, deep))
    return infos


def _declared(name: str, claims: list[Plugin], deep: bool, family: Family | None) -> Provider:
    return (
        built_in_provider(name) if name in BUILT_IN else declared_plugin(claims[0], load=deep, family=family)
    )


def _info(
    name: str, provider: Provider, known: bool, reason: str | None, device: Device, deep: bool
) -> ProviderInfo:
    version = ""
    try:
        version = provider.version()
        reason = reason or provider.unavailable(device)
        if deep and not reason and provider.package not in _NOT_LOADED:
            provider.load()
    except Exception as error:  # a library may raise anything while it is imported
        reason = load_error(error)
    return ProviderInfo(
        name=name,
        label=provider.label,
        family=provider.family if known else "",
        layout=provider.layout if known else "",
        version=version if known else "",
        package=provider.package,
        reason=reason or "",
        summary=provider.summary,
        packs=bool(provider.packs) if known else None,
        grouped_heads=bool(provider.grouped_heads) if known else None,
        on_ranks=bool(provider.on_ranks) if known else None,
    )
