"""Cases of kernels, what they are compared with, and a quicker interpreter for them where there is no GPU."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

import lightning_kernels as lk
from tests.support.quick_interpreter import quicken_interpreter

quicken_interpreter()


def relative_l2(actual, expected):
    """Return ‖actual − expected‖ / ‖expected‖ in fp64."""
    return float((actual.detach().double() - expected.detach()).norm() / expected.detach().norm())


def make_inputs(b, h, n, d, e, dtype, *, scale=1.0, seed=0, device="cpu"):
    """Return q, k, v that require gradients, and do."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((b, h, n, d), (b, h, n, d), (b, h, n, e), (b, h, n, e))
    q, k, v, do = ((torch.randn(s, generator=generator) * scale).to(device, dtype) for s in shapes)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), do


def run(attention, q, k, v, do, s):
    """Return o, dq, dk, dv."""
    o = attention(q, k, v, s)
    return (o.detach(), *torch.autograd.grad(o, (q, k, v), do))


@dataclass
class Case:
    """One call with everything that it can be given, and the gradients of its results."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    s: torch.Tensor | None
    do: torch.Tensor
    d_state: torch.Tensor
    initial_state: torch.Tensor | None = None
    cu_seqlens: torch.Tensor | None = None
    scale: float = 1.0
    layout: str = "bhnd"

    def inputs(self, dtype=None):
        """Return copies of q, k, v and, where there is one, the initial state that require gradients."""
        tensors = [x for x in (self.q, self.k, self.v, self.initial_state) if x is not None]
        return [x.detach().to(dtype or x.dtype).requires_grad_() for x in tensors]

    def call(self, attention, inputs):
        """Return o and the final state."""
        state = inputs[3] if len(inputs) == 4 else None
        return attention(
            *inputs[:3], self.s, scale=self.scale, initial_state=state, return_state=True,
            cu_seqlens=self.cu_seqlens, layout=self.layout,
        )  # fmt: skip

    def run(self, attention, dtype=None):
        """Return a dict of o, state, dq, dk, dv and, where there is an initial state, d_initial."""
        inputs = self.inputs(dtype)
        results = self.call(attention, inputs)
        upstream = [g.to(x.dtype) for g, x in zip((self.do, self.d_state), results, strict=True)]
        grads = torch.autograd.grad(results, inputs, upstream)
        named = zip(("dq", "dk", "dv", "d_initial"), grads, strict=False)
        return {"o": results[0].detach(), "state": results[1].detach(), **dict(named)}


def make_case(
    b, heads, kv_heads, n, d, e, dtype, *, slope=0.3, state=True, bounds=None, scale=1.0, size=1.0,
    layout="bhnd", seed=0, device="cpu",
):  # fmt: skip
    """Return a random Case; `bounds` packs sequences, `size` is the standard deviation of q, k, v and do."""
    generator = torch.Generator().manual_seed(seed)

    def rows(count, dim):
        x = torch.randn(b, count, n, dim, generator=generator) * size
        return (x if layout == "bhnd" else x.transpose(1, 2).contiguous()).to(device, dtype)

    states = (b if bounds is None else len(bounds) - 1, heads, d, e)
    return Case(
        q=rows(heads, d), k=rows(kv_heads, d), v=rows(kv_heads, e), do=rows(heads, e),
        s=None if slope is None else torch.linspace(slope, 0, heads, device=device),
        d_state=torch.randn(states, generator=generator).to(device) * size,
        initial_state=torch.randn(states, generator=generator).to(device) * size if state else None,
        cu_seqlens=None if bounds is None else torch.tensor(bounds, dtype=torch.int32, device=device),
        scale=scale, layout=layout,
    )  # fmt: skip


def check_case(attention, case, budget):
    """Compare every result with the fp64 oracle by its relative L2 error."""
    got, expected = case.run(attention), case.run(lk.reference_attention, torch.float64)
    assert list(got) == list(expected)
    tight = case.do.shape[0] * case.do.shape[1] * case.do.shape[2] >= 16
    for name, a, b in zip(got, got.values(), expected.values(), strict=True):
        error, norm = float((a.double() - b).norm()), float(b.norm())
        # Below the normal numbers of fp16, rounding is absolute: 2^-25 an element and operand at the most.
        floor = 2.0**-24 * b.numel() ** 0.5 if case.q.dtype == torch.float16 else 0.0
        assert error <= budget * (1.0 if tight else 30.0) * norm + floor, (name, error, norm)


def oracle(q, k, v, do, s):
    """Return o, dq, dk, dv in fp64 from the quadratic definition."""
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    return run(lk.reference_attention, q, k, v, do.double(), s)


def slack(q):
    """Return what a budget is multiplied by: with few rows, a single score that cancels decides the norm."""
    return 1.0 if q.shape[:3].numel() >= 16 else 30.0


_RUN_EACH = """
import os, sys, torch
for code in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        exec(code, {"__name__": "__main__"})
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


def run_each(*codes):
    """Run each code in a process without an interpreter, forked from one that has imported torch alone."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", _RUN_EACH, *codes], check=True, env=environment)


@pytest.fixture
def poison(monkeypatch):
    """Fill what torch.empty and torch.empty_like give with NaN."""
    for name in ("empty", "empty_like"):
        plain = getattr(torch, name)

        def poisoned(*args, _plain=plain, **kwargs):
            tensor = _plain(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        monkeypatch.setattr(torch, name, poisoned)
