"""One call for states without o, as a value, and what its backward pass returns."""

from typing import NamedTuple

import torch
from torch import Tensor


class StateCall(NamedTuple):
    """What is computed from keys and values only, in the order of the operator's schema."""

    k: Tensor
    """[b, kv_heads, n, head_dim]; kv_heads divides `heads`."""
    v: Tensor
    """[b, kv_heads, n, value_dim]."""
    slopes: Tensor | None
    """s per token, [heads] or [heads, 1, 1]; None is no decay."""
    initial_state: Tensor | None
    """[b or num_seqs, heads, head_dim, value_dim]; None is zeros."""
    cu_seqlens: Tensor | None
    """int32 [num_seqs + 1]: bounds of sequences that are packed along n in a batch of 1."""
    heads: int
    """How many heads the states have."""
    every: int
    """After how many tokens states are wanted; 0 for the one after the last token only."""
    scale: float = 1.0
    """What products of keys and values are multiplied by; 1 but in reverse."""
    reverse: bool = False
    """Whether the state that leaves the first token in reverse is wanted (`Core`); every is 0 then."""

    def sequences(self) -> int:
        """Return how many sequences there are."""
        return self.k.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    def places(self, every: int) -> int:
        """Return how many places there are for states after each `every` tokens."""
        n = self.k.shape[2]
        return -(-n // every) if self.cu_seqlens is None else n // every + self.sequences()

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the result."""
        d, e = self.k.shape[3], self.v.shape[3]
        if not self.every:
            return self.sequences(), self.heads, d, e
        return self.k.shape[0], self.heads, self.places(self.every), d, e

    def needs_grad(self) -> bool:
        """Say whether autograd must record the call."""
        state = self.initial_state
        return torch.is_grad_enabled() and (
            self.k.requires_grad or self.v.requires_grad or (state is not None and state.requires_grad)
        )


class StateGradients(NamedTuple):
    """What a backward pass returns; a gradient that is not wanted is None."""

    dk: Tensor | None
    dv: Tensor | None
    d_initial: Tensor | None


def check_every(every: int, cp: object = None) -> int:
    """Return after how many tokens states are wanted.

    Raises:
        ValueError: if it is not an int of at least 1, or if tokens lie on the ranks of a `ContextParallel`.
    """
    if cp is not None:
        raise ValueError("return_states_every takes whole sequences, not parts of them on the ranks of cp")
    if isinstance(every, bool) or not isinstance(every, int | torch.SymInt) or every < 1:
        raise ValueError(f"return_states_every must be an int of at least 1, tokens per chunk, got {every!r}")
    return every
