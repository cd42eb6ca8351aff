"""The emulated device itself: barriers, memory, arithmetic, and the mistakes that it reports."""

import random

import numpy as np
import pytest
import torch

from tests.support.gluon_emulator import ptx
from tests.support.gluon_emulator.arrays import BFLOAT16, FLOAT16, FLOAT32, INT32, INT64, Tile, rounded
from tests.support.gluon_emulator.barriers import Barrier
from tests.support.gluon_emulator.errors import DeadlockError, HazardError
from tests.support.gluon_emulator.launch import Machine
from tests.support.gluon_emulator.memory import Pointer, load, store
from tests.support.gluon_emulator.scalars import Float, Int32, Int64
from tests.support.gluon_emulator.schedule import Program
from tests.support.gluon_emulator.source import Source
from tests.support.gluon_emulator.trials import Runner, Trial


def barrier(count):
    full = Barrier("full[0]")
    full.init(count)
    return full


def test_a_phase_ends_with_the_last_arrival():
    full = barrier(2)
    assert full.passed(1)
    assert not full.passed(0)
    full.arrive(1, {"loader": 5})
    assert not full.passed(0)
    assert full.clock == {}
    full.arrive(1, {"state": 2})
    assert full.passed(0)
    assert full.clock == {"loader": 5, "state": 2}
    assert not full.passed(1)


def test_a_phase_waits_for_the_bytes_that_it_expects():
    full = barrier(1)
    full.expect(64)
    full.arrive(1, {})
    full.receive(32, {})
    assert not full.passed(0)
    full.receive(32, {})
    assert full.passed(0)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda full: full.arrive(3, {}), "takes 2 more arrivals in this phase, not 3"),
        (lambda full: full.init(2), "initialised twice"),
        (lambda full: (full.expect(8), full.arrive(2, {}), full.receive(16, {})), "8 bytes more"),
        (lambda full: Barrier("ready").arrive(1, {}), "not initialised"),
    ],
)
def test_wrong_counts_are_reported(mistake, message):
    with pytest.raises(HazardError, match=message):
        mistake(barrier(2))


