"""The implementations that can be measured. Importing this imports no library that a provider wraps."""

from __future__ import annotations

from lightning_bench.providers.built_in import BUILT_IN
from lightning_bench.providers.listing import ProviderInfo, describe
from lightning_bench.providers.lookup import (
    canonical_spec,
    declared_provider,
    forget_declared,
    get_provider,
    provider_names,
)
from lightning_bench.providers.registry.base import Inputs, Provider
from lightning_bench.providers.registry.packages import load_error

__all__ = [
    "BUILT_IN",
    "Inputs",
    "Provider",
    "ProviderInfo",
    "canonical_spec",
    "declared_provider",
    "describe",
    "forget_declared",
    "get_provider",
    "load_error",
    "provider_names",
]
