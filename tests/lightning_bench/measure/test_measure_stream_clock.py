"""The clock between two places of a stream: from stamps to MHz, and what its kernel compiles to."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.measure.device.stream_clock import NoStreamClock, make_stream_clock, mean_mhz
from tests.support.patience import PATIENCE_S


def stamps(*per_sm: tuple[tuple[int, int], tuple[int, int]]) -> torch.Tensor:
    """Return ((cycles, ns) before, (cycles, ns) after) of each multiprocessor as [2, SMs, 2]."""
    return torch.tensor(per_sm, dtype=torch.int64).transpose(0, 1)


@given(
    st.integers(200, 3000),
    st.integers(1_000, 10**9),
    st.lists(st.integers(1, 2**62), min_size=1, max_size=8),
    st.integers(1, 2**61),
)
def test_cycles_over_time_whatever_the_counters_were(
    mhz: int, us: int, counters: list[int], now_ns: int
) -> None:
    each = [((begin, now_ns), (begin + mhz * us, now_ns + 1000 * us)) for begin in counters]
    assert mean_mhz(stamps(*each)) == pytest.approx(mhz, rel=1e-9)


def test_only_what_ran_both_kernels_counts() -> None:
    ran = ((10_000, 5_000), (29_800, 15_000))
    unseen, late, early = ((0, 0), (0, 0)), ((0, 0), (400, 15_000)), ((400, 5_000), (0, 0))
    assert mean_mhz(stamps(unseen, ran, late, early)) == pytest.approx(1980.0)
    assert mean_mhz(stamps(unseen, late, early)) is None
    assert mean_mhz(stamps(((10, 5_000), (400, 5_000)))) is None  # the clock has not moved


def test_without_a_gpu_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu() -> None:
        raise RuntimeError("no GPU")

    monkeypatch.setattr("lightning_bench.measure.device.stream_clock.cuda_gpu", no_gpu)
    clock = make_stream_clock()
    assert isinstance(clock, NoStreamClock)
    clock.begin()
    clock.end()
    assert clock.read() is None


@pytest.mark.slow
def test_its_kernel_reads_three_registers_and_stores_one_pair() -> None:
    """As compiled for a Hopper GPU: the two counters are read one right after the other."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_bench.measure.device.stamp_kernel import stamp_kernel
names = {"stamps_ptr": "*i64", "slots": "i32"}
source = ASTSource(stamp_kernel, names, {}, {(0,): [["tt.divisibility", 16]]})
print(triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}).asm["ptx"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"mov\.u\d\d %\w+, %(smid|clock64|globaltimer);", done.stdout) == [
        "smid",
        "clock64",
        "globaltimer",
    ]
    assert len(re.findall(r"st\.global", done.stdout)) == 2
    assert "ld.global" not in done.stdout
    assert ".reqntid 32" in done.stdout
