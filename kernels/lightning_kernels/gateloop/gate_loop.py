"""GateLoop: a linear recurrence whose gate is given for each token and channel, real or complex."""

from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..common.private_torch import load_associative_scan
from ..common.validate import KERNEL_DTYPES, check_nvidia

Five = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def gate_loop(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, phase: Tensor | None = None) -> Tensor:
    """Compute GateLoop's recurrence on a GPU by a parallel scan.

    o_t = q_t · Re h_t with h_t = a_t · h_{t−1} + k_t · v_t and a_t = exp(log_decay_t + i·phase_t), channel
    by channel: a state is one element. Gates, products and
    states are fp32. Gradients reach every argument; the forward pass keeps its inputs and one state per
    32 tokens.

    Args:
        q: queries [..., seq_len, channels] in float32, float16 or bfloat16. Tensors that are not contiguous
            are copied.
        k: keys, of the shape of q.
        v: values, of the shape of q.
        log_decay: logarithm of the gate's magnitude, of the shape of q, at most 0 (not checked): the paper's
            magnitude is a sigmoid, so logsigmoid of a projection.
        phase: the gate's phase in radians, of the shape of q; None for a real gate.

    Returns:
        o [..., seq_len, channels] in the dtype of q, contiguous.

    Raises:
        ValueError: if shapes, dtypes or devices are not as above, or the tensors are not on a GPU.
        RuntimeError: if the gradient of a gradient is asked for; `gate_loop_torch` has it.
        ModuleNotFoundError: if triton is not installed.

    Source: GateLoop, arXiv 2311.01927.
    """
    _check(q, k, v, log_decay, phase)
    for x in (q, k, v, log_decay, phase):
        if x is not None and x.dtype not in KERNEL_DTYPES:
            raise ValueError(f"gate_loop takes float32, float16 or bfloat16, got {x.dtype}")
    check_nvidia(q.device, "gate_loop", "gate_loop_torch")
    _kernels().check_runnable(q)
    o: Tensor = _GateLoop.apply(q, k, v, log_decay, phase)  # type: ignore[no-untyped-call]
    return o


def gate_loop_torch(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, phase: Tensor | None = None
) -> Tensor:
    """Compute GateLoop's recurrence by PyTorch's own `associative_scan`, on any device.

    Arguments and result are those of `gate_loop`, but for: any floating dtype and strides; fp64 is computed
    in fp64, all else in fp32; derivatives of any order. PyTorch's scan is a prototype: its `generic` mode,
    used here, takes complex numbers, CPUs and autograd, and makes about 2·log₂(seq_len) rounds of operations,
    each with its own tensors; its `pointwise` mode does not run on CPUs.

    Raises:
        ValueError: if shapes, dtypes or devices are not as for `gate_loop`.

    Source: GateLoop, arXiv 2311.01927.
    """
    _check(q, k, v, log_decay, phase)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    size = log_decay.to(wide).exp()
    gate = size if phase is None else torch.polar(size, phase.to(wide))
    pushed = (k.to(wide) * v.to(wide)).to(gate.dtype)
    if q.shape[-2] == 0:
        return torch.empty_like(q)
    _, states = load_associative_scan()(_compose, (gate, pushed), q.dim() - 2, combine_mode="generic")
    states = states if phase is None else states.real
    o: Tensor = (q.to(wide) * states).to(q.dtype)
    return o


def _compose(first: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Apply h ← a·h + x twice."""
    return first[0] * then[0], then[0] * first[1] + then[1]


@cache
def _kernels() -> ModuleType:
    from . import gateloop_kernel as gateloop

    return gateloop


class _GateLoop(torch.autograd.Function):
    """The scan of `gateloop_kernel` on [sequences, tokens, channels]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, phase: Tensor | None) -> Tensor:
        """Compute o; keep the inputs and the states that enter tiles."""
        flat = [None if x is None else x.contiguous() for x in (q, k, v, log_decay, phase)]
        o, state = _kernels().forward(*(_flat(x) for x in flat))
        ctx.save_for_backward(*flat, state)
        return o.view(q.shape)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_o: Tensor) -> Five:
        """Compute the gradients that are asked for, all in one walk."""
        *inputs, state = ctx.saved_tensors
        grads = _kernels().backward(_flat(grad_o.contiguous()), *(_flat(x) for x in inputs), state)
        dq, dk, dv, dg, dphase = (
            None if grad is None or not needed else grad.view(grad_o.shape)
            for grad, needed in zip(grads, ctx.needs_input_grad, strict=True)
        )
        return dq, dk, dv, dg, dphase


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.view(x.shape[:-2].numel(), *x.shape[-2:])


def _check(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, phase: Tensor | None) -> None:
    if q.dim() < 2 or q.shape[-1] < 1:
        raise ValueError(f"q must be [..., seq_len, channels] of at least one channel, got {tuple(q.shape)}")
    named = {"q": q, "k": k, "v": v, "log_decay": log_decay, "phase": phase}
    for name, x in named.items():
        if x is None:
            continue
        if x.shape != q.shape:
            raise ValueError(f"{name} must have the shape of q, got {tuple(x.shape)} and {tuple(q.shape)}")
        if not x.dtype.is_floating_point:
            raise ValueError(f"{name} must have a floating dtype, got {x.dtype}")
        if x.device != q.device:
            raise ValueError(f"{name} must be on the device of q, got {x.device} and {q.device}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
