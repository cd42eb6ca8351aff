"""What all models share: embedding, layers, the loss, compiling and activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_bench.models.cross_entropy import summed_cross_entropy
from lightning_bench.models.model_sizes import ModelSize

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer: q, k [batch, seq_len, heads, head_dim] and v [..., value_dim] to o like v."""

Backend = Callable[[Any, list[Tensor]], Callable[..., Any]]
"""What torch.compile hands a graph and its example inputs to."""

EPS = 1e-6
_INIT_STD = 0.02
# The logits of so many tokens at once: of 64000 words, all of a step would be more elements than 2^31.
_LOSS_TOKENS = 16384


class Block(nn.Module):
    """One layer: what comes before its attention, the attention, and what comes after it.

    `before` maps x [tokens, dim], those of all sequences, to q, k, v [tokens, heads, ·] and further tensors,
    given the positions of the tokens of each sequence, int64 [seq_len], or None for all of them from 0;
    `after` maps x, the output of the attention and these to the next x. They are modules of their own so that
    they can be compiled, once for sequences of any length: the attention between them, which alone knows of
    sequences, is called as a user calls its library.
    """

    def __init__(self, before: nn.Module, attend: Attend, after: nn.Module) -> None:
        super().__init__()
        self.before, self.attend, self.after = before, attend, after

    def forward(self, x: Tensor, seq_len: int, at: Tensor | None = None) -> Tensor:
        """Map x [tokens, dim] of sequences of `seq_len`, at the positions `at`, to the next x."""
        q, k, v, *more = self.before(x, at)
        q, k, v = (part.unflatten(0, (-1, seq_len)) for part in (q, k, v))
        next_x: Tensor = self.after(x, self.attend(q, k, v).flatten(0, 1).flatten(1), *more)
        return next_x


class HeadLoss(nn.Module):
    """Norm, output projection and cross entropy, for some of the tokens."""

    def __init__(self, norm: nn.Module, dim: int, vocabulary: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm, self.head = norm, nn.Linear(dim, vocabulary, bias=False, dtype=dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Map x [..., dim] to logits [..., vocabulary]."""
        out: Tensor = self.head(self.norm(x))
        return out

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy, nats: of x [tokens, dim] against the token after each [tokens]."""
        return summed_cross_entropy(self.logits(x), targets)


class LanguageModel(nn.Module):
    """A model of bytes or words: `blocks` between an embedding and the loss, which share no weights.

    With `recompute`, only the input of each block is kept for the backward pass, and the block is computed
    again there.
    """

    def __init__(
        self,
        size: ModelSize,
        blocks: Sequence[Block],
        norm: nn.Module,
        dtype: torch.dtype,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.embed = nn.Embedding(size.vocabulary, size.dim, dtype=dtype)
        self.blocks = nn.ModuleList(blocks)
        self.loss = HeadLoss(norm, size.dim, size.vocabulary, dtype)
        for name, weight in self.named_parameters():
            if weight.dim() > 1 and not name.endswith("theta"):
                nn.init.normal_(weight, std=_INIT_STD)

    def logits(self, tokens: Tensor) -> Tensor:
        """Map tokens [batch, seq_len] to logits [batch, seq_len, vocabulary]."""
        logits: Tensor = self.loss.logits(self._hidden(tokens))
        return logits.view(*tokens.shape, -1)

    def next_logits(self, tokens: Tensor, at: Tensor, last: int = 1) -> Tensor:
        """Return the logits [batch, last, vocabulary] of what follows the last tokens.

        The tokens are int64 [batch, n], at positions `at`, int64 [n]. What came before them is what the
        attention of each layer has kept.
        """
        return self.loss.logits(self._hidden(tokens, at).unflatten(0, tokens.shape)[:, -last:])

    @property
    def attends(self) -> list[Attend]:
        """The attention of each layer."""
        return [block.attend for block in self._blocks]

    @contextmanager
    def attending(self, attends: Sequence[Attend]) -> Iterator[None]:
        """Give each layer another attention, for as long as the block runs."""
        before = self.attends
        try:
            for block, attend in zip(self._blocks, attends, strict=True):
                block.attend = attend
            yield
        finally:
            for block, attend in zip(self._blocks, before, strict=True):
                block.attend = attend

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy, nats per token: of tokens and the token after each, both int64."""
        parts = _parts(tokens.numel())
        xs, wanted = self._hidden(tokens).chunk(parts), targets.flatten().chunk(parts)
        total: Tensor = sum(self.loss(x, part) for x, part in zip(xs, wanted, strict=True))
        return total / tokens.numel()

    def compile_parts(self, backend: str | Backend = "inductor") -> None:
        """Compile everything but the attention: equal parts of the blocks are compiled once.

        A part that cannot be compiled as a whole raises an error when it first runs.
        """
        parts = [part for block in self._blocks for part in (block.before, block.after)]
        for part in (*parts, self.loss):
            part.compile(backend=backend, dynamic=False, fullgraph=True)

    def _hidden(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        x: Tensor = self.embed(tokens.flatten())
        seq_len = tokens.shape[1]
        for block in self._blocks:
            if self.recompute:
                x = checkpoint(block, x, seq_len, use_reentrant=False)
            else:
                x = block(x, seq_len, at)
        return x

    @property
    def _blocks(self) -> Iterator[Block]:
        return (block for block in self.blocks if isinstance(block, Block))


def _parts(tokens: int) -> int:
    """Return into how many parts the loss of so many tokens is cut: equal ones if that takes few more."""
    least = -(-tokens // _LOSS_TOKENS)
    return next((parts for parts in range(least, 2 * least) if tokens % parts == 0), least)


def products(x: Tensor, linear: nn.Linear, widths: Sequence[int]) -> list[Tensor]:
    """Return linear(x), without a bias, cut into parts of these widths.

    Where gradients are wanted, each part is a product of its own: those of one product would have to be
    concatenated, for which torch.compile makes kernels that take twice the time of their memory traffic.
    Else it is one product, which reads x once.
    """
    if not torch.is_grad_enabled():
        return list(linear(x).split(list(widths), dim=-1))
    return [functional.linear(x, weight) for weight in linear.weight.split(list(widths))]


def heads_of(x: Tensor, heads: int) -> Tensor:
    """Return x [tokens, heads · d] as [tokens, heads, d]."""
    parts: Tensor = x.unflatten(-1, (heads, -1))
    return parts


def positions(seq_len: int, dtype: torch.dtype) -> Tensor:
    """Return 0, 1, … in the dtype of angles, on the default device: at least fp32, else they repeat."""
    return torch.arange(seq_len, dtype=torch.promote_types(dtype, torch.float32))
