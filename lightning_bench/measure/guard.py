"""The guard: clocks and judge are as they were before any provider was imported.

`GUARD` is of this process: a session, or a rank besides the first, has it keep what is there before the
first provider is loaded.
"""

from __future__ import annotations

import inspect
import math
import pkgutil
import re
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_bench import families
from lightning_bench.measure.interposed import Interposed

# What the harness, or whoever reads a clock for it, calls by these names.
_CLOCKS = (
    "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "time", "time_ns",
    "sleep",
)  # fmt: skip
_TORCH = (
    "arange", "cat", "empty", "equal", "exp", "full", "isfinite", "maximum", "nan_to_num", "no_grad", "ones",
    "ones_like", "randn", "rand", "stack", "unravel_index", "where", "zeros", "Generator", "set_num_threads",
)  # fmt: skip
_NUMPY = ("arange", "mean", "median", "percentile", "searchsorted")
_MATH = ("fsum", "isclose", "isinf", "isnan", "log", "prod", "sqrt")
_CUDA = ("synchronize", "Event", "Stream", "current_stream", "empty_cache", "memory_allocated")
_EVENT = ("record", "synchronize", "elapsed_time", "query")
_OWN = "lightning_bench."
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")
_VALUES = (int, float, str, tuple, frozenset, dict)
_Cached = type(cache(lambda: None))
_TENSOR_BASE = frozenset(dir(torch.Tensor.__base__))
# Providers keep what they import in their modules.
_NOT_WATCHED = "lightning_bench.providers"


class _Kept(NamedTuple):
    """A value, where it is kept, and what it must still hold: the code of a function, the items of a dict."""

    owner: Any
    there: Mapping[str, object]
    shown: str
    name: str
    value: Any
    code: CodeType | None
    items: dict[Any, Any] | None


class Guard:
    """Keeps functions of clocks, of torch and of numpy, and functions and constants of this package, by name.

    What is called in front of a function counts as well (`Interposed`).
    """

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._interposed = Interposed()
        self._tensor_names = frozenset(vars(torch.Tensor))

    def keep(self) -> None:
        """Take what is there now for what must stay."""
        self._kept.clear()
        for oracle in pkgutil.iter_modules(families.__path__):  # else they load on their first use
            import_module(f"{families.__name__}.{oracle.name}")
        for owner, shown, names in (
            (time, "time", _CLOCKS),
            (torch, "torch", _TORCH),
            (torch.cuda, "torch.cuda", _CUDA),
            (torch.cuda.Event, "torch.cuda.Event", _EVENT),
            (torch.autograd, "torch.autograd", ("grad", "backward")),
            (torch.nn.functional, "torch.nn.functional", ("pad", "avg_pool1d")),
            (secrets, "secrets", ("SystemRandom", "randbelow", "randbits")),
            (np, "numpy", _NUMPY),
            (math, "math", _MATH),
            (statistics, "statistics", ("median",)),
        ):
            for name in names:
                self._keep(owner, shown, name, getattr(owner, name))
        for own, module in list(sys.modules.items()):
            if own.startswith(_OWN) and not own.startswith(_NOT_WATCHED):
                for owner, shown, name, value in _own(module):
                    self._keep(owner, shown, name, value)
        for name, value in list(vars(torch.Tensor).items()):
            if isinstance(value, FunctionType):
                self._keep(torch.Tensor, "torch.Tensor", name, value)
        self._tensor_names = frozenset(vars(torch.Tensor))
        self._interposed = Interposed()

    def _keep(self, owner: Any, shown: str, name: str, value: Any) -> None:
        holds = value.__code__ if isinstance(value, FunctionType) else None
        items = dict(value) if isinstance(value, dict) else None
        self._kept.append(_Kept(owner, vars(owner), f"{shown}.{name}", name, value, holds, items))

    def replaced(self) -> str | None:
        """Put back what has been replaced since. Return a sentence that names it, or None."""
        found = self._interposed.put_back()
        for owner, there, shown, name, value, code, items in self._kept:  # thousands, after every turn
            same = there.get(name, value) is value  # else: inherited
            if same and (code is None or value.__code__ is code) and (items is None or value == items):
                continue
            if not same:
                setattr(owner, name, value)
            if code is not None:
                value.__code__ = code
            if items is not None:
                value.clear()
                value.update(items)
            found.append(shown)
        # A method of the class Tensor hides that of its base, which no Python code can replace.
        for name in vars(torch.Tensor).keys() - self._tensor_names:
            if name in _TENSOR_BASE:
                delattr(torch.Tensor, name)
                found.append(f"torch.Tensor.{name}")
        return f"it replaces {', '.join(found)}" if found else None


def witness() -> Callable[[], str | None]:
    """Return what does as `GUARD.replaced`, with a list and code of its own that no name leads to.

    It is for a worker to call when a case has ended: a provider may have emptied or replaced `GUARD`.
    """
    guard = Guard()
    guard.keep()
    replaced = FunctionType(Guard.replaced.__code__, Guard.replaced.__globals__)
    return lambda: replaced(guard)


def _own(module: ModuleType) -> Iterator[tuple[Any, str, str, Any]]:
    """Yield (owner, its name, name, value) of the functions, methods and constants of a module."""
    for name, value in list(vars(module).items()):
        function = isinstance(value, (FunctionType, _Cached)) or inspect.isbuiltin(value)
        if function or (_CONSTANT.fullmatch(name) and isinstance(value, _VALUES)):
            yield module, module.__name__, name, value
        elif inspect.isclass(value):
            yield module, module.__name__, name, value
            if value.__module__ == module.__name__:
                for method, function in list(vars(value).items()):
                    if isinstance(function, FunctionType):
                        yield value, f"{module.__name__}.{name}", method, function


GUARD = Guard()
