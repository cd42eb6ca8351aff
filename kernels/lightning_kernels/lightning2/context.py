"""Context parallelism: the tokens of a sequence lie on the ranks of a group, some thousands on each.

With a fixed decay, what the ranks before leave to a rank is one state,

    S_r = Σ_{r' < r} λ^(tokens between) E_{r'},

E_{r'} being the state that the tokens of rank r' leave behind, from zeros. So a rank computes E, gathers
those of all, adds up what is before it, always in the same order, and computes its rows from S as a call with
an initial state does. Backward is the same from the right: with G_r the gradient of S_r by the rows of
rank r, the gradient of the state that leaves rank r is H_r = Σ_{r' > r} λ^(tokens between) G_{r'}.

A rank sends and receives one state per head forward and one backward, however many tokens it has (LASP-2,
arXiv 2502.07563). Of packed sequences only those that lie across a border take part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..common.allocate import empty_state, unit_last_stride
from ..common.autograd import differentiable
from ..common.call import Call, Gradients, Upstream
from .tiles import STEEPEST

all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Under its newer name, where torch has it: from 2.13 on the older one warns."""
OVERLAPPED_BYTES = 2**27
"""From so many bytes of states of all ranks, which take a third of a millisecond at 400 GB/s."""
_PARTS = 4


class Shard(NamedTuple):
    """What a rank holds of the sequences: pieces of them, in their order."""

    bounds: tuple[int, ...]
    """Where its pieces begin and end among its own tokens, from 0 on."""
    first: int
    """The sequence of which the first piece is."""
    continues: bool
    """Whether its first piece continues a sequence that begins on an earlier rank."""
    goes_on: bool
    """Whether its last piece goes on at the next rank."""

    @property
    def passes_on(self) -> int | None:
        """The tokens over which a state passes through the rank; None where none does."""
        through = self.continues and self.goes_on and len(self.bounds) == 2
        return self.bounds[1] if through else None


@dataclass(frozen=True)
class ContextParallel:
    """How the tokens of one batch lie on the ranks of a group, in the order of the ranks.

    All ranks give the same `lengths` and `cu_seqlens`, and call forward and backward in the same order.

    Args:
        group: the ranks; None is the default group.
        lengths: the number of tokens on each rank, at least 1; None where all have as many as this one.
        cu_seqlens: bounds of the sequences that are packed along the tokens of all ranks together, from 0,
            increasing, to at most their number; None where each batch entry is one sequence. A rank then
            holds pieces of sequences (`sequences`).

    Raises:
        ValueError: if lengths or cu_seqlens are not as above.
    """

    group: "dist.ProcessGroup | None" = None
    lengths: tuple[int, ...] | None = None
    cu_seqlens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.lengths is not None:
            object.__setattr__(self, "lengths", tuple(int(n) for n in self.lengths))
            if len(self.lengths) != self.ranks or min(self.lengths) < 1:
                raise ValueError(
                    f"lengths must be the number of tokens, at least 1, on each of {self.ranks} ranks, "
                    f"got {self.lengths}"
                )
        if self.cu_seqlens is not None:
            bounds = tuple(int(bound) for bound in self.cu_seqlens)
            object.__setattr__(self, "cu_seqlens", bounds)
            if len(bounds) < 2 or bounds[0] != 0 or any(a >= b for a, b in pairwise(bounds)):
                raise ValueError(f"cu_seqlens must begin at 0 and increase, got {bounds}")

    @property
    def rank(self) -> int:
        """This process's rank in the group."""
        return dist.get_rank(self.group)

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return dist.get_world_size(self.group)

    def sequences(self, n: int) -> range:
        """Return the packed sequences of which this rank, with n tokens, holds pieces.

        Initial states are given for these, and final states returned. The initial state of a sequence that
        begins on an earlier rank does not count here; the state of one that goes on is that so far.
        """
        mine = self.shards(n)[self.rank]
        return range(mine.first, mine.first + len(mine.bounds) - 1)

    def shards(self, n: int) -> tuple[Shard, ...]:
        """Return what each rank holds where this one has n tokens.

        Raises:
            ValueError: if n is not what `lengths` say, or the sequences are longer than all ranks together.
        """
        lengths = self.lengths or (n,) * self.ranks
        if lengths[self.rank] != n:
            raise ValueError(
                f"rank {self.rank} has {n} tokens, but lengths say {lengths[self.rank]}: {lengths}"
            )
        if self.cu_seqlens is None:
            last = len(lengths) - 1
            return tuple(Shard((0, size), 0, rank > 0, rank < last) for rank, size in enumerate(lengths))
        total = sum(lengths)
        if self.cu_seqlens[-1] > total:
            raise ValueError(f"cu_seqlens must end at most at the {total} tokens of all ranks together")
        return tuple(_shard(self.cu_seqlens, sum(lengths[:rank]), size) for rank, size in enumerate(lengths))


