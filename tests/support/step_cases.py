"""Inputs of decode steps, and the two forms of a step. Without a GPU the kernel runs in the interpreter."""

import pytest
import torch

import tests.support.kernel_cases  # noqa: F401  makes the Triton interpreter quick
from lightning_kernels import lightning_attn2_step, lightning_attn2_step_torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
both = pytest.mark.parametrize("step", [lightning_attn2_step, lightning_attn2_step_torch])


def make_token(b, hq, hk, d, e, dtype, *, seed=0, device=DEVICE):
    """Return q, k, v of one token."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((b, hq, d), (b, hk, d), (b, hk, e))
    return tuple(torch.randn(s, generator=generator).to(device, dtype) for s in shapes)


def make_state(b, hq, d, e, *, seed=0, dtype=torch.float32, device=DEVICE):
    """Return the states of b sequences."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn((b, hq, d, e), generator=generator).to(device, dtype)
