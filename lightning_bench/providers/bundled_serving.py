"""The bundled kernels that serve: batches against a pool of states, decoding steps, and drafts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import Direction, Family, Layout, Shape
from lightning_bench.providers.bundled import BundledProvider, kernels_attribute
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Inputs
from lightning_bench.providers.served import Batch, ServedProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_WHOLE_BLOCKS = 1024
"""Tokens before a call: a multiple of every block."""


class Lightning2Serve(ServedProvider, BundledProvider):
    """`lightning_attn2_serve`: any batch in one launch, the pool updated in place."""

    name = "lightning2-serve"
    label = "Lightning Attention-2, serving (ours)"
    summary = "bundled Triton kernel, a mixed batch in one launch, states in a pool"
    function = "lightning_attn2_serve"
    family: ClassVar[Family] = "serving"
    dims: ClassVar[tuple[int, int] | None] = (1, 256)
    needs: ClassVar[tuple[str, ...]] = ("triton",)
    packs = True
    grouped_heads = True

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call; the host knows the longest sequence, as the scheduler of an engine does."""
        call = partial(
            self._function(), batch.q, batch.k, batch.v, batch.slopes, state=batch.pool,
            cu_seqlens=batch.bounds, state_indices=batch.slots, max_seqlen=batch.longest,
        )  # fmt: skip
        return lambda: batch.as_given(call())


class Lightning2ServeTorch(Lightning2Serve):
    """`lightning_attn2_serve_torch`: sequence by sequence in torch operations, on any device."""

    name = "lightning2-serve-torch"
    label = "Lightning Attention-2, serving (PyTorch)"
    summary = "bundled, sequence by sequence in torch operations; runs on the CPU too"
    function = "lightning_attn2_serve_torch"
    devices = ("cuda", "cpu")
    dims = None
    needs = ()


class Lightning2ServeBitwise(Lightning2Serve):
    """`lightning_attn2_serve_bitwise` on whole blocks, after which its pool holds what others' pools do."""

    name = "lightning2-serve-bitwise"
    label = "Lightning Attention-2, serving, equal bits (ours)"
    summary = "bundled Triton kernel whose bits do not depend on the batch; whole blocks only"
    function = "lightning_attn2_serve_bitwise"

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the function does not support this case, or None."""
        reason = super().unsupported(shape, direction)
        if reason is not None:
            return reason
        block = self._tails(
            1, 1, (shape.head_dim, shape.value_dim), torch_dtype(shape.dtype), "meta"
        ).v.shape[2]
        odd = [n for n in shape.variant.documents or (shape.seq_len,) if n % block]
        return (
            f"{self.name} leaves other states than multiples of {block} tokens do, as {odd[0]}"
            if odd
            else None
        )

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call, of sequences that have had so many tokens that no block is open."""
        import torch

        slots, heads, *dims = batch.pool.shape
        tails = self._tails(slots, heads, dims, batch.q.dtype, batch.q.device)
        before = torch.full_like(batch.slots, _WHOLE_BLOCKS)
        call = partial(
            self._function(), batch.q, batch.k, batch.v, batch.slopes, state=batch.pool, tails=tails,
            cu_seqlens=batch.bounds, state_indices=batch.slots, context_lens=before,
        )  # fmt: skip
        return lambda: batch.as_given(call())

    def _tails(self, slots: int, heads: int, dims: Sequence[int], dtype: Any, device: Any) -> Any:
        return kernels_attribute("make_tails")(slots, heads, *dims, dtype, device)


class Lightning2Step(Lightning2Serve):
    """`lightning_attn2_step` with `state_indices`: one token of each sequence."""

    name = "lightning2-step"
    label = "Lightning Attention-2, decoding step (ours)"
    summary = "bundled Triton kernel, one token of each sequence, states in a pool"
    function = "lightning_attn2_step"
    packs = False
    one_token = True

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call of one step."""
        call = partial(
            self._function(),
            batch.q,
            batch.k,
            batch.v,
            batch.slopes,
            state=batch.pool,
            state_indices=batch.slots,
        )
        return lambda: batch.as_given(call())


class Lightning2State(Lightning2Serve):
    """`lightning_attn2` with an initial and a final state, copied from the pool and into it by torch."""

    name = "lightning2-state"
    label = "Lightning Attention-2, states copied (ours)"
    summary = "bundled kernels for training, with states; torch copies these from the pool and back"
    function = "lightning_attn2"
    dims = (16, 256)

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the three calls as one."""
        q, k, v = (x[None] for x in (batch.q, batch.k, batch.v))
        given = {"return_state": True, "cu_seqlens": batch.bounds, "layout": "bnhd"}
        call: Callable[..., Any] = partial(self._function(), q, k, v, batch.slopes, **given)
        return batch.carried(lambda states: call(initial_state=states))


class Lightning2Verify(BundledProvider):
    """`lightning_attn2_verify`, then `lightning_attn2_commit` of what is accepted: two launches."""

    name = "lightning2-verify"
    label = "Lightning Attention-2, drafts (ours)"
    summary = "bundled Triton kernels, a draft verified, its accepted tokens committed"
    family: ClassVar[Family] = "drafting"
    layout: ClassVar[Layout] = "bnhd"
    directions: ClassVar[tuple[Direction, ...]] = ("fwd",)
    function = "lightning_attn2_verify"
    commit: ClassVar[str] = "lightning_attn2_commit"
    dims: ClassVar[tuple[int, int] | None] = (1, 256)
    needs: ClassVar[tuple[str, ...]] = ("triton",)
    grouped_heads = True

    def functions(self, metric: str) -> tuple[str, ...]:
        """Return both functions."""
        return (self.function, self.commit)

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return the two calls as one, whose output is [b, n, h, value_dim]."""
        import torch

        q, k, v = (x.detach() for x in (inputs.q, inputs.k, inputs.v))
        states = {"state": inputs["state"], "state_indices": inputs["slots"]}
        accepted = inputs["accepted"][:, 0].to(torch.int32)
        verify = partial(self._function(), q, k, v, inputs.decay, **states)
        commit = partial(kernels_attribute(self.commit), k, v, inputs.decay, num_accepted=accepted, **states)

        def verified() -> Tensor:
            o = verify()
            commit()
            return o

        return verified


class Lightning2VerifyTorch(Lightning2Verify):
    """The same two functions in torch operations, on any device."""

    name = "lightning2-verify-torch"
    label = "Lightning Attention-2, drafts (PyTorch)"
    summary = "bundled, drafts token by token in torch operations; runs on the CPU too"
    function = "lightning_attn2_verify_torch"
    commit = "lightning_attn2_commit_torch"
    devices = ("cuda", "cpu")
    dims = None
    needs = ()