def _shard(bounds: tuple[int, ...], begin: int, size: int) -> Shard:
    """Return what tokens begin to begin + size − 1 hold of the sequences."""
    end = begin + size
    inside = [i for i, (a, b) in enumerate(pairwise(bounds)) if a < end and b > begin]
    if not inside:  # only tokens after the last sequence: one piece without tokens
        return Shard((0, 0), len(bounds) - 2, False, False)
    cuts = [max(bounds[i], begin) - begin for i in inside]
    last = bounds[inside[-1] + 1]
    return Shard((*cuts, min(last, end) - begin), inside[0], bounds[inside[0]] < begin, last > end)


class Passes(NamedTuple):
    """A form of the attention, by its passes; nothing that they do is recorded by autograd."""

    forward: Callable[[Call], tuple[Tensor, Tensor | None]]
    """Computes o and, where `Call.return_state`, the final state."""
    backward: Callable[[Upstream, Call], Gradients]
    leaving: Callable[[Call, bool], Tensor]
    """Computes only the state that leaves the last token of a call, or in reverse the first (`Core`), of each
    head of `Call.q`, of which nothing else counts."""


def local_call(call: Call, cp: ContextParallel) -> Call:
    """Return the call with the bounds of this rank's pieces, where sequences are packed.

    Raises:
        ValueError: if `cp` does not fit the call.
    """
    if call.cu_seqlens is not None:
        raise ValueError("with cp, packed sequences are given by ContextParallel(cu_seqlens=...)")
    bounds = cp.shards(call.q.shape[2])[cp.rank].bounds
    if cp.cu_seqlens is None:
        return call
    return call._replace(cu_seqlens=torch.tensor(bounds, dtype=torch.int32, device=call.q.device))


def attend_across(call: Call, cp: ContextParallel, passes: Passes) -> tuple[Tensor, Tensor | None]:
    """Compute the rows of this rank's tokens, and the states after its pieces, with their gradients.

    `call` is the rank's own (`local_call`), and has been checked.
    """
    shards = cp.shards(call.q.shape[2])
    if not any(shard.continues for shard in shards):
        return differentiable(call, passes.forward, passes.backward)
    mine, initial = shards[cp.rank], call.initial_state
    entering = _entering(call, cp, passes)
    if mine.continues and call.cu_seqlens is None:
        call = call._replace(initial_state=entering)
    elif mine.continues:
        rest = entering.new_zeros(len(mine.bounds) - 2, *entering.shape[1:])
        if initial is not None:
            rest = initial[1:].to(entering.dtype)
        call = call._replace(initial_state=torch.cat([entering, rest]))
    elif torch.compiler.is_compiling():
        call = call._replace(initial_state=_tied(_zeros(call) if initial is None else initial, entering))
    return differentiable(call, passes.forward, partial(_backward, cp, passes))


@torch.no_grad()
def _entering(call: Call, cp: ContextParallel, passes: Passes) -> Tensor:
    """Return S of this rank, the state that enters its first piece."""
    shards = cp.shards(call.q.shape[2])
    mine, initial = shards[cp.rank], call.initial_state
    if mine.continues and len(mine.bounds) == 2:
        initial = None  # its last piece begins on an earlier rank
    elif initial is not None and call.cu_seqlens is not None:
        initial = initial[-1:]
    leaves = None
    if mine.goes_on:
        piece = _piece(call, mine.bounds[-2], mine.bounds[-1], initial)
        leaves = partial(_leaving, passes, piece, False)
    return _sum_of_ranks(call, cp, leaves, range(cp.rank - 1, -1, -1))


def _backward(cp: ContextParallel, passes: Passes, upstream: Upstream, call: Call) -> Gradients:
    """Compute the gradients of a rank's call, whose final state has a gradient on later ranks too."""
    with torch.no_grad():
        upstream = upstream._replace(grad_state=_leaving_gradient(cp, passes, upstream, call))
    return passes.backward(upstream, call)


def _leaving_gradient(cp: ContextParallel, passes: Passes, upstream: Upstream, call: Call) -> Tensor | None:
    """Return the gradients of the states after this rank's pieces, that of the last with H."""
    shards = cp.shards(call.q.shape[2])
    mine, grad_state = shards[cp.rank], upstream.grad_state
    leaves = None
    if mine.continues:
        do = upstream.grad_o
        if do is None:
            do = call.q.new_zeros(*call.q.shape[:3], call.v.shape[3])
        of_first = grad_state
        if grad_state is not None and call.cu_seqlens is not None:
            of_first = grad_state[:1]
        # LAʳ(k, q, do), whose state leaves the first token.
        reverse = call._replace(k=call.q, v=unit_last_stride(do))
        leaves = partial(_leaving, passes, _piece(reverse, 0, mine.bounds[1], of_first), True)
    elif torch.compiler.is_compiling():
        upper = grad_state if upstream.grad_o is None else upstream.grad_o
        if upper is not None:
            tied = _tied(_zeros(call)[: call.q.shape[0]], upper)
            leaves = partial(_some_heads, tied)
    of_last = _sum_of_ranks(call, cp, leaves, range(cp.rank + 1, cp.ranks))
    if not mine.goes_on:
        if torch.compiler.is_compiling():
            return _tied(_zeros(call) if grad_state is None else grad_state, of_last)
        return grad_state
    if grad_state is None:
        before = 0 if call.cu_seqlens is None else len(mine.bounds) - 2
        return torch.cat([of_last.new_zeros(before, *of_last.shape[1:]), of_last])
    if call.cu_seqlens is None:
        return grad_state + of_last
    return torch.cat([grad_state[:-1], grad_state[-1:] + of_last])


