"""Batches as an engine serves them, and what fp64 says of them, token by token."""

from dataclasses import dataclass, field
from itertools import pairwise

import torch

from lightning_kernels import Snapshots

BUDGET = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3, torch.float64: 1e-13}


@dataclass
class Batch:
    """A packed batch with its pool of states; `options` are the arguments that a call may leave out."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    s: torch.Tensor | None
    state: torch.Tensor
    cu_seqlens: torch.Tensor
    state_indices: torch.Tensor
    scale: float = 0.5
    options: dict = field(default_factory=dict)

    def call(self, serve, state):
        """Return o of a call on `state`, which it updates."""
        return serve(
            self.q, self.k, self.v, self.s, state=state, cu_seqlens=self.cu_seqlens,
            state_indices=self.state_indices, scale=self.scale, **self.options,
        )  # fmt: skip

    def vector(self, name, default):
        given = self.options.get(name)
        return [default] * len(self.state_indices) if given is None else given.tolist()

    def expected(self):
        """Return o, the pool afterwards and the set of slots that were written, in fp64."""
        bounds, slots = self.cu_seqlens.tolist(), self.state_indices.tolist()
        output = self.options.get("output_state_indices")
        output = slots if output is None else output.tolist()
        begun, before = self.vector("has_initial_state", True), self.vector("context_lens", 0)
        snapshots = self.options.get("snapshots")
        group = self.q.shape[1] // self.k.shape[1]
        q = self.q.double() * self.scale
        k, v = (x.double().repeat_interleave(group, 1) for x in (self.k, self.v))
        decay = 1.0 if self.s is None else torch.exp(-self.s.double()).reshape(-1, 1, 1)
        o, pool, written = q.new_zeros(*q.shape[:2], v.shape[2]), self.state.to(torch.float64, copy=True), {}
        for i, (first, end) in enumerate(pairwise(bounds)):
            if slots[i] < 0 or first == end:
                continue
            x = self.state[slots[i]].double() if begun[i] else torch.zeros_like(pool[0])
            column = 0
            for t in range(first, end):
                x = decay * x + k[t, :, :, None] * v[t, :, None, :]
                o[t] = (q[t, :, None] @ x)[:, 0]
                if snapshots is not None and (before[i] + t - first + 1) % snapshots.every == 0:
                    if column < snapshots.indices.shape[1]:
                        written[int(snapshots.indices[i, column])] = x
                    column += 1
            written[output[i]] = x
        written.pop(-1, None)
        for slot, x in written.items():
            pool[slot] = x
        return o, pool, set(written)


def make_batch(
    lengths, *, heads=2, kv_heads=1, d=16, e=16, dtype=torch.float32, pool_dtype=torch.float32, slope=0.3,
    slots=None, spare=2, beyond=0, seed=0, device="cpu", **options,
):  # fmt: skip
    """Return a random Batch of sequences of these lengths, `beyond` rows of none and `spare` slots.

    Slots that no sequence begins with hold NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    count, tokens = len(lengths), sum(lengths) + beyond

    def rows(number, dim):
        return torch.randn(tokens, number, dim, generator=generator).to(device, dtype)

    if slots is None:
        slots = torch.randperm(count + spare, generator=generator)[:count].tolist()
    state = torch.full((max([*slots, count]) + spare, heads, d, e), float("nan"))
    for slot in slots:
        if slot >= 0:
            state[slot] = torch.randn(heads, d, e, generator=generator)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    return Batch(
        rows(heads, d) * d**-0.25, rows(kv_heads, d) * d**-0.25, rows(kv_heads, e),
        None if slope is None else torch.linspace(slope, 0, heads, device=device),
        state.to(device, torch.float64 if dtype == torch.float64 else pool_dtype),
        bounds.to(device, torch.int32), int32(*slots, device=device), options=options,
    )  # fmt: skip


def part_of_another(pool, layout):
    """Return an equal pool as engines have it, in a tensor that is NaN elsewhere."""
    slots, heads, d, e = pool.shape
    count = heads * d * e

    def larger(*shape):
        return torch.full(shape, float("nan"), dtype=pool.dtype, device=pool.device)

    parts = {
        "pages": lambda: larger(slots, count + 24)[:, 8 : 8 + count].unflatten(1, (heads, d, e)),
        "layers": lambda: larger(slots, 3, heads, d, e)[:, 1],
        "heads": lambda: larger(slots, heads + 3, d, e)[:, 2 : 2 + heads],
        "rows": lambda: larger(slots, heads, d, e + 5)[..., 2 : 2 + e],
        "address": lambda: larger(slots * count + 5)[3 : 3 + slots * count].view(pool.shape),
    }
    return parts[layout]().copy_(pool)


def cloned(x):
    """Return a copy of a tensor at the same place in a copy of all its memory."""
    memory = x.untyped_storage().clone()
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(
        memory, x.storage_offset(), x.shape, x.stride()
    )


def same_around(one, other):
    """Say whether the memory of two tensors is the same outside of them."""
    around = [cloned(x) for x in (one, other)]
    for x in around:
        x.zero_()
    memory = [torch.empty(0, dtype=torch.uint8, device=x.device).set_(x.untyped_storage()) for x in around]
    return torch.equal(*memory)


def int32(*numbers, device="cpu"):
    return torch.tensor(numbers, dtype=torch.int32, device=device)


def snapshots(every, rows, device="cpu"):
    return Snapshots(every, torch.tensor(rows, dtype=torch.int32, device=device))


def same_bits(one, other):
    """Say whether two tensors are equal bit for bit, NaN included."""
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    return torch.equal(*(x.contiguous().view(kinds[x.element_size()]) for x in (one, other)))


def check_batch(serve, batch, slack=1.0):
    """Compare o, the states that are written and all that is not with fp64; return o and the pool."""
    expected, expected_pool, written = batch.expected()
    pool = cloned(batch.state)
    o = batch.call(serve, pool)
    assert same_around(pool, batch.state)
    assert o.shape == expected.shape
    assert o.dtype == batch.q.dtype
    budget = BUDGET[batch.q.dtype] * slack
    state_budget = max(budget, 2.0**-8 if pool.dtype == torch.bfloat16 else 0.0)
    # Few elements may be sums that cancel.
    norm = float(expected.norm()) + 1e-2 * expected.numel() ** 0.5
    assert float((o.double() - expected).norm()) <= budget * norm
    for slot in range(len(pool)):
        if slot not in written:
            assert same_bits(pool[slot], batch.state[slot]), f"slot {slot} is of nobody"
            continue
        error = float((pool[slot].double() - expected_pool[slot]).norm())
        assert error <= state_budget * float(expected_pool[slot].norm()), slot
    for i, (first, end) in enumerate(pairwise(batch.cu_seqlens.tolist())):
        if batch.state_indices[i] < 0:
            assert not o[first:end].any()
    assert not o[batch.cu_seqlens[-1] :].any()
    return o, pool
