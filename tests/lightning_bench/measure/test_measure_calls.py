"""What is called in each direction: protocol lbench, and the published scripts' with its faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_bench.case import Direction, Layout, Shape
from lightning_bench.measure import paper
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded
from lightning_bench.providers.registry.base import Inputs, Provider

SHAPE = Shape(2, 3, 20, 8, 4, "fp32", "cpu")
DIRECTIONS: list[Direction] = ["fwd", "bwd", "fwd_bwd"]
LAYOUTS: list[Layout] = ["bhnd", "bnhd"]


class Probe(Provider):
    """Softmax attention in either layout that shows what it was given and how often it ran."""

    name = label = "probe"
    family = "softmax"
    package = "torch"

    def __init__(self, layout: Layout = "bhnd") -> None:
        self.layout = layout  # type: ignore[misc]
        self.given: Inputs
        self.graphs: list[bool] = []

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        self.given = inputs

        def forward() -> Tensor:
            self.graphs.append(torch.is_grad_enabled())
            turned = (
                x if self.layout == "bhnd" else x.transpose(1, 2) for x in (inputs.q, inputs.k, inputs.v)
            )
            o = torch.nn.functional.scaled_dot_product_attention(*turned, is_causal=True)
            return o if self.layout == "bhnd" else o.transpose(1, 2)

        return forward


def plain(inputs: InputSet) -> dict[str, Tensor]:
    q, k, v = (x.clone().requires_grad_() for x in (inputs.q, inputs.k, inputs.v))
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    grads = torch.autograd.grad(o, (q, k, v), inputs.do)
    return dict(zip(("o", "dq", "dk", "dv"), (o.detach(), *grads), strict=True))


def leaves(given: Inputs) -> list[Tensor]:
    """Return the scripts' own q, k, v: in layout bnhd the provider sees views of them."""
    return [x if x.is_leaf else x._base for x in (given.q, given.k, given.v)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_direction_gives_its_tensors(direction: Direction, layout: Layout) -> None:
    inputs = InputSet(SHAPE, seed=0)
    got = direction_call(Probe(layout), inputs, direction).tensors()
    wanted = plain(inputs)
    assert list(got) == (["o"] if direction == "fwd" else ["o", "dq", "dk", "dv"])
    for name, tensor in got.items():
        assert not tensor.requires_grad
        turned = tensor if layout == "bhnd" else tensor.transpose(1, 2)
        torch.testing.assert_close(turned, wanted[name])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_calls_repeat_without_adding_up(direction: Direction) -> None:
    inputs, probe = InputSet(SHAPE, seed=0), Probe()
    call = direction_call(probe, inputs, direction)
    first, second = call.fn(), call.fn()
    for name in first:
        assert torch.equal(first[name], second[name])
    assert all(x.grad is None for x in (probe.given.q, probe.given.k, probe.given.v))
    # Forward runs without a graph; backward ran it once, before; both together run it each time.
    assert probe.graphs == {"fwd": [False, False], "bwd": [True], "fwd_bwd": [True, True]}[direction]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", ["bwd", "fwd_bwd"])
def test_the_papers_backward_accumulates(direction: Direction, layout: Layout) -> None:
    inputs, probe = InputSet(SHAPE, seed=0), Probe(layout)
    call = paper.build_call(probe, inputs, direction)
    wanted = plain(inputs)
    assert all(x.grad is None for x in leaves(probe.given))
    for times in (1, 2, 3):
        call()
        for x, name in zip(leaves(probe.given), ("dq", "dk", "dv"), strict=True):
            torch.testing.assert_close(x.grad, times * wanted[name])
    assert len(probe.graphs) == (1 if direction == "bwd" else 3)
    assert inputs.q.grad is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_papers_forward_builds_a_graph(layout: Layout) -> None:
    inputs, probe = InputSet(SHAPE, seed=0), Probe(layout)
    o = paper.build_call(probe, inputs, "fwd")()
    assert isinstance(o, Tensor)
    assert o.requires_grad
    assert probe.graphs == [True]
    torch.testing.assert_close(o.detach(), plain(inputs)["o"])


def test_the_papers_script_transposes_views() -> None:
    inputs, probe = InputSet(SHAPE, seed=0), Probe("bnhd")
    paper.build_call(probe, inputs, "fwd")
    q = probe.given.q
    assert q.shape == (2, 20, 3, 8)
    assert not q.is_contiguous()
    assert torch.equal(q.transpose(1, 2), inputs.q)
    straight = Probe("bhnd")
    paper.build_call(straight, inputs, "fwd")
    assert straight.given.q.is_contiguous()


def test_the_papers_call_owns_copies() -> None:
    inputs, probe = InputSet(SHAPE, seed=0), Probe()
    paper.build_call(probe, inputs, "bwd")
    for name in ("q", "k", "v", "decay"):
        mine, theirs = getattr(probe.given, name), getattr(inputs, name)
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()


def test_the_papers_mean_is_a_mean_in_ms() -> None:
    spent: list[float] = []
    ms = paper.mean_ms(lambda: spent.append(1.0) or sum(range(200_000)), "cpu")
    assert 0.0 < ms < 100.0
    # At least 125 ms of repeats in all, each of about ms.
    assert len(spent) * ms > 0.3 * (paper.WARMUP_MS + paper.REPEAT_MS)


def test_the_papers_mean_of_a_scripted_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    times = iter([30_000_000, 10_000_000, *[50_000_000, 60_000_000], 1])
    monkeypatch.setattr(paper.time, "perf_counter_ns", lambda: now[0])

    def fn() -> None:
        now[0] += next(times)

    # The first call alone fills the warm-up of 25 ms; 10, 50 and 60 ms fill the 100 ms of repeats.
    assert paper.mean_ms(fn, "cpu") == pytest.approx(40.0)


@pytest.mark.parametrize("direction", ["bwd", "fwd_bwd"])
def test_output_of_another_shape_is_wrong_before_its_gradients(direction: Direction) -> None:
    class Turned(Probe):
        end: Any = None

        def build(self, inputs: Inputs) -> Callable[[], Tensor]:
            forward = super().build(inputs)
            return lambda: self.end(forward())

    turned = Turned("bhnd")
    turned.end = lambda o: o.transpose(1, 2)
    with pytest.raises(
        CaseEnded, match=r"^o has shape \(2, 20, 3, 4\), not .*: that is layout bnhd"
    ) as ended:
        direction_call(turned, InputSet(SHAPE, seed=0), direction).tensors()
    assert ended.value.status == "wrong"
    turned.end = lambda o: o[:, :, :7]
    with pytest.raises(CaseEnded, match=r"^o has shape \(2, 3, 7, 4\), not \(2, 3, 20, 4\)$"):
        direction_call(turned, InputSet(SHAPE, seed=0), direction).tensors()


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
def test_what_is_no_call_or_no_tensor_is_named(direction: Direction) -> None:
    class Odd(Probe):
        made: Any = None

        def build(self, inputs: Inputs) -> Any:
            return self.made

    odd = Odd("bhnd")
    with pytest.raises(TypeError, match=r"build\(\) of \w+ returned None, not a callable"):
        direction_call(odd, InputSet(SHAPE, seed=0), direction).tensors()
    odd.made = lambda: None
    with pytest.raises(TypeError, match=r"returned None, not a tensor"):
        direction_call(odd, InputSet(SHAPE, seed=0), direction).tensors()
    odd.made = lambda: (torch.ones(2), None)
    with pytest.raises(
        TypeError, match=r"returned a tuple \(Tensor, NoneType\), not a tensor: only the output"
    ):
        direction_call(odd, InputSet(SHAPE, seed=0), direction).tensors()
