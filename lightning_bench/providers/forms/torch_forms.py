"""Each system in plain PyTorch, as its paper writes it: token by token, or all pairs of tokens at once.

Nobody's fast kernel: they run anywhere, and show on a CPU that inputs, gradients and the gate of each family
work. They owe the oracles nothing, which go in blocks. Half precision is computed in fp32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPES, Device
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_BOTH: tuple[Device, ...] = ("cuda", "cpu")


class _TorchForm(Provider):
    """Inputs in, output [b, h, n, e] out, by ``attend`` on tensors of fp32 or wider."""

    package = "torch"
    devices = _BOTH
    dtypes = DTYPES
    names: ClassVar[tuple[str, ...]] = ("q", "k", "v")
    """What ``attend`` takes, in order."""

    def attend(self, *tensors: Any, **_: Any) -> Tensor:
        """The output in the dtype of the tensors; a subclass names what it takes."""
        raise NotImplementedError(f"{type(self).__name__} does not implement attend()")

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """A call that gives the output [b, h, n, value_dim]."""
        given = [inputs[name] for name in self.names]

        def forward() -> Tensor:
            wide = [x.float() if x.element_size() < 4 else x for x in given]
            return self.attend(*wide).to(inputs.v.dtype)

        return forward


class RetentionTorch(_TorchForm):
    """The parallel form of retention."""

    name = "retention-torch"
    label = "Retention (PyTorch, parallel)"
    family = "retention"
    summary = "plain PyTorch, all pairs of tokens"
    names = ("q", "k", "v", "decay")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
        """(d^(−1/2) q kᵀ ∘ λ^(t−i)) v."""
        import torch

        steps = torch.arange(q.shape[2], device=q.device, dtype=q.dtype)
        log = -decay[:, None, None].to(q.dtype) * (steps[:, None] - steps)
        return (_scale(q) * (q @ k.mT) * log.tril().exp().tril()) @ v


class GlaTorch(_TorchForm):
    """The recurrence of GLA."""

    name = "gla-torch"
    label = "GLA (PyTorch, recurrent)"
    family = "gla"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "g")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """The state decays, takes up the token and is read."""
        return _scale(q) * _recurrent(q, k, v, g)


class BasedTorch(_TorchForm):
    """The parallel form of Based."""

    name = "based-torch"
    label = "Based (PyTorch, parallel)"
    family = "based"
    summary = "plain PyTorch, all pairs of tokens"

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Scores 1 + x + x²/2, normalised by their sum."""
        x = _scale(q) * (q @ k.mT)
        scores = (1.0 + x + 0.5 * x.square()).tril()
        return scores @ v / scores.sum(-1, keepdim=True)


class Rwkv6Torch(_TorchForm):
    """The recurrence of RWKV-6."""

    name = "rwkv6-torch"
    label = "RWKV-6 (PyTorch, recurrent)"
    family = "rwkv6"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "w", "u")

    def attend(self, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
        """The state, with the token itself weighted by u, is read; then it decays and takes up the token."""
        import torch

        state = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None])
        outputs = []
        for t in range(r.shape[2]):
            token = k[:, :, t, :, None] * v[:, :, t, None]
            outputs.append(torch.einsum("bhd,bhde->bhe", r[:, :, t], state + u[..., None] * token))
            state = w[:, :, t, :, None].exp() * state + token
        return _scale(r) * torch.stack(outputs, 2)


class AbcTorch(_TorchForm):
    """ABC with its slots written out."""

    name = "abc-torch"
    label = "ABC (PyTorch, recurrent)"
    family = "abc"
    summary = "plain PyTorch, token by token over the slots"
    names = ("q", "k", "v", "s")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Every slot holds averages of keys and values; the query attends to the slots."""
        import torch

        weight = (s - s.detach().amax(2, keepdim=True)).exp()
        total = weight.cumsum(2)
        keys = torch.zeros_like(weight[:, :, 0, :, None] * k[:, :, 0, None])
        values = torch.zeros_like(weight[:, :, 0, :, None] * v[:, :, 0, None])
        outputs = []
        for t in range(q.shape[2]):
            w, z = weight[:, :, t, :, None], total[:, :, t, :, None]
            keys, values = keys + w * k[:, :, t, None], values + w * v[:, :, t, None]
            scores = torch.einsum("bhd,bhmd->bhm", _scale(q) * q[:, :, t], keys / z)
            outputs.append(torch.einsum("bhm,bhme->bhe", scores.softmax(-1), values / z))
        return torch.stack(outputs, 2)


class Mamba2Torch(_TorchForm):
    """The recurrence of SSD."""

    name = "mamba2-torch"
    label = "Mamba-2 SSD (PyTorch, recurrent)"
    family = "mamba2"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "g")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """As GLA, unscaled, with one decay for all channels."""
        return _recurrent(q, k, v, g[..., None])


class GatedDeltaTorch(_TorchForm):
    """The recurrence of Gated DeltaNet."""

    name = "gated-delta-torch"
    label = "Gated DeltaNet (PyTorch, recurrent)"
    family = "gated_delta"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "g", "beta")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        """The state decays, forgets what it recalls for the key, takes up the value and is read."""
        return _delta(q, k, v, g[..., None], beta)


class KdaTorch(_TorchForm):
    """The recurrence of Kimi Delta Attention."""

    name = "kda-torch"
    label = "KDA (PyTorch, recurrent)"
    family = "kda"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "g", "beta")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        """As Gated DeltaNet, with a decay of each channel."""
        return _delta(q, k, v, g, beta)


def _scale(q: Tensor) -> float:
    return 1.0 / math.sqrt(q.shape[-1])


def _recurrent(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    import torch

    state = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None])
    outputs = []
    for t in range(q.shape[2]):
        state = g[:, :, t, :, None].exp() * state + k[:, :, t, :, None] * v[:, :, t, None]
        outputs.append(torch.einsum("bhd,bhde->bhe", q[:, :, t], state))
    return torch.stack(outputs, 2)


def _delta(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    import torch

    state = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None])
    outputs = []
    for t in range(q.shape[2]):
        state = g[:, :, t, :, None].exp() * state
        recalled = torch.einsum("bhd,bhde->bhe", k[:, :, t], state)
        change = beta[:, :, t, None] * (v[:, :, t] - recalled)
        state = state + k[:, :, t, :, None] * change[:, :, None]
        outputs.append(torch.einsum("bhd,bhde->bhe", q[:, :, t], state))
    return _scale(q) * torch.stack(outputs, 2)
