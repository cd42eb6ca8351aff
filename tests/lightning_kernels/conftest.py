"""Without a GPU the kernels run in the Triton interpreter, which must be on before they are defined."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import lightning_kernels as lk


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


def oracle(q, k, v, do, s):
    """Return o, dq, dk, dv in fp64 from the quadratic definition."""
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    return run(lk.reference_attention, q, k, v, do.double(), s)


def slack(q):
    """Return what a budget is multiplied by: with few rows, a single score that cancels decides the norm."""
    return 1.0 if q.shape[:3].numel() >= 16 else 30.0


class Tools:
    """The helpers above as one fixture, since test modules are imported without a package."""

    relative_l2 = staticmethod(relative_l2)
    make_inputs = staticmethod(make_inputs)
    run = staticmethod(run)
    oracle = staticmethod(oracle)
    slack = staticmethod(slack)


@pytest.fixture(scope="session")
def tools():
    return Tools


@pytest.fixture
def poison(monkeypatch):
    """Fill what torch.empty and torch.empty_like give with NaN."""
    for name in ("empty", "empty_like"):
        plain = getattr(torch, name)

        def poisoned(*args, _plain=plain, **kwargs):
            tensor = _plain(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        monkeypatch.setattr(torch, name, poisoned)