def test_integers_are_those_of_c():
    assert (Int32(-7) // 2, Int32(-7) % 2, 7 // Int32(-2)) == (-3, -1, -3)
    assert type(Int32(2) * Int64(3)) is Int64
    assert type(Int32(2) * 1.5) is Float
    with pytest.raises(HazardError, match="int32 overflow"):
        Int32(2**30) * 2
    assert Int64(2**30) * 4 == 2**32
    with pytest.raises(HazardError, match="int32 overflow"):
        Tile(np.array([2**30]), INT32) * 2
    assert (Tile(np.array([2**30]), INT32) * Int64(4)).dtype is INT64
    with pytest.raises(HazardError, match="does not fit"):
        Float("nan").to(INT32)


@pytest.mark.parametrize(("dtype", "real"), [(BFLOAT16, torch.bfloat16), (FLOAT16, torch.float16)])
def test_rounding_is_that_of_torch(dtype, real):
    values = torch.randn(10000) * torch.logspace(-6, 4, 10000)
    assert np.array_equal(rounded(values.numpy(), dtype), values.to(real).float().numpy())


def test_inline_assembly():
    v, high, low = (Tile(np.array([x], np.float32), BFLOAT16) for x in (1.5, 0.25, 2.0**-12))
    text = "{.reg .b32 rest; mul.rn.bf16x2 rest, $1, $3; fma.rn.bf16x2 $0, $1, $2, rest;}"
    assert ptx.run(text, [v, high, low], BFLOAT16).data == [0.375]
    assert ptx.run(
        "ex2.approx.ftz.f32 $0, $1;", [Tile(np.array([-127.0, 3]), FLOAT32)], FLOAT32
    ).data.tolist() == [0, 8]
    with pytest.raises(NotImplementedError, match="tanh"):
        ptx.run("tanh.approx.f32 $0, $1;", [v], FLOAT32)


def addresses(tensor, output, *offsets):
    pointer = Pointer.to_tensor("x_ptr", tensor, output)
    return pointer, Pointer(pointer.region, np.array(offsets))


def test_memory_reports_what_is_outside_or_written_twice_or_never():
    x = torch.arange(12.0).reshape(3, 4)[:, 1:3]
    first, row = addresses(x, False, 1, 2)
    assert load(first) == 1
    assert load(row).data.tolist() == [1, 2]
    with pytest.raises(HazardError, match="load outside of x_ptr"):
        load(first + 2)
    with pytest.raises(HazardError, match="which is an input"):
        store(row, load(row))
    first, row = addresses(x.contiguous(), True, 0, 1)
    value = Tile(np.array([3, 4], np.float32), FLOAT32)
    store(row, value)
    with pytest.raises(HazardError, match="written twice"):
        store(row, value)
    with pytest.raises(HazardError, match="4 elements of x_ptr are never written"):
        first.region.finish()


def partitions(*functions, seed=0):
    """Run functions of (gl, tiles, barriers) as partitions; tiles and barriers are two each."""
    machine = Machine(seed)
    source = Source(machine)
    gl = source._import("triton.experimental.gluon.language", fromlist=("x",))
    machine.program = program = Program(0, 4, random.Random(seed))

    def finish(steps):
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return stop.value

    tiles = finish(gl.allocate_shared_memory(BFLOAT16, [2, 64, 64], None, name="tiles"))
    layout = gl.nvidia.hopper.mbarrier.MBarrierLayout()
    barriers = finish(gl.allocate_shared_memory(INT64, [2, 1], layout, name="barriers"))
    for i in range(2):
        gl.nvidia.hopper.mbarrier.init(barriers.index(i), 1)
    program.specialize([
        (f"part{i}", 4, function(gl, tiles, barriers)) for i, function in enumerate(functions)
    ])  # fmt: skip
    return program


def value(gl):
    return gl.full([64, 64], 1.0, BFLOAT16)


def announces(gl, tiles, barriers, fence=True):
    yield from tiles.index(0).store(value(gl))
    if fence:
        yield from gl.nvidia.hopper.fence_async_shared()
    yield from gl.nvidia.hopper.mbarrier.arrive(barriers.index(0))


def multiplies(gl, tiles, barriers, wait=True, use=True):
    hopper = gl.nvidia.hopper
    yield from hopper.mbarrier.wait(barriers.index(0), 0, pred=wait)
    product = yield from hopper.warpgroup_mma(
        value(gl), tiles.index(0), gl.zeros([64, 64], FLOAT32), is_async=True
    )
    product = yield from hopper.warpgroup_mma_wait(0, deps=[product])
    if use:
        yield from tiles.index(1).store(product.to(BFLOAT16))


@pytest.mark.parametrize("seed", range(5))
def test_a_race_is_reported_in_any_order(seed):
    partitions(announces, multiplies, seed=seed)
    with pytest.raises(HazardError, match=r"part1 reads tiles\[0\] (before|without waiting)"):
        partitions(announces, lambda *x: multiplies(*x, wait=False), seed=seed)
    with pytest.raises(HazardError, match="without a fence"):
        partitions(lambda *x: announces(*x, fence=False), multiplies, seed=seed)


def test_a_race_whose_value_is_not_used_is_none():
    for seed in range(5):
        partitions(announces, lambda *x: multiplies(*x, wait=False, use=False), seed=seed)


def test_a_write_must_know_of_the_reads_before():
    def overwrites(gl, tiles, barriers):
        yield from announces(gl, tiles, barriers)
        yield from tiles.index(0).store(value(gl))

    for seed in range(20):
        with pytest.raises(HazardError, match=r"part1 reads tiles\[0\]"):
            partitions(overwrites, multiplies, seed=seed)


def test_an_accumulator_in_flight_is_not_to_be_used():
    def hurries(gl, tiles, barriers):
        yield from announces(gl, tiles, barriers)
        acc = gl.zeros([64, 64], FLOAT32)
        product = yield from gl.nvidia.hopper.warpgroup_mma(value(gl), tiles.index(0), acc, is_async=True)
        product * 2.0

    with pytest.raises(HazardError, match="before warpgroup_mma_wait has named it"):
        partitions(hurries)


def test_a_deadlock_names_who_waits_where():
    def waits(gl, tiles, barriers):
        yield from gl.nvidia.hopper.mbarrier.wait(barriers.index(1), 0)

    with pytest.raises(DeadlockError, match=r"part0 at barriers\[1\] for parity 0"):
        partitions(waits)


def test_a_compiled_kernel_is_only_for_what_it_was_compiled_for():
    """The host keeps compiled kernels by a key, which must tell apart what the code depends on."""
    runner = Runner()
    for trial in (Trial(n=64), Trial(n=65), Trial(n=64, slopes=None), Trial(n=64, initial=True, final=True)):
        runner.run(trial, 1)
    kernel = runner.source.module("hopper.kernel").linear_attention_kernel
    (first, *_) = runner.host.compiled_kernels.values()
    arguments = [None] * len(kernel.signature.parameters)
    with pytest.raises(HazardError, match="but the kernel was compiled for"):
        first[1, 1, 1](*arguments)
