"""What the ranks of a context-parallel group do, as processes forked from one that has imported torch.

    python -m tests.support.context_calls FOLDER CASE:RANKS...

Exit code 0: every rank found what it should.
"""

import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_kernels import ContextParallel
from lightning_kernels.lightning2 import context
from tests.support.kernel_cases import lk

HEADS, DIM, VALUES = 4, 8, 5
LENGTHS = [1, 2, 7, 64, 65, 130]
Sides = list[tuple[int, int]]


Attend = Callable[..., Any]


def lengths_of(ranks: int, make: random.Random) -> tuple[int, ...]:
    return tuple(make.choice(LENGTHS) for _ in range(ranks))


def inputs(b: int, kv_heads: int, n: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    make = torch.Generator(torch.get_default_device()).manual_seed(seed)
    shapes = (b, HEADS, n, DIM), (b, kv_heads, n, DIM), (b, kv_heads, n, VALUES)
    q, k, v = (torch.randn(shape, generator=make, dtype=torch.float64).to(dtype) for shape in shapes)
    return q, k, v


def slopes_of(make: random.Random) -> Tensor | None:
    return make.choice([None, torch.tensor([0.0, 1e-4, 0.05, float("inf")]), torch.full((HEADS, 1, 1), 0.01)])


def pieces_of(bounds: tuple[int, ...], begin: int, end: int) -> Sides:
    """Return the pieces of the sequences between two tokens, as (first, end)."""
    return [(max(a, begin), min(b, end)) for a, b in pairwise(bounds) if a < end and b > begin]


def agree(name: str, found: Tensor | None, expected: Tensor, tolerance: float) -> None:
    assert found is not None, name
    off = (found.double() - expected.double()).norm() / max(float(expected.double().norm()), 1e-12)
    assert off <= tolerance, (name, float(off))


def one_sequence(
    rank: int,
    ranks: int,
    seed: int,
    dtype: torch.dtype,
    tolerance: float,
    attend: Attend = lk.lightning_attn2_torch,
) -> None:
    """Compare a rank's rows, states and gradients with the whole sequence, computed piece by piece."""
    make = random.Random(seed)
    lengths, slopes, kv_heads = lengths_of(ranks, make), slopes_of(make), make.choice([4, 2, 1])
    with_initial, scale, b = make.random() < 0.5, make.choice([1.0, 0.3]), make.choice([1, 2])
    ends = [0, *accumulate(lengths)]
    whole = inputs(b, kv_heads, ends[-1], dtype, seed)
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed + 1)
    initial = torch.randn(b, HEADS, DIM, VALUES, generator=generator).to(dtype) if with_initial else None
    weights = torch.randn(b, HEADS, ends[-1], VALUES, generator=generator)
    of_states = [torch.randn(b, HEADS, DIM, VALUES, generator=generator) for _ in range(ranks)]

    exact = [x.double().clone().requires_grad_() for x in whole]
    entering = exact_initial = None if initial is None else initial.double().clone().requires_grad_()
    loss, states, rows = torch.zeros((), dtype=torch.float64), [], []
    for at, (a, e) in enumerate(pairwise(ends)):
        o, entering = lk.lightning_attn2_torch(
            *(x[:, :, a:e] for x in exact), slopes, scale=scale, initial_state=entering, return_state=True
        )
        loss = loss + (o * weights[:, :, a:e]).sum() + (entering * of_states[at]).sum()
        states.append(entering)
        rows.append(o)
    loss.backward()

    a, e = ends[rank], ends[rank + 1]
    mine = [x[:, :, a:e].clone().requires_grad_() for x in whole]
    given = None
    if initial is not None:
        given = (initial if rank == 0 else torch.full_like(initial, float("nan"))).requires_grad_()
    cp = ContextParallel(lengths=lengths)
    for turn in range(2):
        o, state = attend(*mine, slopes, scale=scale, initial_state=given, return_state=True, cp=cp)
        ((o * weights[:, :, a:e].to(dtype)).sum() + (state * of_states[rank]).sum()).backward()
        found = [o, state, *(x.grad for x in mine)]
        if turn == 0:
            before = [x.detach().clone() for x in found]
            for x in mine:
                x.grad = None
            if rank == 0 and given is not None:
                agree("initial", given.grad, exact_initial.grad, tolerance)
    assert all(torch.equal(x, y) for x, y in zip(found, before, strict=True)), "bits differ"
    for name, x, y in zip("qkv", mine, exact, strict=True):
        agree(f"d{name}", x.grad, y.grad[:, :, a:e], tolerance)
    agree("o", o, rows[rank], tolerance)
    agree("state", state, states[rank], tolerance)


