"""FLOP and byte models against counts by hand, floors, and what no device can do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from lightning_bench.case import DIRECTIONS, DTYPES, FAMILIES, Direction, Dtype, Family, Shape
from lightning_bench.families import Problem
from lightning_bench.families.work import CEILING_TOLERANCE, CPU_CEILING_TOLERANCE, Work
from lightning_bench.machine.ceilings import Ceilings
from lightning_bench.machine.mix import Mix
from lightning_bench.measure.oracle import solve

PLAIN: list[Family] = ["linear_decay", "linear", "softmax"]

# The papers' shape at n = 512: U, one tensor, is 16 MiB.
SHAPE = Shape(4, 32, 512, 128, 128, "bf16", "cuda")
U = 16 * 2**20
NARROW = Shape(2, 3, 100, 16, 8, "fp32", "cuda")
H200 = Ceilings(gbps=4000.0, tflops=700.0, l2_bytes=50 * 2**20)


@pytest.mark.parametrize(("direction", "read", "written"), [("fwd", 3, 1), ("bwd", 4, 3), ("fwd_bwd", 7, 4)])
def test_bytes_in_tensors(direction: Direction, read: int, written: int) -> None:
    assert Work.of("linear", SHAPE, direction).read_bytes == read * U
    assert Work.of("linear", SHAPE, direction).write_bytes == written * U
    assert Work.of("linear", SHAPE, direction).min_bytes == (read + written) * U


def test_bytes_where_value_dim_differs() -> None:
    qk, v = 2 * 3 * 100 * 16 * 4, 2 * 3 * 100 * 8 * 4
    assert Work.of("linear", NARROW, "fwd").read_bytes == 2 * qk + v
    assert Work.of("linear", NARROW, "fwd").write_bytes == v
    assert Work.of("linear", NARROW, "bwd").read_bytes == 2 * qk + 2 * v
    assert Work.of("linear", NARROW, "bwd").write_bytes == 2 * qk + v
    assert (
        Work.of("linear", NARROW, "fwd_bwd").min_bytes
        == Work.of("linear", NARROW, "fwd").min_bytes + Work.of("linear", NARROW, "bwd").min_bytes
    )


@pytest.mark.parametrize("family", ["linear", "linear_decay"])
def test_linear_flops_grow_with_the_length(family: Family) -> None:
    # For each token and head: k vᵀ onto the state and q times it, a multiplication and an addition each.
    fwd = 2 * 3 * 100 * (2 * 16 * 8 + 2 * 16 * 8)
    assert Work.of(family, NARROW, "fwd").min_flops == fwd
    assert Work.of(family, NARROW, "bwd").min_flops == 2.5 * fwd
    assert Work.of(family, NARROW, "fwd_bwd").min_flops == 3.5 * fwd


def test_five_products_per_token_give_all_gradients_of_linear_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, do = (torch.randn(1, 40, size, generator=generator).double() for size in (8, 8, 6, 6))
    problem = Problem(q, k, v, do, torch.tensor([0.3], dtype=torch.float64))
    exact = solve("linear_decay", problem, gradients=True)
    decay, products = math.exp(-0.3), 0

    def product(equation: str, *operands: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return torch.einsum(equation, *operands)

    got = {name: torch.empty_like(x) for name, x in (("dq", q), ("dk", k), ("dv", v))}
    state, upstream = torch.zeros(2, 8, 6).double()
    for t in range(40):
        state = decay * state + product("d,e->de", k[0, t], v[0, t])
        got["dq"][0, t] = product("e,de->d", do[0, t], state)
    for t in reversed(range(40)):
        upstream = decay * upstream + product("d,e->de", q[0, t], do[0, t])
        got["dk"][0, t] = product("e,de->d", v[0, t], upstream)
        got["dv"][0, t] = product("d,de->e", k[0, t], upstream)
    for name, x in got.items():
        torch.testing.assert_close(x, exact[name], rtol=1e-12, atol=1e-12)
    counted = Work.of("linear_decay", Shape(1, 1, 40, 8, 6, "fp32", "cpu"), "bwd").min_flops
    assert counted == products * 2 * 8 * 6


def test_softmax_flops_grow_with_its_square() -> None:
    # Two products over half of the n² pairs: 2·d for a score, 2·e for its value.
    fwd = 2 * 3 * (100 * 100 / 2) * (2 * 16 + 2 * 8)
    assert Work.of("softmax", NARROW, "fwd").min_flops == fwd
    assert Work.of("softmax", NARROW, "bwd").min_flops == 2.5 * fwd
    assert Work.of("softmax", NARROW, "fwd_bwd").min_flops == 3.5 * fwd
    # FlashAttention-2's count, 4·n²·d·heads over 2 for the causal mask.
    assert Work.of("softmax", SHAPE, "fwd").min_flops == 4 * 512**2 * 128 * 32 * 4 / 2


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_floor_is_the_longer_of_bytes_and_flops(family: Family, direction: Direction) -> None:
    ms = Work.of(family, SHAPE, direction).floor_ms(H200)
    moving = Work.of(family, SHAPE, direction).min_bytes / 4000e9 * 1e3
    computing = Work.of(family, SHAPE, direction).min_flops / 700e12 * 1e3
    assert ms == pytest.approx(max(moving, computing))
    assert Work.of(family, SHAPE, direction).bound_by(H200) == ("bytes" if moving > computing else "flops")


def test_what_bounds_grows_with_the_length_for_softmax_alone() -> None:
    # Softmax: n/4 FLOPs a byte forward, and these two ceilings meet at 175.
    bounds = {
        (family, n): Work.of(family, Shape(4, 32, n, 128, 128, "bf16", "cuda"), "fwd").bound_by(H200)
        for family in PLAIN
        for n in (512, 1024, 65536)
    }
    linear = {(family, n): "bytes" for family in ("linear", "linear_decay") for n in (512, 1024, 65536)}
    softmax = {("softmax", 512): "bytes", ("softmax", 1024): "flops", ("softmax", 65536): "flops"}
    assert bounds == {**linear, **softmax}


def test_the_published_floor() -> None:
    # 4 U at 4.3 TB/s, as the table of H200 peers has it.
    floor = Work.of("linear_decay", SHAPE, "fwd").floor_ms(Ceilings(4300.0, 700.0, 0))
    assert floor == pytest.approx(0.0156, abs=5e-5)


def edge_ms(must_move: float) -> float:
    """Return the shortest time in which that many bytes are possible."""
    return must_move / (4000e9 * CEILING_TOLERANCE) * 1e3


def test_more_bandwidth_than_a_copy_is_impossible() -> None:
    large = Shape(4, 32, 8192, 128, 128, "bf16", "cuda")
    must_move = 3 * 16 * U + (16 * U - H200.l2_bytes)
    assert Work.of("linear", large, "fwd").impossible(edge_ms(must_move) * 1.001, H200) is None
    reason = Work.of("linear", large, "fwd").impossible(edge_ms(must_move) * 0.999, H200)
    assert reason is not None
    assert reason.endswith("GB/s is above the 4000 GB/s that a copy reaches on this device")
    assert float(reason.split()[0]) == pytest.approx(4000 * CEILING_TOLERANCE, rel=0.01)


def test_the_tolerance_is_a_few_per_cent_of_the_bandwidth() -> None:
    """In figures: a tolerance that is widened by mistake fails here."""
    large = Shape(4, 32, 8192, 128, 128, "bf16", "cuda")
    work = Work.of("linear", large, "fwd")

    def reached(gbps: float) -> float:
        return (work.min_bytes - H200.l2_bytes) / gbps / 1e6

    assert work.impossible(reached(4000 * 1.14), H200) is None
    assert work.impossible(reached(4000 * 1.16), H200) is not None
    mixed = replace(H200, mix=work.mix)
    assert work.impossible(reached(4000 * 1.04), mixed) is None
    reason = work.impossible(reached(4000 * 1.06), mixed)
    assert (
        reason
        == "4240 GB/s is above the 4000 GB/s that a stream of 3:1 reads and writes reaches on this device"
    )
    softmax = Work.of("softmax", large, "fwd")
    for ceilings in (H200, mixed):
        assert softmax.impossible(softmax.min_flops / (700 * 1.14) / 1e9, ceilings) is None
        assert softmax.impossible(softmax.min_flops / (700 * 1.16) / 1e9, ceilings) is not None


@pytest.mark.parametrize(
    ("family", "direction", "mix"),
    [
        ("linear_decay", "fwd", "3:1"),
        ("linear_decay", "bwd", "4:3"),
        ("linear_decay", "fwd_bwd", "7:4"),
        ("softmax", "fwd", "3:1"),
        ("softmax", "bwd", "4:3"),
        ("norm", "fwd", "1:1"),
        ("norm", "bwd", "2:1"),
        ("gateloop", "fwd", "4:1"),
    ],
)
def test_the_mix_is_that_of_the_arrays(family: Family, direction: Direction, mix: str) -> None:
    assert str(Work.of(family, SHAPE, direction).mix) == mix


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_mix_of_few_arrays_is_near_to_the_traffic(read: int, written: int) -> None:
    assume(read + written)
    mix = Mix.nearest(read, written)
    arrays = mix.reads + mix.writes
    assert 1 <= arrays <= 12
    assert math.gcd(mix.reads, mix.writes) == 1
    assert mix.reads / arrays == pytest.approx(read / (read + written), abs=1 / 24)
    assert Mix.nearest(mix.reads, mix.writes) == mix


def test_writes_that_fit_in_the_l2_need_not_have_left() -> None:
    # The output of 16 MiB fits in 50: only the reads are counted, and never less than they.
    assert Work.of("linear", SHAPE, "fwd").impossible(edge_ms(3 * U) * 1.001, H200) is None
    assert Work.of("linear", SHAPE, "fwd").impossible(edge_ms(3 * U) * 0.999, H200) is not None
    without = Ceilings(4000.0, 700.0, 0)
    assert Work.of("linear", SHAPE, "fwd").impossible(edge_ms(3 * U) * 1.001, without) is not None
    assert Work.of("linear", SHAPE, "fwd").impossible(edge_ms(4 * U) * 1.001, without) is None


def test_more_arithmetic_than_a_matmul_is_impossible() -> None:
    large = Shape(1, 16, 65536, 128, 128, "bf16", "cuda")
    edge = Work.of("softmax", large, "fwd").min_flops / (700e12 * CEILING_TOLERANCE) * 1e3
    assert Work.of("softmax", large, "fwd").impossible(edge * 1.001, H200) is None
    reason = Work.of("softmax", large, "fwd").impossible(edge * 0.999, H200)
    assert reason is not None
    assert reason.endswith("TFLOP/s is above the 700 that a matmul reaches on this device")
    assert Work.of("linear", large, "fwd").impossible(edge * 0.999, H200) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_cpu_only_flops_are_called_impossible(family: Family) -> None:
    # Its caches hold whole inputs; matmuls in 16 bits may be slower than what a kernel does in fp32.
    here = Shape(4, 32, 512, 128, 128, "fp32", "cpu")
    work = Work.of(family, here, "fwd")
    edge = work.min_flops / (0.05e12 * CPU_CEILING_TOLERANCE) * 1e3
    slow = Ceilings(1e-6, 0.05, 0)
    assert work.impossible(edge * 1.001, slow) is None
    reason = work.impossible(edge * 0.999, slow)
    assert reason == "0.0751 TFLOP/s is above the 0.05 that a matmul reaches on this device"
    halved = Shape(4, 32, 512, 128, 128, "bf16", "cpu")
    assert Work.of(family, halved, "fwd").impossible(1e-9, slow) is None


def test_what_a_case_must_hold() -> None:
    assert Work.of("linear", SHAPE, "fwd").plan_bytes == 4 * U
    # Inputs, output, do and three gradients.
    assert (
        Work.of("linear", SHAPE, "bwd").plan_bytes == Work.of("linear", SHAPE, "fwd_bwd").plan_bytes == 8 * U
    )
    qk, v = 2 * 3 * 100 * 16 * 4, 2 * 3 * 100 * 8 * 4
    assert Work.of("linear", NARROW, "bwd").plan_bytes == 4 * qk + 4 * v


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_have_the_size_of_their_dtype(dtype: Dtype) -> None:
    one = Shape(1, 1, 1, 1, 1, dtype, "cuda")
    assert Work.of("linear", one, "fwd").min_bytes == 4 * (4 if dtype == "fp32" else 2)
