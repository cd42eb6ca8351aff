"""One model that generates: a prompt at once, then token by token, always the likeliest one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lightning_bench.case import Shape
from lightning_bench.measure.device.graph import capture_graph
from lightning_bench.measure.device.lap_clock import LapClock
from lightning_bench.measure.training.model_gate import slopes_of_layers
from lightning_bench.models.language_model import LanguageModel
from lightning_bench.models.model_sizes import ModelSize
from lightning_bench.models.plugged_attention import exact_attention, model_on
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.decoding import AttentionCache, CacheSpec, NextToken

SPAN = 256
"""Where a step reads as many places as it is told, they are a multiple of this: one CUDA graph for each."""


class CachedAttention:
    """Attention of one layer as a model calls it: a prompt of several tokens begins anew, one goes on."""

    def __init__(self, cache: AttentionCache, token: Callable[[], NextToken]) -> None:
        self.cache, self._token = cache, token

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map q, k, v [batch, n, heads, ·] to o like v."""
        if q.shape[1] > 1:
            return self.cache.prefill(q, k, v)
        return self.cache.step(q[:, 0], k[:, 0], v[:, 0], self._token())[:, None]


class Generator:
    """A model of `size` on a loaded provider, with the caches of all its layers, on the default device.

    That is the device of `shape`, which has the batch, the length of the prompts (from 2) and the new tokens
    (from 2). A step that is told how many places of a cache to read is told a multiple of `span`. Decoding
    is replayed from CUDA graphs once `capture` has been called. Nothing waits for the device.
    """

    def __init__(self, size: ModelSize, provider: Provider, shape: Shape, *, span: int = SPAN) -> None:
        self.size = size
        self.shape, self.length = shape, shape.seq_len + shape.model_run.new_tokens
        self._unit = span
        self._graphs: dict[int, Callable[[], object]] = {}
        self._dtype = dtype = torch_dtype(shape.dtype)
        self.slopes = slopes_of_layers(size, shape)
        attends = [
            CachedAttention(provider.cache(self._spec(size, layer, slopes, dtype)), lambda: self._next)
            for layer, slopes in enumerate(self.slopes)
        ]
        self.caches = [attend.cache for attend in attends]
        self.model: LanguageModel = model_on(size, attends, self.length, dtype)
        self.model.requires_grad_(False)
        self._places = torch.arange(self._spanned(self.length))
        self._position = torch.zeros(1, dtype=torch.int64)
        # One column more than there are tokens: the last step may be repeated while a graph is captured.
        self._tokens = torch.zeros((shape.batch, self.length + 1), dtype=torch.int64)

    def _spec(self, size: ModelSize, layer: int, slopes: Tensor, dtype: torch.dtype) -> CacheSpec:
        dims = size.layer_head_dim(layer), size.head_dim
        length = self._spanned(self.length)
        return CacheSpec(self.shape.batch, size.heads, *dims, length, dtype, slopes)

    def _spanned(self, tokens: int) -> int:
        return -(-tokens // self._unit) * self._unit

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches."""
        return sum(cache.bytes for cache in self.caches)

    @property
    def new(self) -> Tensor:
        """The tokens generated last, [batch, new_tokens]; they are overwritten by the next ones."""
        return self._tokens[:, self.shape.seq_len : self.length]

    def capture(self) -> None:
        """Capture every decoding step in a CUDA graph. Raise NoGraphError if one cannot be captured."""
        self._tokens.clamp_(min=0)  # a step reads a token, and later ones have not been generated
        for position in range(self.shape.seq_len, self.length - 1):
            if (span := self._span(position)) not in self._graphs:
                self._position.fill_(position)
                self._graphs[span] = capture_graph(partial(partial, self._step, span))

    def generate(self, prompt: Tensor, clock: LapClock) -> None:
        """Continue prompts [batch, seq_len] by all new tokens; the clock is marked before each phase.

        The first new token belongs to the prefill.
        """
        clock.mark()
        self.prefill(prompt)
        clock.mark()
        self.decode(self.shape.model_run.new_tokens - 1)

    @torch.no_grad()
    def prefill(self, prompt: Tensor) -> Tensor:
        """Read the prompts and choose their next tokens. Return the logits, [batch, vocabulary]."""
        n = self.shape.seq_len
        self._tokens.fill_(-1)
        self._tokens[:, :n] = prompt
        self._position.fill_(n - 1)
        logits = self.model.next_logits(prompt, self._places[:n])[:, -1]
        self._choose(logits)
        return logits

    @torch.no_grad()
    def exact_logits(self, sequence: Tensor) -> Tensor:
        """Return the logits of all new tokens of a sequence [1, length], [1, new_tokens, vocabulary].

        They are those of one pass with exact attention, in fp64; all else is as in the steps, not compiled.
        """
        attention, count = exact_attention(self.size), self.shape.model_run.new_tokens
        attends = [attention(slopes) for slopes in self.slopes]
        with self.model.attending(attends), torch.compiler.set_stance("force_eager"):
            return self.model.next_logits(sequence[:, :-1], self._places[: self.length - 1], count)

    def decode(self, count: int) -> None:
        """Take so many steps after a prefill."""
        for position in range(self.shape.seq_len, self.shape.seq_len + count):
            span = self._span(position)
            self._graphs.get(span, partial(self._step, span))()

    def steps(self, count: int) -> list[Tensor]:
        """Take so many steps after a prefill, without CUDA graphs. Return the logits of each."""
        first = self.shape.seq_len
        return [self._step(self._span(position)) for position in range(first, first + count)]

    def _span(self, position: int) -> int:
        """Return how many places a step at this position reads of caches that have to be told."""
        told = any(cache.spans for cache in self.caches)
        return self._spanned(position + 1) if told else len(self._places)

    @torch.no_grad()
    def _step(self, span: int) -> Tensor:
        fed = self._tokens.index_select(1, self._position)
        later = self._places[:span] > self._position
        mask = torch.zeros(span, dtype=self._dtype, device=later.device)
        mask.masked_fill_(later, -math.inf)
        self._next = NextToken(self._position, self._position.int().expand(len(fed)).contiguous(), mask)
        logits = self.model.next_logits(fed, self._position)[:, -1]
        self._choose(logits)
        return logits

    def _choose(self, logits: Tensor) -> None:
        self._position.add_(1)
        self._tokens.index_copy_(1, self._position, logits.argmax(-1, keepdim=True))
        self._position.clamp_(max=self.length - 1)
