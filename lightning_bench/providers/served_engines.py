"""The Lightning Attention kernels of SGLang and vLLM, called as these engines call them."""

from __future__ import annotations

from importlib import import_module
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPES, Direction, Family, Layout, Shape
from lightning_bench.providers.registry.base import Inputs, Provider
from lightning_bench.providers.registry.package_file import load_package_file
from lightning_bench.providers.served import Batch, ServedProvider

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from torch import Tensor

_SEG_LA = ("kernels/ops/attention/linear/seg_la.py", "srt/layers/attention/linear/seg_la.py")
_MINIMAX = ("kernels/ops/attention/linear/lightning_attn.py", "srt/layers/attention/linear/lightning_attn.py")
_SUMMED = 2048
"""From so many tokens on, seg_la adds its parts by a kernel that wants a power of two of heads · head_dim."""


def _seg_la() -> ModuleType:
    return load_package_file("sglang", *_SEG_LA)


class SglangSegLa(ServedProvider):
    """`seg_la_fwd`, SGLang's default: one launch, and one that adds what parts of head_dim give."""

    name = "sglang-seg-la"
    label = "SGLang seg_la"
    package = "sglang"
    summary = "Triton, one launch per batch, states in a pool; TF32 in its dots"
    packs = True
    square = True
    head_dims = 64

    def load(self) -> None:
        """Import the kernel's file. Raise ImportError if the installed version has none."""
        _seg_la().seg_la_fwd  # noqa: B018

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the kernel does not support this case, or None."""
        reason = super().unsupported(shape, direction)
        tokens, width = shape.batch * shape.seq_len, shape.heads * shape.head_dim
        decodes = tokens == max(shape.batch, len(shape.variant.documents))
        if reason is None and decodes and shape.head_dim % 128:
            return f"{self.name} decodes multiples of 128 as head_dim, not {shape.head_dim}"
        if reason is None and not decodes and tokens >= _SUMMED and width & (width - 1):
            return (
                f"{self.name} takes a power of two as heads · head_dim from {_SUMMED} tokens on, not {width}"
            )
        return reason

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call."""
        seg_la = _seg_la()
        meta = _meta(seg_la, batch.bounds, batch.slots, batch.longest)
        q, k, v, pool, slopes = batch.q, batch.k, batch.v, batch.pool, batch.slopes
        return lambda: batch.as_given(seg_la.seg_la_fwd(q, k, v, pool, slopes, meta, softmax_scale=1.0))


def _meta(seg_la: ModuleType, bounds: Tensor, slots: Tensor, longest: int) -> Any:
    """Return the SegLaMeta of a batch whose sequences all have a state."""
    lengths = bounds.diff()
    return seg_la.SegLaMeta(
        batch_size=len(slots), max_q_length=longest, q_offsets=bounds, s_offsets=slots, q_lengths=lengths,
        s_scales=lengths.new_ones(len(slots)),
    )  # fmt: skip


class SglangSegLaVerify(Provider):
    """`seg_la_fwd` with caches: the state after each token of the draft is kept, and one of them copied."""

    name = "sglang-seg-la-verify"
    label = "SGLang seg_la, drafts"
    package = "sglang"
    summary = "Triton, a state per token of the draft; torch copies that of the accepted ones"
    family: ClassVar[Family] = "drafting"
    layout: ClassVar[Layout] = "bnhd"
    directions: ClassVar[tuple[Direction, ...]] = ("fwd",)

    def load(self) -> None:
        """Import the kernel's file. Raise ImportError if the installed version has none."""
        _seg_la().seg_la_fwd  # noqa: B018

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the kernel does not support this case, or None."""
        reason = super().unsupported(shape, direction)
        if reason is None and (shape.value_dim != shape.head_dim or shape.head_dim % 64):
            return f"{self.name} takes equal multiples of 64 as head_dim and value_dim, not {_dims(shape)}"
        if reason is None and shape.seq_len == 1:
            return f"{self.name} takes drafts of 2 tokens or more, not 1"
        return reason

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, n, h, value_dim] and updates the pool."""
        import torch

        seg_la = _seg_la()
        batch, n = inputs.q.shape[:2]
        q, k, v = (x.detach().flatten(0, 1) for x in (inputs.q, inputs.k, inputs.v))
        pool, slots = inputs["state"], inputs["slots"]
        bounds = torch.arange(0, batch * n + 1, n, dtype=torch.int32, device=q.device)
        meta = _meta(seg_la, bounds, slots, n)
        caches = pool.new_empty(batch, n, *pool.shape[1:])
        rows = torch.arange(batch, dtype=torch.int32, device=q.device)
        kept, last, index = rows.long(), inputs["accepted"][:, 0] - 1, slots.long()

        def verified() -> Tensor:
            o = seg_la.seg_la_fwd(
                q, k, v, pool, inputs.decay, meta, caches=caches, cache_indices=rows, softmax_scale=1.0
            )
            pool.index_copy_(0, index, caches[kept, last])
            return o.unflatten(0, (batch, n))  # type: ignore[no-any-return]

        return verified