def _tied(states: Tensor, to: Tensor) -> Tensor:
    """Return `states` as what depends on `to`.

    A compiler drops collectives of which nothing is used, and moves those of a backward pass that need no
    gradient into the forward pass. Then the ranks, which compile different graphs, no longer meet.
    """
    never = torch.zeros((), dtype=torch.bool, device=states.device)
    return torch.where(never, to.reshape(-1)[0].to(states.dtype), states)


def _piece(call: Call, first: int, end: int, entering: Tensor | None) -> Call:
    """Return the call of the one sequence of tokens first to end − 1, which `entering` enters."""
    q, k, v = (x[:, :, first:end] for x in call[:3])
    return call._replace(q=q, k=k, v=v, initial_state=entering, cu_seqlens=None)


def _zeros(call: Call) -> Tensor:
    """Return states of zeros."""
    return empty_state(call).zero_()


def _some_heads(states: Tensor, some: slice) -> Tensor:
    """Return the states of some heads."""
    return states[:, some]


def _leaving(passes: Passes, piece: Call, reverse: bool, some: slice) -> Tensor:
    """Compute the states that leave a piece, of some query heads, which are all of some kv heads."""
    q, k, v, slopes, initial = piece[:5]
    group = q.shape[1] // k.shape[1]
    kv = slice(some.start // group, some.stop // group)
    call = piece._replace(
        q=q[:, some],
        k=k[:, kv],
        v=v[:, kv],
        slopes=None if slopes is None else slopes[some],
        initial_state=None if initial is None else initial[:, some],
    )
    return passes.leaving(call, reverse)


def _sum_of_ranks(
    call: Call, cp: ContextParallel, leaves: Callable[[slice], Tensor] | None, ranks: range
) -> Tensor:
    """Return what `_sum` does of the states that leave `ranks`.

    `leaves` gives this rank's, of some heads; None is zeros. Where all of them are many bytes, a part of
    the heads is gathered while the states of the next part are computed.
    """
    shards, (b, heads) = cp.shards(call.q.shape[2]), call.q.shape[:2]
    per = heads // _parts(call, cp)
    # torch.compile orders collectives itself, and takes none that is waited for later.
    later = per < heads and not torch.compiler.is_compiling()
    sent = []
    for first in range(0, heads, per):
        some = slice(first, first + per)
        state = (_zeros(call)[:b, some] if leaves is None else leaves(some)).contiguous()
        gathered = state.new_empty(cp.ranks * b, *state.shape[1:])
        work = all_gather(gathered, state, group=cp.group, async_op=later)
        sent.append((some, state, gathered, work))
    totals = []
    for some, _, gathered, work in sent:
        if work is not None:
            work.wait()
        slopes = None if call.slopes is None else call.slopes[some]
        totals.append(_sum(slopes, shards, gathered.split(b), ranks))
    return totals[0] if len(totals) == 1 else torch.cat(totals, dim=1)


def _parts(call: Call, cp: ContextParallel) -> int:
    """Return into how many parts of the heads an exchange is cut, on every rank the same."""
    b, heads, _, d = call.q.shape
    gathered = 4 * cp.ranks * b * heads * d * call.v.shape[3]
    return 1 if gathered < OVERLAPPED_BYTES or call.k.shape[1] % _PARTS else _PARTS


def _sum(slopes: Tensor | None, shards: tuple[Shard, ...], states: Sequence[Tensor], ranks: range) -> Tensor:
    """Return Σ λ^(tokens between) of the states of `ranks`, from the nearest to where the sequence ends."""
    total, between = torch.zeros_like(states[0]), 0
    for rank in ranks:
        total = total + _decay(slopes, between, total.dtype) * states[rank]
        through = shards[rank].passes_on
        if through is None:
            break
        between += through
    return total


def _decay(slopes: Tensor | None, tokens: int, dtype: torch.dtype) -> Tensor | float:
    """Return λ^tokens of each head [heads, 1, 1], rounded once."""
    if slopes is None or tokens == 0:
        return 1.0
    rate = slopes.to(torch.float64).reshape(-1, 1, 1).clamp_max(STEEPEST)
    return torch.exp(-rate * tokens).to(dtype)