def packed(
    rank: int,
    ranks: int,
    seed: int,
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-11,
    attend: Attend = lk.lightning_attn2_torch,
) -> None:
    """Compare packed sequences, some over several ranks, and tokens after the last."""
    make = random.Random(seed)
    lengths, slopes, kv_heads = lengths_of(ranks, make), slopes_of(make), make.choice([4, 2])
    ends = [0, *accumulate(lengths)]
    total = ends[-1]
    inner = make.sample(range(1, total), min(total - 1, make.choice([0, 1, 3, 8])))
    bounds = (0, *sorted({*inner, make.choice([total, max(1, total - 3)])}))
    whole = inputs(1, kv_heads, total, dtype, seed)
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed + 1)
    count = len(bounds) - 1
    initial = torch.randn(count, HEADS, DIM, VALUES, generator=generator, dtype=torch.float64)
    weights = torch.randn(1, HEADS, total, VALUES, generator=generator, dtype=torch.float64)

    exact, exact_initial = (
        [x.double().clone().requires_grad_() for x in whole],
        initial.clone().requires_grad_(),
    )
    rows = torch.zeros_like(weights)
    loss = torch.zeros((), dtype=torch.float64)
    states: dict[int, list[Tensor]] = {}
    for sequence, (first, end) in enumerate(pairwise(bounds)):
        entering = exact_initial[sequence : sequence + 1]
        for at, (a, e) in enumerate(pairwise(ends)):
            for one, two in pieces_of((first, end), a, e):
                o, entering = lk.lightning_attn2_torch(
                    *(x[:, :, one:two] for x in exact), slopes, initial_state=entering, return_state=True
                )
                rows[:, :, one:two] = o.detach()
                loss = loss + (o * weights[:, :, one:two]).sum() + entering.sum()
                states.setdefault(at, []).append(entering)
    loss.backward()

    a, e = ends[rank], ends[rank + 1]
    cp = ContextParallel(lengths=lengths, cu_seqlens=bounds)
    held = cp.sequences(e - a)
    mine = [x[:, :, a:e].clone().requires_grad_() for x in whole]
    given = initial[held.start : held.stop].clone().requires_grad_()
    o, state = attend(*mine, slopes, initial_state=given, return_state=True, cp=cp)
    ((o * weights[:, :, a:e].to(dtype)).sum() + (state.sum() if rank in states else 0.0)).backward()
    agree("o", o, rows[:, :, a:e], tolerance)
    for name, x, y in zip("qkv", mine, exact, strict=True):
        agree(f"d{name}", x.grad, y.grad[:, :, a:e], tolerance)
    if rank in states:
        agree("state", state, torch.cat(states[rank]), tolerance)
        begin_here = [i for i in held if bounds[i] >= a]
        at = [i - held.start for i in begin_here]
        agree("initial", given.grad[at], exact_initial.grad[begin_here], tolerance)


