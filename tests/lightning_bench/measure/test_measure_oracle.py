"""The fp64 oracles against quadratic forms by autograd, SDPA and finite differences; the sample of pairs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_bench.case import Family, Shape
from lightning_bench.families import Problem, exact
from lightning_bench.measure.oracle import choose_pairs, solve
from tests.support.judged import PLAIN, shape

NAMES = ["o", "dq", "dk", "dv"]
LENGTHS = [1, 2, 3, 63, 64, 255, 256, 257, 300, 511, 512, 513, 600]


def problem(pairs: int, n: int, d: int, e: int, decay: list[float] | float = 0.3, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    dims = (d, d, e, e)
    q, k, v, do = (torch.randn(pairs, n, x, generator=generator, dtype=torch.float64) for x in dims)
    slopes = torch.tensor(decay, dtype=torch.float64).expand(pairs)
    return Problem(q, k, v, do, slopes)


def weights(family: Family, p: Problem) -> Tensor:
    """Return the causal n × n matrix that multiplies v, element by element from the definition."""
    steps = torch.arange(p.q.shape[1], dtype=torch.float64)
    distance = steps[:, None] - steps
    products = torch.einsum("pid,pjd->pij", p.q, p.k)
    if family == "softmax":
        scores = products / math.sqrt(p.q.shape[2])
        powers = torch.exp(scores - scores.amax(-1, keepdim=True)) * (distance >= 0)
        return powers / powers.sum(-1, keepdim=True)
    slopes = p.decay if family == "linear_decay" else torch.zeros_like(p.decay)
    return products * torch.exp(-slopes[:, None, None] * distance.clamp(min=0)) * (distance >= 0)


def naive(family: Family, p: Problem) -> dict[str, Tensor]:
    """Output of the definition, and its gradients by autograd."""
    q, k, v = (x.clone().requires_grad_() for x in (p.q, p.k, p.v))
    o = torch.einsum("pij,pje->pie", weights(family, Problem(q, k, v, p.do, p.decay)), v)
    grads = torch.autograd.grad(o, (q, k, v), p.do)
    return dict(zip(NAMES, (o.detach(), *grads), strict=True))


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], p: Problem, limit: float = 1e-12) -> None:
    assert list(got) == list(wanted)
    for name, tensor in got.items():
        # dq and dk of softmax are exactly zero at n = 1, hence the second term.
        allowed = limit * float(wanted[name].norm() + p.do.norm())
        assert tensor.shape == wanted[name].shape
        assert float((tensor - wanted[name]).norm()) <= allowed, name


@pytest.mark.parametrize("family", PLAIN)
@settings(max_examples=20, derandomize=True)
@given(
    n=st.sampled_from(LENGTHS) | st.integers(1, 600),
    d=st.integers(1, 9),
    e=st.integers(1, 9),
    decay=st.lists(st.floats(0, 8), min_size=1, max_size=3),
)
def test_every_oracle_is_its_definition(family: Family, n: int, d: int, e: int, decay: list[float]) -> None:
    p = problem(len(decay), n, d, e, decay, seed=n)
    assert_close(solve(family, p, gradients=True), naive(family, p), p)


@pytest.mark.parametrize("decay", [0.0, 1e-6, 0.004, 0.5, 8.0])
@pytest.mark.parametrize("n", [256, 257, 600, 1024])
@pytest.mark.parametrize("blocks_of", ["cpu", "cuda"])
def test_decay_crosses_blocks(n: int, blocks_of: str, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exact._BLOCK, "cpu", exact._BLOCK[blocks_of])
    p = problem(2, n, 8, 5, decay)
    assert_close(solve("linear_decay", p, gradients=True), naive("linear_decay", p), p)


def test_each_pair_has_its_own_decay() -> None:
    p = problem(2, 300, 4, 4, [0.01, 2.0])
    both = solve("linear_decay", p, gradients=True)
    for i in range(2):
        single = Problem(*(x[i : i + 1] for x in (p.q, p.k, p.v, p.do, p.decay)))
        assert_close({name: x[i : i + 1] for name, x in both.items()}, naive("linear_decay", single), single)


def test_linear_ignores_decay() -> None:
    p = problem(2, 300, 4, 4, [0.5, 3.0])
    plain = Problem(p.q, p.k, p.v, p.do, torch.zeros_like(p.decay))
    assert_close(solve("linear", p, gradients=True), solve("linear_decay", plain, gradients=True), p, 0.0)
    assert float((solve("linear_decay", p, gradients=False)["o"] - naive("linear", p)["o"]).norm()) > 1.0


@pytest.mark.parametrize("n", [1, 2, 257])
def test_softmax_is_torchs_causal_attention(n: int) -> None:
    p = problem(2, n, 6, 6)
    q, k, v = (x.clone().requires_grad_() for x in (p.q, p.k, p.v))
    o = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    wanted = (o.detach(), *torch.autograd.grad(o, (q, k, v), p.do))
    assert_close(solve("softmax", p, gradients=True), dict(zip(NAMES, wanted, strict=True)), p)


@pytest.mark.parametrize("family", PLAIN)
def test_gradients_are_those_of_the_oracles_own_output(family: Family) -> None:
    p = problem(2, 270, 4, 3, [0.02, 0.7])
    grads = solve(family, p, gradients=True)
    generator = torch.Generator().manual_seed(9)
    for name in ("q", "k", "v"):
        x = getattr(p, name)
        step = 1e-5 * torch.randn(x.shape, generator=generator, dtype=torch.float64)

        def loss(moved: Tensor, name: str = name) -> float:
            changed = Problem(**{**vars(p), name: moved})
            return float((solve(family, changed, gradients=False)["o"] * p.do).sum())

        slope = (loss(x + step) - loss(x - step)) / 2
        assert slope == pytest.approx(float((grads[f"d{name}"] * step).sum()), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("family", PLAIN)
def test_without_gradients_there_is_only_the_output(family: Family) -> None:
    p = problem(1, 40, 4, 4)
    alone = solve(family, p, gradients=False)
    assert list(alone) == ["o"]
    assert torch.equal(alone["o"], solve(family, p, gradients=True)["o"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", PLAIN)
def test_results_are_rounded_to_the_output_dtype(family: Family, dtype: torch.dtype) -> None:
    p = problem(2, 70, 8, 8, 0.1)
    exact, rounded = solve(family, p, gradients=True), solve(family, p, gradients=True, output_dtype=dtype)
    for name, tensor in rounded.items():
        assert tensor.dtype == torch.float64
        assert torch.equal(tensor.to(dtype).double(), tensor)
        assert not torch.equal(tensor, exact[name])
        if family != "softmax" or name in ("o", "dv"):
            assert torch.equal(tensor, exact[name].to(dtype).double())


def test_softmax_gradients_start_from_the_rounded_output() -> None:
    p = problem(2, 70, 8, 8)
    rounded = solve("softmax", p, gradients=True, output_dtype=torch.bfloat16)
    weight = weights("softmax", p)
    delta = (p.do * rounded["o"]).sum(-1, keepdim=True)
    scores = weight * (p.do @ p.v.mT - delta) / math.sqrt(8)
    for name, wanted in (("dq", scores @ p.k), ("dk", scores.mT @ p.q)):
        assert torch.equal(rounded[name], wanted.to(torch.bfloat16).double()), name
    exact = solve("softmax", p, gradients=True)["dq"].to(torch.bfloat16).double()
    assert not torch.equal(rounded["dq"], exact)


@pytest.mark.parametrize("elements", [1, 2 * 130 * 7, 2 * 130 * 129, 2 * 130 * 130])
def test_softmax_in_row_blocks_gives_the_same(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    p = problem(2, 130, 5, 4)
    whole = solve("softmax", p, gradients=True)
    monkeypatch.setattr(exact, "_SCORE_ELEMENTS", elements)
    assert_close(solve("softmax", p, gradients=True), whole, p, 1e-14)


@settings(max_examples=60, derandomize=True)
@given(
    b=st.integers(1, 8),
    h=st.integers(1, 40),
    n=st.sampled_from([1, 100, 2048, 131072]),
    device=st.sampled_from(["cpu", "cuda"]),
    family=st.sampled_from(PLAIN),
    seed=st.integers(0, 5),
)
def test_pairs_have_both_ends_and_are_few(
    b: int, h: int, n: int, device: str, family: Family, seed: int
) -> None:
    of = Shape(b, h, n, 64, 64, "bf16", device)
    pairs = choose_pairs(of, family, seed)
    assert pairs == choose_pairs(of, family, seed)
    assert pairs == sorted(set(pairs))
    assert pairs[0] == (0, 0)
    assert pairs[-1] == (b - 1, h - 1)
    assert min(2, b * h) <= len(pairs) <= 16
    assert all(i < b and j < h for i, j in pairs)


def test_short_sequences_check_every_pair_and_long_ones_few() -> None:
    assert len(choose_pairs(shape(n=64, b=2, h=8), "softmax", 0)) == 16
    assert choose_pairs(shape(n=65536, b=4, h=8), "softmax", 0) == [(0, 0), (3, 7)]
    assert len({tuple(choose_pairs(shape(n=64, b=8, h=8), "linear", seed)) for seed in range(5)}) == 5
