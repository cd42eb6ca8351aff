"""What can be measured: the registry of providers. Importing it imports no library that it measures."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from lightning_bench.case import Device
from lightning_bench.errors import UsageError
from lightning_bench.providers.registry.base import Inputs, Provider
from lightning_bench.providers.registry.files import canonical_file_spec, file_provider, is_file_spec
from lightning_bench.providers.registry.packages import load_error
from lightning_bench.providers.registry.plugins import BrokenPlugin, Plugin, load_plugin, plugins
from lightning_bench.words import nearest

__all__ = [
    "BUILT_IN",
    "Inputs",
    "Provider",
    "ProviderInfo",
    "canonical_spec",
    "describe",
    "get_provider",
    "load_error",
    "provider_names",
]

BUILT_IN: dict[str, str] = {
    "lightning2": "lightning2:Lightning2",
    "lightning2-torch": "lightning2_torch:Lightning2Torch",
    "lightning1": "lightning1:Lightning1",
    "lightning-official": "lightning_official:LightningOfficial",
    "fla-chunk": "fla:FlaChunk",
    "fla-fused-chunk": "fla:FlaFusedChunk",
    "lightning2-no-decay": "lightning2:Lightning2NoDecay",
    "lightning2-no-decay-torch": "lightning2_torch:Lightning2TorchNoDecay",
    "lightning1-no-decay": "lightning1:Lightning1NoDecay",
    "lightning-official-no-decay": "lightning_official:LightningOfficialNoDecay",
    "flash2": "flash2:Flash2",
    "flash4": "flash4:Flash4",
    "xformers": "memory_efficient:XformersCutlass",
    "xformers-auto": "memory_efficient:XformersAuto",
    "sdpa-flash": "sdpa:SdpaFlash",
    "sdpa-cudnn": "sdpa:SdpaCudnn",
    "sdpa-efficient": "sdpa:SdpaEfficient",
    "sdpa-math": "sdpa:SdpaMath",
    "flash2-full": "flash2:Flash2Full",
    "sdpa-math-full": "sdpa:SdpaMathFull",
    "lightning2-retention": "lightning2:Lightning2Retention",
    "fla-retention-parallel": "fla_systems:RetentionParallel",
    "fla-retention-recurrent": "fla_systems:RetentionRecurrent",
    "fla-retention-chunk": "fla_systems:RetentionChunk",
    "fla-retention-fused-chunk": "fla_systems:RetentionFusedChunk",
    "retention-torch": "forms.torch_forms:RetentionTorch",
    "fla-gla-recurrent": "fla_systems:GlaRecurrent",
    "fla-gla-chunk": "fla_systems:GlaChunk",
    "fla-gla-fused-chunk": "fla_systems:GlaFusedChunk",
    "gla-torch": "forms.torch_forms:GlaTorch",
    "fla-based-parallel": "fla_systems:BasedParallel",
    "fla-based-fused-chunk": "fla_systems:BasedFusedChunk",
    "based-torch": "forms.torch_forms:BasedTorch",
    "fla-rwkv6-recurrent": "fla_systems:Rwkv6Recurrent",
    "fla-rwkv6-chunk": "fla_systems:Rwkv6Chunk",
    "rwkv6-torch": "forms.torch_forms:Rwkv6Torch",
    "fla-abc-chunk": "fla_systems:AbcChunk",
    "abc-torch": "forms.torch_forms:AbcTorch",
    "fla-mamba2-chunk": "fla_systems:Mamba2Chunk",
    "mamba2-torch": "forms.torch_forms:Mamba2Torch",
    "fla-gated-delta-chunk": "fla_systems:GatedDeltaChunk",
    "gated-delta-torch": "forms.torch_forms:GatedDeltaTorch",
    "fla-kda-chunk": "fla_systems:KdaChunk",
    "kda-torch": "forms.torch_forms:KdaTorch",
    "gateloop": "gateloop:GateLoop",
    "gateloop-torch": "gateloop:GateLoopTorch",
    "gateloop-complex": "gateloop:GateLoopComplex",
    "gateloop-complex-torch": "gateloop:GateLoopComplexTorch",
    "vq-blockwise": "vq:VqBlockwise",
    "vq-sdpa": "vq:VqSdpa",
    "transnormer-layer": "transnormer:TransNormerLayer",
    "transnormer-layer-torch": "transnormer:TransNormerLayerTorch",
    "srmsnorm": "norm:Srmsnorm",
    "srmsnorm-eager": "norm:SrmsnormEager",
    "srmsnorm-compiled": "norm:SrmsnormCompiled",
    "srmsnorm-official": "norm:SrmsnormOfficial",
    "rms-norm-torch": "norm:RmsNormTorch",
}
"""Name of each provider of this package to ``module:Class``, in the order of listings: family by family."""


# torch and the bundled kernels load wherever they are installed; importing torch to see so takes seconds.
_TAKEN_AT_THEIR_WORD = frozenset({"torch", "lightning-bench"})


@dataclass(frozen=True)
class ProviderInfo:
    """One line of a listing. ``reason`` says why it is unavailable, "" where it can run.

    ``version`` is "" where the package is not installed; label, family and layout are "" for an entry
    point that does not load.
    """

    name: str
    label: str
    family: str
    layout: str
    version: str
    package: str
    reason: str
    summary: str = ""


def provider_names() -> list[str]:
    """Names of all providers: the built-in ones in their order, then those of entry points by name."""
    return list(dict.fromkeys([*BUILT_IN, *(plugin.name for plugin in plugins())]))


def get_provider(spec: str) -> Provider:
    """The provider that ``spec`` means: a name of ``provider_names()`` or ``path/to/file.py:NAME``.

    An entry point that does not load gives a provider that is unavailable. Raises UsageError for an
    unknown name, for a name that two distributions claim, and for a file that gives no provider.
    """
    if is_file_spec(spec):
        return file_provider(spec)
    others = [plugin for plugin in plugins() if plugin.name == spec]
    clash = _clash(spec, others)
    if clash:
        raise UsageError(clash)
    if spec in BUILT_IN:
        return _built_in(spec)
    if others:
        return load_plugin(others[0])
    raise UsageError(_unknown(spec))


def canonical_spec(spec: str) -> str:
    """``spec`` such that a process in another folder finds the same provider: files by absolute path."""
    return canonical_file_spec(spec) if is_file_spec(spec) else spec


def describe(device: Device, deep: bool) -> list[ProviderInfo]:
    """What each registered provider is and why it is unavailable on ``device``, or not.

    With ``deep`` the libraries of the others are imported too, to find those that are installed but do
    not load. Raises nothing: every fault is a reason.
    """
    claims: dict[str, list[Plugin]] = {}
    for plugin in plugins():
        claims.setdefault(plugin.name, []).append(plugin)
    return [_info(name, claims.get(name, []), device, deep) for name in provider_names()]


def _info(name: str, others: list[Plugin], device: Device, deep: bool) -> ProviderInfo:
    provider = _built_in(name) if name in BUILT_IN else load_plugin(others[0])
    if isinstance(provider, BrokenPlugin):
        return ProviderInfo(name, name, "", "", "", provider.package, _clash(name, others) or provider.reason)
    version = ""
    reason = _clash(name, others)
    try:
        version = provider.version()
        reason = reason or provider.unavailable(device)
        if deep and not reason and provider.package not in _TAKEN_AT_THEIR_WORD:
            provider.load()
    except Exception as error:  # a library may raise anything while it is imported
        reason = load_error(error)
    return ProviderInfo(
        name=name,
        label=provider.label,
        family=provider.family,
        layout=provider.layout,
        version=version,
        package=provider.package,
        reason=reason or "",
        summary=provider.summary,
    )


def _built_in(name: str) -> Provider:
    module, _, attribute = BUILT_IN[name].partition(":")
    provider: Provider = getattr(import_module(f"{__name__}.{module}"), attribute)()
    return provider


def _clash(name: str, others: list[Plugin]) -> str | None:
    """Who else claims ``name``, or None."""
    owners = ["lightning-bench"] if name in BUILT_IN else []
    owners += [f"{plugin.dist} ({plugin.value})" for plugin in others]
    if len(owners) < 2:
        return None
    return f"provider name {name} is claimed by {' and '.join(owners)}; rename or uninstall all but one"


def _unknown(spec: str) -> str:
    names = provider_names()
    near = nearest(spec, names)
    hint = f" Did you mean {near}?" if near else ""
    return f"no provider is named {spec!r}.{hint} There are {', '.join(names)}, or path/to/file.py:NAME."
