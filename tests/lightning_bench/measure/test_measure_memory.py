"""Memory on a CPU for real: peaks of known allocations, and a call that saves known tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_bench.case import Direction, Shape
from lightning_bench.measure.device.memory import MIB, CpuMeter, make_meter
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.memory_row import CallMemory, call_memory
from lightning_bench.providers.registry.base import Inputs, Provider

SHAPE = Shape(1, 2, 1024, 64, 32, "fp32", "cpu")
Q = 1 * 2 * 1024 * 64 * 4 / MIB  # MiB of q, and of k
V = Q / 2
SLOPES = 2 * 4 / MIB
ELEMENTS = 2**18


def block(count: int = 1) -> Tensor:
    """`count` MiB."""
    return torch.empty(count * ELEMENTS, dtype=torch.float32)


@pytest.fixture
def meter() -> CpuMeter:
    meter = make_meter("cpu")
    assert isinstance(meter, CpuMeter)
    return meter


def test_two_temporaries_at_the_same_time_add_up(meter: CpuMeter) -> None:
    def fn() -> None:
        first, second = block(3), block(2)
        del first, second

    _, peak = meter.measure(fn)
    assert (peak.before, peak.peak, peak.held, peak.reserved) == (0, 5 * 2**20, 0, None)


def test_one_is_freed_before_the_next(meter: CpuMeter) -> None:
    def fn() -> Tensor:
        first = block(3)
        del first
        second = block(4)
        del second
        return block(1)

    result, peak = meter.measure(fn)
    assert result.numel() == ELEMENTS
    assert (peak.peak, peak.held) == (4 * 2**20, 2**20)


def test_memory_of_an_earlier_call_that_a_call_frees_counts_negative(meter: CpuMeter) -> None:
    before: list[Tensor] = []
    meter.measure(lambda: before.append(block(2)))

    def fn() -> Tensor:
        before.clear()
        return block(1)

    _, peak = meter.measure(fn)
    assert (peak.peak, peak.held) == (0, -(2**20))


def test_a_call_that_allocates_nothing(meter: CpuMeter) -> None:
    x = block(1)
    result, peak = meter.measure(lambda: x.view(2, -1))
    assert result.data_ptr() == x.data_ptr()
    assert (peak.peak, peak.held) == (0, 0)


def test_measuring_again_gives_the_same(meter: CpuMeter) -> None:
    peaks = [meter.measure(lambda: block(2).clone())[1] for _ in range(3)]
    assert peaks[0].peak == 4 * 2**20
    assert peaks[0].held == 2 * 2**20
    assert peaks[1:] == peaks[:1] * 2


def test_settling_counts_from_zero(meter: CpuMeter) -> None:
    assert meter.settle() == 0


class Saving(torch.autograd.Function):
    """Output like v, `saved` MiB kept for backward, a temporary of `working` MiB in each pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, saved: int, working: int) -> Tensor:
        o = torch.empty_like(v)
        kept = block(saved)
        temporary = block(working)
        del temporary
        ctx.save_for_backward(q, k, v, kept)
        ctx.working = working
        return o

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, _ = ctx.saved_tensors
        temporary = block(ctx.working)
        del temporary
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None, None


class SavingProvider(Provider):
    name = label = "saving"
    family = "linear"
    package = "torch"

    def __init__(self, saved: int, working: int) -> None:
        self.saved, self.working = saved, working

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        given = (inputs.q, inputs.k, inputs.v)
        return lambda: Saving.apply(*given, self.saved, self.working)


def figures(direction: Direction, saved: int = 2, working: int = 8) -> CallMemory:
    return call_memory(SavingProvider(saved, working), InputSet(SHAPE, seed=0), direction, CpuMeter())


def test_forward_has_no_graph() -> None:
    # Under no_grad what is saved dies with the call, but it is there beside the temporary.
    got = figures("fwd")
    assert got.extra_mib == pytest.approx(V + 2 + 8)
    assert got.peak_mib == pytest.approx(2 * Q + V + SLOPES + V + 2 + 8)
    assert got.saved_mib is None
    assert got.reserved_mib is None


@pytest.mark.parametrize("saved", [1, 2, 5])
def test_backward_adds_gradients_to_what_forward_left(saved: int) -> None:
    got = figures("bwd", saved=saved, working=1)
    assert got.saved_mib == pytest.approx(saved)
    # All that is saved stays until the node has run; the temporary comes first.
    assert got.extra_mib == pytest.approx(max(1, 2 * Q + V))
    held = (2 * Q + V + SLOPES) + V + V + saved  # inputs, do, output, saved
    assert got.peak_mib == pytest.approx(held + max(1, 2 * Q + V))


def test_backward_with_a_large_temporary() -> None:
    got = figures("bwd", saved=2, working=8)
    assert got.extra_mib == pytest.approx(8)
    assert got.saved_mib == pytest.approx(2)


def test_both_directions_count_from_only_the_inputs() -> None:
    got = figures("fwd_bwd", saved=2, working=8)
    assert got.saved_mib == pytest.approx(2)
    # Output, saved and the larger of temporary and gradients.
    extra = V + 2 + 8
    assert got.extra_mib == pytest.approx(extra)
    assert got.peak_mib == pytest.approx((2 * Q + V + SLOPES) + V + extra)


@pytest.mark.parametrize("direction", ["bwd", "fwd_bwd"])
def test_nothing_saved_is_zero(direction: Direction) -> None:
    assert figures(direction, saved=0, working=1).saved_mib == 0.0


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
def test_figures_repeat_on_the_same_inputs(direction: Direction) -> None:
    inputs, meter, provider = InputSet(SHAPE, seed=0), CpuMeter(), SavingProvider(2, 3)
    first = call_memory(provider, inputs, direction, meter)
    assert call_memory(provider, inputs, direction, meter) == first
    assert all(x.grad is None for x in (inputs.inputs("bhnd").q, inputs.inputs("bhnd").v))