class VllmLightning(ServedProvider):
    """vLLM's layer of MiniMax: a decode kernel, and for each prompt four kernels, called in a loop.

    The layer computes in fp32, so the inputs are cast in the call, and the output is cast back.
    """

    name = "vllm-lightning"
    label = "vLLM lightning_attn"
    package = "vllm"
    summary = "Triton, prompts one by one; casts to fp32, TF32 in its dots"
    packs = True
    square = True
    head_dims = 64
    dtypes = DTYPES
    tf32 = True

    def load(self) -> None:
        """Import the module. Raise ImportError if the installed version has none."""
        self._kernels()

    def _kernels(self) -> Any:
        return import_module("vllm.model_executor.layers.lightning_attn")

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call: runs of sequences with one token each are decoded together."""
        import torch

        kernels, pool, slots = self._kernels(), batch.pool, batch.slots
        slopes, dtype = batch.slopes[:, None, None], batch.q.dtype
        parts = [*_parts(batch.lengths)]
        places = batch.slots.tolist()

        def prompt(q: Tensor, k: Tensor, v: Tensor, slot: int) -> Tensor:
            q, k, v = (x.transpose(0, 1).contiguous()[None] for x in (q, k, v))
            o, history = kernels.lightning_attention(
                q, k, v, slopes, block_size=256, kv_history=pool[slot][None]
            )
            pool[slot].copy_(history[0, :, -1])
            return o[0].transpose(0, 1)  # type: ignore[no-any-return]

        def tokens(q: Tensor, k: Tensor, v: Tensor, of: Tensor) -> Tensor:
            q, k, v = (x.unsqueeze(2).contiguous() for x in (q, k, v))
            o = kernels.linear_decode_forward_triton(q, k, v, pool, slopes, of, 32)
            return o.unflatten(1, (q.shape[1], -1))  # type: ignore[no-any-return]

        def served() -> Tensor:
            rows = [x.float() for x in (batch.q, batch.k, batch.v)]
            outputs = []
            for sequence, count, first, end in parts:
                q, k, v = (x[first:end] for x in rows)
                if end - first == count:
                    outputs.append(tokens(q, k, v, slots[sequence : sequence + count]))
                else:
                    outputs.append(prompt(q, k, v, places[sequence]))
            return batch.as_given(torch.cat(outputs).to(dtype))

        return served


class SglangMinimax(VllmLightning):
    """SGLang's `linear_backend` "minimax": the kernels of vLLM, adapted."""

    name = "sglang-minimax"
    label = "SGLang minimax"
    package = "sglang"

    def _kernels(self) -> Any:
        return load_package_file("sglang", *_MINIMAX)


def _parts(lengths: list[int]) -> list[tuple[int, int, int, int]]:
    """Return (first sequence, sequences, first token, end) of each prompt and each run of single tokens."""
    bounds = pairwise(accumulate(lengths, initial=0))
    spans = [(number, first, end) for number, (first, end) in enumerate(bounds)]
    found = []
    for single, run in groupby(spans, key=lambda span: span[2] - span[1] == 1):
        members = list(run)
        if single:
            found.append((members[0][0], len(members), members[0][1], members[-1][2]))
        else:
            found += [(number, 1, first, end) for number, first, end in members]
    return found


def _dims(shape: Shape) -> str:
    return f"{shape.head_dim} and {shape.value_dim}"
