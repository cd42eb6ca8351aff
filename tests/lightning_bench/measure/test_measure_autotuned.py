"""What autotuned kernels chose, in this process or before: only those that run and have a choice."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from lightning_bench.measure.autotuned import AutotuneWatch
from lightning_bench.record import AUTOTUNED, TUNED_BEFORE

TWO = [
    triton.Config({"BLOCK": 16}, num_warps=1, num_stages=2),
    triton.Config({"BLOCK": 32}, num_warps=2, num_stages=2),
]
CHOSEN = "(BLOCK=32 num_warps=2 num_stages=2)"


def kernel(x: Any, BLOCK: tl.constexpr) -> None:
    tl.store(x + tl.arange(0, BLOCK), 1.0)


def kept_kernel(x: Any, BLOCK: tl.constexpr) -> None:
    tl.store(x + tl.arange(0, BLOCK), 1.0)


def idle_kernel(x: Any, BLOCK: tl.constexpr) -> None:
    pass


def kernel_without_choice(x: Any, BLOCK: tl.constexpr) -> None:
    pass


def second_is_fastest(call: Any, quantiles: Any) -> list[float]:
    """Time a configuration, as a benchmarker of Triton does: each is faster than the one before."""
    call()
    timed.append(1.0 / (1 + len(timed)))
    return timed[-1:] * 3


def autotuned(function: Any, configs: list[triton.Config]) -> Any:
    return triton.autotune(configs, key=[], do_bench=second_is_fastest)(InterpretedFunction(function))


timed: list[float] = []
tuned = triton.heuristics({"EVEN": lambda _: True})(autotuned(kernel, TWO))
kept, idle = autotuned(kept_kernel, TWO), autotuned(idle_kernel, TWO)
single = autotuned(kernel_without_choice, TWO[:1])


def test_the_choice_of_the_kernels_that_ran_is_named() -> None:
    x = torch.zeros(64)
    idle.best_config = TWO[0]  # from an earlier case
    watch = AutotuneWatch()
    assert watch.chosen() == ""
    tuned.fn[(1,)](x)
    single[(1,)](x)
    assert len(timed) == 2
    assert watch.chosen() == f"{AUTOTUNED}kernel{CHOSEN}"
    kept.cache = dict.fromkeys(tuned.fn.cache, TWO[1])  # as reading it from the disk leaves it
    kept[(1,)](x)
    assert len(timed) == 2
    assert watch.chosen() == f"{AUTOTUNED}kernel{CHOSEN} {TUNED_BEFORE}kept_kernel{CHOSEN}"
    again = AutotuneWatch()
    kept[(1,)](x)
    assert again.chosen() == f"{TUNED_BEFORE}kept_kernel{CHOSEN}"