def equal(rank: int, ranks: int) -> None:
    """Compare one sequence and packed ones, in fp64, fp32 and bf16."""
    for seed in range(max(4, 24 // ranks)):  # each has as many pieces as ranks
        one_sequence(rank, ranks, seed, torch.float64, 1e-11)
        packed(rank, ranks, seed)
    one_sequence(rank, ranks, 100, torch.float32, 2e-6)
    one_sequence(rank, ranks, 101, torch.bfloat16, 1e-2)


def on_gpus(rank: int, ranks: int) -> None:
    """Compare the Triton form on a GPU of each rank, over NCCL."""
    global DIM, VALUES, LENGTHS
    DIM, VALUES, LENGTHS = 128, 128, [4096, 3000, 1111, 64]
    torch.cuda.set_device(rank)
    torch.set_default_device(f"cuda:{rank}")
    for seed in range(6):
        one_sequence(rank, ranks, seed, torch.bfloat16, 1e-2, lk.lightning_attn2)
        packed(rank, ranks, seed, torch.float16, 2e-3, lk.lightning_attn2)


def counted(rank: int, ranks: int) -> None:
    """Count what a rank receives: one state per head of each other rank, forward and backward."""
    received, calls, gather = [0], [0], context.all_gather

    def counting(out: Tensor, given: Tensor, **options: Any) -> Any:
        received[0] += (out.numel() - given.numel()) * out.element_size()
        calls[0] += 1
        return gather(out, given, **options)

    context.all_gather = counting
    state = 2 * HEADS * DIM * VALUES * 4
    for n, overlapped in ((3, False), (200, False), (3, True)):
        context.OVERLAPPED_BYTES = 0 if overlapped else 2**27
        x = [part.requires_grad_() for part in inputs(2, HEADS, n, torch.bfloat16, rank)]
        received[0] = calls[0] = 0
        o = lk.lightning_attn2_torch(*x, torch.full((HEADS,), 0.1), cp=ContextParallel())
        assert received[0] == (ranks - 1) * state, received
        o.sum().backward()
        assert received[0] == 2 * (ranks - 1) * state, received
        assert calls[0] == (8 if overlapped else 2)  # four parts of the heads, in each pass


def overlapped(rank: int, ranks: int) -> None:
    """Compare one sequence and packed ones where parts of the heads are gathered by themselves."""
    context.OVERLAPPED_BYTES = 0
    for seed in range(4):
        one_sequence(rank, ranks, seed, torch.float64, 1e-11)
        packed(rank, ranks, seed)


def interpreted(rank: int, ranks: int) -> None:
    """Compare the Triton form, in the interpreter: in fp32 it walks blocks of 16 tokens."""
    global LENGTHS
    LENGTHS = [1, 2, 7, 16, 17, 40]
    for seed in range(2):
        one_sequence(rank, ranks, seed, torch.float32, 1e-5, lk.lightning_attn2)
        packed(rank, ranks, seed, torch.float32, 1e-5, lk.lightning_attn2)


def compiled(rank: int, ranks: int) -> None:
    """Compile one graph forward and backward, with the collectives in it."""
    lengths = (17, *[20] * (ranks - 1))  # two blocks each: the interpreter walks blocks of 16 tokens
    q, k, v = inputs(1, HEADS, sum(lengths), torch.float32, 0)
    begin = sum(lengths[:rank])
    mine = [x[:, :, begin : begin + lengths[rank]].clone().requires_grad_() for x in (q, k, v)]
    cp = ContextParallel(lengths=lengths)
    slopes = torch.full((HEADS,), 0.02)

    for form, least in ((lk.lightning_attn2_torch, 2**27), (lk.lightning_attn2, 0)):
        context.OVERLAPPED_BYTES = least

        def attend(q: Tensor, k: Tensor, v: Tensor, form: Attend = form) -> Any:
            return form(q, k, v, slopes, cp=cp) * 2.0

        expected = attend(*mine)
        wanted = torch.autograd.grad(expected.sum(), mine)
        found = torch.compile(attend, backend="aot_eager", fullgraph=True)(*mine)
        agree("o", found, expected, 1e-6)
        for name, x, y in zip("qkv", torch.autograd.grad(found.sum(), mine), wanted, strict=True):
            agree(f"d{name}", x, y, 1e-6)


def trained(rank: int, ranks: int) -> None:
    """Train a layer under FSDP2 whose tokens lie on the ranks: it learns as one that has all of them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    layers = [lk.TransNormerAttention(32, HEADS, layer=1, layers=2, form="torch") for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    sharded, whole = layers
    x, n = torch.randn(2, ranks * 24, 32), 24
    fully_shard(sharded, mesh=init_device_mesh("cpu", (ranks,)))
    cp = ContextParallel()
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.5) for layer in layers]
    for _ in range(3):
        mine = sharded(x[:, rank * n : (rank + 1) * n], cp=cp).square().mean()
        mine.backward()  # FSDP averages over the ranks
        whole(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for (name, found), expected in zip(sharded.named_parameters(), whole.parameters(), strict=True):
        agree(name, found.full_tensor(), expected, 1e-5)


def orphaned(rank: int, ranks: int) -> None:
    """Let one rank die between forward and backward: the others get an error."""
    q, k, v = (x.requires_grad_() for x in inputs(1, HEADS, 16, torch.float32, 0))
    o = lk.lightning_attn2_torch(q, k, v, cp=ContextParallel())
    if rank == 1:
        os._exit(0)
    with pytest.raises(RuntimeError, match=r"(?i)peer|connect|reset"):
        o.sum().backward()


def refused(rank: int, ranks: int) -> None:
    """Find what does not fit refused on every rank, before anything is sent."""
    q, k, v = inputs(1, HEADS, 16, torch.float32, 0)
    for fields, message in (
        ({"lengths": (16,) * (ranks + 1)}, "on each of"),
        ({"lengths": (0, *[16] * (ranks - 1))}, "at least 1"),
        ({"lengths": (15,) * ranks}, "has 16 tokens, but lengths say 15"),
        ({"cu_seqlens": (0, 4, 4)}, "increase"),
        ({"cu_seqlens": (1, 4)}, "begin at 0"),
        ({"cu_seqlens": (0, 16 * ranks + 1)}, "at most at the"),
    ):
        with pytest.raises(ValueError, match=message):
            lk.lightning_attn2_torch(q, k, v, cp=ContextParallel(**fields))
    bounds = torch.tensor([0, 16], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"ContextParallel\(cu_seqlens=...\)"):
        lk.lightning_attn2_torch(q, k, v, cu_seqlens=bounds, cp=ContextParallel())


CASES: dict[str, Callable[[int, int], None]] = {
    case.__name__: case
    for case in (equal, counted, overlapped, on_gpus, interpreted, compiled, trained, orphaned, refused)
}


def one_rank(folder: Path, name: str, ranks: int, rank: int) -> int:
    """Run a case on one rank and return its exit code."""
    try:
        store = dist.FileStore(str(folder / f"{name}-{ranks}"), ranks)
        dist.init_process_group(
            "nccl" if name == "on_gpus" else "gloo",
            store=store,
            rank=rank,
            world_size=ranks,
            timeout=timedelta(minutes=5),
        )
        CASES[name](rank, ranks)
        store.set(f"done{rank}", "")
        if name != "orphaned":  # what is sent last must have arrived before its sender ends
            store.wait([f"done{other}" for other in range(ranks)])
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(folder: Path, name: str, ranks: int) -> int:
    """Run all ranks and return how many found something else than they should."""
    if name == "on_gpus":  # a forked process has none
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name, str(folder), f"{name}:{ranks}"]
        processes = [subprocess.Popen([*command, str(rank)]) for rank in range(ranks)]
        return sum(process.wait() != 0 for process in processes)
    if name == "compiled":  # what the first compilation imports: once, not in each rank
        torch.compile(torch.square, backend="aot_eager")(torch.ones(2, requires_grad=True))
    if name == "trained":
        from torch.distributed import fsdp  # noqa: F401
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            code = one_rank(folder, name, ranks, rank)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        children.append(child)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


def main(folder: str, *jobs: str) -> int:
    """Run all ranks of each job CASE:RANKS, or of one job the rank that follows it."""
    torch.set_num_threads(1)
    if len(jobs) == 2 and jobs[1].isdigit():
        name, ranks = jobs[0].split(":")
        return one_rank(Path(folder), name, int(ranks), int(jobs[1]))
    failed = 0
    for job in jobs:
        name, ranks = job.split(":")
        bad = run(Path(folder), name, int(ranks))
        print(f"{job}: {bad} ranks failed", flush=True)
        failed += bad
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
