"""What autotuned kernels chose: only those that run, and only those that had a choice."""

from __future__ import annotations

from typing import Any

import triton

from lightning_bench.measure.autotuned import AutotuneWatch
from lightning_bench.record import AUTOTUNED

TWO = [
    triton.Config({"BLOCK": 16}, num_warps=1, num_stages=2),
    triton.Config({"BLOCK": 32}, num_warps=2, num_stages=2),
]


def kernel(x: Any) -> None:
    pass


def other_kernel(x: Any) -> None:
    pass


def kernel_without_choice(x: Any) -> None:
    pass


tuned = triton.heuristics({"EVEN": lambda _: True})(triton.autotune(TWO, key=[])(triton.jit(kernel)))
idle = triton.autotune(TWO, key=[])(triton.jit(other_kernel))
single = triton.autotune(TWO[:1], key=[])(triton.jit(kernel_without_choice))


def test_the_choice_of_the_kernels_that_ran_is_named() -> None:
    idle.best_config = TWO[0]  # from an earlier case
    watch = AutotuneWatch()
    assert watch.chosen() == ""
    tuned.fn.best_config, single.best_config = TWO[1], TWO[0]  # as a run leaves them
    assert watch.chosen() == f"{AUTOTUNED}kernel(BLOCK=32 num_warps=2 num_stages=2)"
