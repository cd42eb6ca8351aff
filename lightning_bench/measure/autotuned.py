"""Triton kernels that choose their configuration by timing themselves: what they chose, for the row."""

from __future__ import annotations

import sys
from typing import Any

from lightning_bench.record import AUTOTUNED, TUNED_BEFORE

_RUNTIME = "triton.runtime.autotuner"


class AutotuneWatch:
    """Sees which autotuned kernels of the loaded modules run from here on, and what they chose."""

    def __init__(self) -> None:
        for tuner in _tuners():
            tuner.best_config = None  # each run sets it again

    def chosen(self) -> str:
        """Return the configurations of those that had a choice, as `provider_config` has them, or ""."""
        found: dict[str, dict[str, str]] = {AUTOTUNED: {}, TUNED_BEFORE: {}}
        for tuner in _tuners():
            if len(tuner.configs) > 1 and getattr(tuner, "best_config", None) is not None:
                prefix = AUTOTUNED if _tuned_here(tuner) else TUNED_BEFORE
                found[prefix][tuner.base_fn.__name__] = _config(tuner.best_config)
        return " ".join(
            prefix + ", ".join(f"{name}({configs[name]})" for name in sorted(configs))
            for prefix, configs in found.items()
            if configs
        )


def _tuners() -> list[Any]:
    """Return the autotuners that are attributes of loaded modules, also behind other decorators."""
    runtime = sys.modules.get(_RUNTIME)
    if runtime is None:
        return []
    tuner, wrapper = runtime.Autotuner, runtime.Heuristics
    found: dict[int, Any] = {}
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            while type(value) is wrapper:
                value = value.fn
            if issubclass(type(value), tuner):  # isinstance would ask objects that compute their class
                found[id(value)] = value
    return list(found.values())


def _tuned_here(tuner: Any) -> bool:
    """Return whether it has timed its configurations in this process."""
    return getattr(tuner, "bench_time", None) is not None


def _config(config: Any) -> str:
    """Return a triton.Config in one line."""
    given = {**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages}
    return " ".join(f"{name}={value}" for name, value in given.items())
