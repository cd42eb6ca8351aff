"""Kineto's events to kernels, operators and allocations; Triton's compiled kernels to spills."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lightning_bench.profile.capture.compiled import with_spills
from lightning_bench.profile.capture.trace import PYTHON, allocations, cpu_operators, gpu_calls
from lightning_bench.profile.data import CompiledKernel
from tests.support.patience import PATIENCE_S
from tests.support.profile_zoo import HOPPER, REDUCE, KinetoTrace, kernel


def test_kernels_of_a_call_in_order_with_what_they_take() -> None:
    trace = KinetoTrace()
    for us in (280.0, 284.0, 300.0):
        trace.call([("Memset (Device)", 4.0), (HOPPER, us), (REDUCE, 12.0)], gap_us=3.0)
    seen = gpu_calls(trace.events)
    assert [entry.name for entry in seen.kernels] == ["Memset (Device)", HOPPER, REDUCE]
    assert [entry.kind for entry in seen.kernels] == ["memset", "kernel", "kernel"]
    assert [entry.time_ms for entry in seen.kernels] == pytest.approx([0.004, 0.284, 0.012])
    assert sum(entry.share for entry in seen.kernels) == pytest.approx(1)
    assert (seen.kernels_ms, seen.between_ms) == pytest.approx((0.300, 0.006))
    assert seen.enqueue_ms == pytest.approx(0.040)
    assert (seen.calls, seen.note) == (3, "")
    main = seen.kernels[1]
    assert (main.grid, main.block, main.blocks) == ((528, 1, 1), (384, 1, 1), 528)
    assert (main.registers, main.shared_bytes, main.occupancy_percent) == (168, 215384, None)
    assert seen.kernels[0].grid is None


def test_a_call_that_launched_other_kernels_is_left_out_with_a_note() -> None:
    trace = KinetoTrace()
    trace.call([(HOPPER, 280.0)])
    trace.call([(REDUCE, 5.0), (HOPPER, 9000.0)])
    trace.call([(HOPPER, 282.0)])
    seen = gpu_calls(trace.events)
    assert [entry.time_ms for entry in seen.kernels] == pytest.approx([0.281])
    assert seen.calls == 2
    assert seen.note == "1 of 3 calls launched other kernels and are left out"


def test_a_kernel_without_a_launch_goes_by_its_own_time() -> None:
    trace = KinetoTrace()
    trace.call([(HOPPER, 280.0)])
    events = [event for event in trace.events if event.get("cat") not in ("cuda_driver", "cuda_runtime")]
    assert [entry.name for entry in gpu_calls(events).kernels] == [HOPPER]


def test_no_kernel_is_an_error() -> None:
    trace = KinetoTrace()
    trace.call([])
    with pytest.raises(ValueError, match="saw no kernel"):
        gpu_calls(trace.events)


def test_kernels_side_by_side_are_busy_once() -> None:
    trace = KinetoTrace()
    trace.call([(HOPPER, 100.0), (REDUCE, 100.0)], gap_us=-50.0)
    seen = gpu_calls(trace.events)
    assert (seen.kernels_ms, seen.between_ms) == pytest.approx((0.150, 0.0))


def test_operators_by_their_own_time() -> None:
    trace = KinetoTrace()
    for _ in range(2):
        begin = trace.now + 100
        trace.operator("aten::matmul", begin + 1, 30.0)
        trace.operator("aten::bmm", begin + 3, 20.0)
        trace.operator("aten::empty", begin + 4, 5.0)
        trace.operator("aten::empty", begin + 33, 4.0)
        trace.call([])
    found = {entry.name: entry for entry in cpu_operators(trace.events)}
    assert {name: round(entry.time_ms * 1e3, 3) for name, entry in found.items()} == {
        "aten::bmm": 15.0,
        "aten::matmul": 10.0,
        "aten::empty": 9.0,
        PYTHON: 6.0,
    }
    assert list(found) == ["aten::bmm", "aten::matmul", "aten::empty", PYTHON]
    assert found["aten::empty"].count == 2
    assert sum(entry.share for entry in found.values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="saw no call"):
        cpu_operators([])


def test_allocations_of_the_device_and_who_made_them() -> None:
    trace = KinetoTrace()
    begin = trace.now + 100
    trace.memory(begin - 5, 2**20, 1)
    trace.operator("lightning::attention", begin + 1, 30.0)
    trace.operator("aten::empty", begin + 2, 5.0)
    trace.memory(begin + 3, 2**28, 2)
    trace.memory(begin + 3.5, 64, 9, device=0)
    trace.memory(begin + 20, 512, 3)
    trace.memory(begin + 25, -512, 3)
    trace.memory(begin + 35, 1024, 3)
    trace.call([(HOPPER, 1.0)])
    found = allocations(trace.events, cuda=True)
    assert [(entry.size_bytes, entry.made_by, entry.freed) for entry in found] == [
        (2**28, "lightning::attention > aten::empty", False),
        (512, "lightning::attention", True),
        (1024, "", False),
    ]
    assert [entry.size_bytes for entry in allocations(trace.events, cuda=False)] == [64]
    assert allocations([], cuda=True) == ()


COMPILED = (
    CompiledKernel(name=HOPPER, registers=168, spills=0, shared_bytes=215384),
    CompiledKernel(name=HOPPER, registers=255, spills=12, shared_bytes=230000),
    CompiledKernel(name=HOPPER, registers=None, spills=None, shared_bytes=1),
)


@pytest.mark.parametrize(("registers", "spills"), [(168, 0), (255, 12)])
def test_spills_are_those_of_the_variant_that_ran(registers: int, spills: int) -> None:
    shared = 215384 if registers == 168 else 230000
    launched = kernel(HOPPER, 1.0, registers=registers, shared_bytes=shared)
    (launch,), notes = with_spills([launched], COMPILED)
    assert (launch.spills, notes) == (spills, ())


def test_spills_of_an_unknown_variant_are_a_note() -> None:
    twins = [*COMPILED, CompiledKernel(name=HOPPER, registers=168, spills=3, shared_bytes=215384)]
    (entry, other), notes = with_spills([kernel(HOPPER, 1.0), kernel(REDUCE, 1.0)], twins)
    assert entry.spills is None
    assert other.spills is None
    assert notes == (f"spills of {HOPPER}: 2 compiled variants look like the one launched",)


def test_compiled_kernels_are_found_whoever_holds_them() -> None:
    """A real one, for a GPU that is not here: never loaded, it has no registers and no spills yet."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_bench.measure.device.read_kernel import read_kernel
from lightning_bench.profile.capture.compiled import compiled_kernels
assert compiled_kernels() == ()
names = dict(source_ptr="*fp32", sums_ptr="*fp32", blocks="i32", turns="i32", BLOCK="constexpr")
source = ASTSource(read_kernel, names, {"BLOCK": 4096})
kept = {"somewhere": triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})}
(one,) = compiled_kernels()
assert (one.name, one.warps, one.shared_bytes) == ("read_kernel", 8, 0), one
assert (one.registers, one.spills) == (None, None), one
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
