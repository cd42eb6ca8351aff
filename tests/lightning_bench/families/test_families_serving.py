"""Families whose calls update states: oracles against the recurrence token by token, bytes by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_bench.case import Family, Shape
from lightning_bench.families import Problem, definition_of
from lightning_bench.families.work import Work
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import solve
from lightning_bench.measure.pools import StatePool
from lightning_bench.variant import Variant

SERVED: tuple[Family, ...] = ("serving", "drafting")


def problem(lengths: tuple[int, ...], accepted: tuple[int, ...] = ()) -> Problem:
    """Return a problem of two pairs of head_dim 4 and value_dim 3, packed if there are several lengths."""
    generator = torch.Generator().manual_seed(len(lengths))

    def normal(*size: int) -> Tensor:
        return torch.randn(2, *size, generator=generator, dtype=torch.float64)

    n = sum(lengths)
    more = {"state": normal(len(lengths) * 4, 3)}
    more |= {"accepted": torch.tensor(accepted)} if accepted else {}
    decay = torch.tensor([0.5, 0.01], dtype=torch.float64)
    q, k, v, do = normal(n, 4), normal(n, 4), normal(n, 3), normal(n, 3)
    return Problem(q, k, v, do, decay, more, lengths if len(lengths) > 1 else ())


def token_by_token(p: Problem, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return o, and every state: [pairs, tokens, head_dim, value_dim]."""
    outputs, states, first = [], [], 0
    for number, length in enumerate(lengths):
        state = p["state"][:, 4 * number : 4 * number + 4]
        for t in range(first, first + length):
            state = torch.exp(-p.decay)[:, None, None] * state + p.k[:, t, :, None] * p.v[:, t, None]
            outputs.append((p.q[:, t, None] @ state)[:, 0])
            states.append(state)
        first += length
    return torch.stack(outputs, 1), torch.stack(states, 1)


@pytest.mark.parametrize("lengths", [(1,), (300,), (1, 130, 2, 1)])
def test_served_sequences_go_on_from_their_states(lengths: tuple[int, ...]) -> None:
    p = problem(lengths)
    o, states = token_by_token(p, lengths)
    got = solve("serving", p, gradients=False)
    last = torch.tensor(lengths).cumsum(0) - 1
    torch.testing.assert_close(got["o"], o, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(got["state"], states[:, last].flatten(1, 2), rtol=1e-11, atol=1e-11)


def test_drafts_leave_the_state_of_what_is_accepted() -> None:
    p = problem((5,), accepted=(2, 5))
    o, states = token_by_token(p, (5,))
    got = solve("drafting", p, gradients=False)
    torch.testing.assert_close(got["o"], o, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        got["state"], torch.stack([states[0, 1], states[1, 4]]), rtol=1e-11, atol=1e-11
    )


def test_states_have_the_size_that_a_history_leaves() -> None:
    inputs = InputSet(Shape(4, 8, 3, 32, 32, "fp32", "cpu"), 0).of("drafting")
    kept = torch.exp(-2 * inputs.decay.double()[:, None] * torch.arange(1024)).sum(1)
    sizes = inputs.more["state"].double().square().mean((0, 2, 3))
    assert torch.allclose(sizes, kept, rtol=0.1)
    assert inputs.more["accepted"][:, 0].tolist() == [1, 2, 3, 1]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(3, 4, 2, 8, 6, "fp32", "cpu", Variant(kv_heads=2)),
        Shape(1, 4, 6, 8, 6, "fp32", "cpu", Variant(documents=(1, 3, 2))),
    ],
)
def test_a_pool_is_filled_anew_with_signs_and_gives_what_is_left(shape: Shape, *, turned: bool) -> None:
    origin = InputSet(shape, 0).of("serving").more["state"]
    pool = StatePool(origin, shape, 0, turned=turned)
    assert tuple(pool.states.shape) == (4, 4, *((6, 8) if turned else (8, 6)))
    assert torch.equal(pool.left(), origin)
    sequence, head, row = 1, 3, 5
    of_sequence = pool.states[pool.slots[sequence].long(), head]
    wanted = origin[sequence, head] if shape.batch > 1 else origin[0, head, 8 * sequence : 8 * sequence + 8]
    assert torch.equal(of_sequence.mT if turned else of_sequence, wanted)
    pool.states.mul_(3)
    assert torch.equal(pool.left(), 3 * origin)
    signs = torch.ones(shape.batch, shape.kv_heads, 1, 6)
    signs[:, -1, :, 2] = -1
    pool.fill(signs)
    assert torch.equal(pool.left(), origin * signs.repeat_interleave(shape.group, 1))
    assert pool.left()[0, head, row, 2] == -origin[0, head, row, 2]


def test_bytes_are_each_input_once_and_each_state_twice() -> None:
    decode = Shape(8, 4, 1, 16, 24, "bf16", "cuda")
    mixed = Shape(1, 4, 10, 16, 24, "bf16", "cuda", Variant(documents=(5, 1, 4)))
    for shape, sequences in ((decode, 8), (mixed, 3)):
        states = 4 * sequences * 4 * 16 * 24
        work = Work.of("serving", shape, "fwd")
        assert work.min_bytes == shape.input_bytes + shape.output_bytes + 2 * states
        assert work.result_bytes == shape.output_bytes
        assert work.min_flops == 4 * shape.q_elements * shape.value_dim
        assert Work.of("drafting", shape, "fwd").min_bytes == work.min_bytes + 8 * shape.batch * shape.heads
    for family in SERVED:
        assert definition_of(family).gradients == ()
        assert definition_of(family).arguments[-2:] == ("slots", "slopes")
