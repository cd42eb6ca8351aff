"""lightning-bench: how fast an attention kernel is and how much memory it takes, trustworthily.

    import lightning_bench as lb

    result = lb.speed(attn, family="softmax", against="flash2", seq_len=[1024, 4096])

docs/python.md describes the functions. They are imported when they are first used, so that
`import lightning_bench` and `lbench --help` stay fast.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_bench.api.comparing import ComparedResults, compare
    from lightning_bench.api.measurement import Measurement
    from lightning_bench.api.measuring import check, memory, speed
    from lightning_bench.api.reading import load, samples
    from lightning_bench.errors import LbenchError, UsageError

__all__ = [
    "ComparedResults",
    "LbenchError",
    "Measurement",
    "UsageError",
    "__version__",
    "check",
    "compare",
    "load",
    "memory",
    "samples",
    "speed",
]

_PLACES = {
    "ComparedResults": "api.comparing",
    "LbenchError": "errors",
    "Measurement": "api.measurement",
    "UsageError": "errors",
    "check": "api.measuring",
    "compare": "api.comparing",
    "load": "api.reading",
    "memory": "api.measuring",
    "samples": "api.reading",
    "speed": "api.measuring",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
