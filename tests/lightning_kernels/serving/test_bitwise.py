"""The same bits however tokens come to be in calls: chunks, decoding, other sequences, other slots."""

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import lightning_kernels as lk
from lightning_kernels import Tails, make_tails
from tests.support.served_batches import BUDGET, int32, same_bits, snapshots

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNEL, PLAIN = lk.lightning_attn2_serve_bitwise, lk.lightning_attn2_serve_bitwise_torch
gpu = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")]
both = pytest.mark.parametrize("serve", [KERNEL, PLAIN], ids=["kernel", "torch"])


@dataclass
class Engine:
    """Sequences that are served in batches, each with a slot of a pool; slots of nobody hold NaN."""

    serve: object
    lengths: list
    heads: int = 2
    kv_heads: int = 1
    d: int = 16
    e: int = 24
    dtype: torch.dtype = torch.float32
    slots: int = 6

    def __post_init__(self):
        generator = torch.Generator().manual_seed(0)

        def rows(n, heads, dim):
            return (torch.randn(n, heads, dim, generator=generator) * dim**-0.25).to(DEVICE, self.dtype)

        self.sequences = [
            (rows(n, self.heads, self.d), rows(n, self.kv_heads, self.d), rows(n, self.kv_heads, self.e))
            for n in self.lengths
        ]
        self.s = torch.linspace(0.05, 0, self.heads, device=DEVICE)
        self.state = torch.full((self.slots, self.heads, self.d, self.e), float("nan"), device=DEVICE)
        self.tails = make_tails(self.slots, self.heads, self.d, self.e, self.dtype, DEVICE)
        for tail in self.tails:
            tail.fill_(float("nan"))
        self.done = [0] * len(self.lengths)
        self.slot_of = list(range(len(self.lengths)))
        self.rows = [[] for _ in self.lengths]

    def run(self, counts, output=None, beyond=0, padding=0, **options):
        """Serve so many tokens of each sequence, in one batch."""
        parts = [
            [x[t : t + n] for x in seq] for seq, t, n in zip(self.sequences, self.done, counts, strict=True)
        ]
        packed = [torch.cat([part[i] for part in parts]) for i in range(3)]
        packed = [torch.cat([x, x.new_full((padding + beyond, *x.shape[1:]), 3.0)]) for x in packed]
        bounds = torch.tensor([0, *counts, padding]).cumsum(0).to(DEVICE, torch.int32)
        if output is not None:
            options["output_state_indices"] = int32(*output, -1, device=DEVICE)
        o = self.serve(
            *packed, self.s, state=self.state, tails=self.tails, cu_seqlens=bounds, scale=0.5,
            state_indices=int32(*self.slot_of, -1, device=DEVICE),
            context_lens=int32(*self.done, 7, device=DEVICE), **options,
        )  # fmt: skip
        assert not o[sum(counts) :].any()
        for i, rows in enumerate(o[: sum(counts)].split(counts)):
            self.rows[i].append(rows)
            self.done[i] += counts[i]
        self.slot_of = self.slot_of if output is None else list(output)

    def result(self):
        """Return o of each sequence, and what is kept of it: the state and its tail."""
        block = self.tails.v.shape[2]
        kept = [
            (self.state[slot] if done >= block else None, self.tails.k[slot][..., : done % block, :],
             self.tails.v[slot][:, : done % block])
            for slot, done in zip(self.slot_of, self.done, strict=True)
        ]  # fmt: skip
        return [torch.cat(rows) for rows in self.rows], kept


def equal(one, other):
    if one is None or other is None:
        return one is other
    if isinstance(one, torch.Tensor):
        return same_bits(one, other)
    return len(one) == len(other) and all(map(equal, one, other))


def prompts(serve, lengths, **kinds):
    """Return an engine that has served each sequence as one prompt, alone."""
    engine = Engine(serve, lengths, **kinds)
    for i, n in enumerate(lengths):
        engine.run([n if j == i else 0 for j in range(len(lengths))])
    return engine


def check(serve, lengths, schedule, **kinds):
    """Compare a schedule of batches with prompts bit by bit, and the prompts with fp64."""
    expected = prompts(serve, lengths, **kinds)
    for (q, k, v), o in zip(expected.sequences, expected.result()[0], strict=True):
        sequence = (x[None] for x in (q, k, v))
        reference = lk.reference_recurrent(*sequence, expected.s, scale=0.5, layout="bnhd")[0]
        assert float((o.double() - reference).norm()) <= BUDGET[expected.dtype] * float(reference.norm())
    engine = Engine(serve, lengths, **kinds)
    for counts, options in schedule(engine):
        engine.run(counts, **options)
    assert engine.done == lengths
    assert equal(engine.result(), expected.result())
    return engine


def one_by_one(engine):
    """Decode all tokens of all sequences that have any left."""
    for t in range(max(engine.lengths)):
        yield [int(t < n) for n in engine.lengths], {}


def at_random(seed):
    """Serve chunks of any size beside each other; sometimes states change their slots."""

    def schedule(engine):
        rng = random.Random(seed)
        while engine.done != engine.lengths:
            left = [n - t for n, t in zip(engine.lengths, engine.done, strict=True)]
            counts = [min(n, rng.choice((0, 1, 1, 5, 16, 64, 65, 130))) for n in left]
            options = {"beyond": rng.choice((0, 9)), "padding": rng.choice((0, 3))}
            free = [slot for slot in range(engine.slots) if slot not in engine.slot_of]
            if rng.random() < 0.4 and sum(n > 0 for n in counts) <= len(free):
                slots = zip(counts, engine.slot_of, strict=True)
                options["output"] = [free.pop() if n else slot for n, slot in slots]
            yield counts, options

    return schedule


@pytest.mark.slow
@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tokens_one_by_one(serve, dtype):
    lengths = [66, 3] if dtype == torch.float16 else [34, 2]  # blocks are of 64 and of 16 tokens
    check(serve, lengths, one_by_one, dtype=dtype)


@both
@pytest.mark.parametrize("seed", range(4))
def test_chunks_beside_each_other(serve, seed):
    dtype = (torch.float16, torch.float32)[seed % 2]
    check(serve, [150, 64, 65], at_random(seed), dtype=dtype)


def test_more_blocks_than_one_decay_is_right_for():
    """The state catches up with the rounded decay every 64 blocks of its sequence, not of a call."""
    check(KERNEL, [4300], lambda _: [([n], {}) for n in (4000, 200, 100)], dtype=torch.float16)


@both
def test_dims_that_fill_no_tile_and_heads_that_share(serve):
    check(serve, [40, 20], at_random(7), heads=4, kv_heads=2, d=17, e=70)


@both
def test_a_snapshot_goes_on_as_the_sequence_does(serve):
    engine = Engine(serve, [150], dtype=torch.float16)
    whole = prompts(serve, [150], dtype=torch.float16).result()[0][0]
    engine.run([40])
    engine.run([110], snapshots=snapshots(64, [[3, 4], [-1, -1]], DEVICE))
    for slot, done in ((3, 64), (4, 128)):
        engine.slot_of, engine.done, engine.rows = [slot], [done], [[]]
        engine.run([150 - done])
        assert same_bits(engine.result()[0][0], whole[done:])


@pytest.mark.parametrize(
    ("d", "e", "dtype", "block"),
    [(128, 256, torch.bfloat16, 64), (129, 16, torch.float16, 32), (256, 256, torch.float32, 16)],
)
def test_tails_hold_the_tokens_of_a_block(d, e, dtype, block):
    tails = lk.make_tails(3, 2, d, e, dtype, "cpu")
    assert tails.v.shape == (3, 2, block, e)
    assert (*tails.k.shape[:2], *tails.k.shape[3:]) == (3, 2, block, d)


@both
def test_slots_of_nobody_stay(serve):
    engine = Engine(serve, [70, 20], dtype=torch.float16, slots=8)
    before = [x.clone() for x in (engine.state, *engine.tails)]
    engine.run([70, 20])
    engine.run([0, 0])
    for x, old in zip((engine.state, *engine.tails), before, strict=True):
        assert same_bits(x[2:], old[2:])


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": torch.zeros(6, 2, 16, 24, dtype=torch.bfloat16)}, "takes a pool in float32"),
        ({"tails": Tails(torch.zeros(6, 2, 1, 16, 16), torch.zeros(6, 2, 8, 24))}, "the tails of v must be"),
        ({"tails": Tails(torch.zeros(6, 2, 16, 16), torch.zeros(6, 2, 16, 24))}, "the tails of k must be"),
        ({"snapshots": snapshots(8, [[0], [0]])}, "every multiple of 16 tokens, a block, got 8"),
        ({"context_lens": torch.zeros(2)}, r"context_lens must be int32 \[2\]"),
    ],
)
def test_what_does_not_fit_is_refused(serve, change, message):
    engine = Engine(serve, [3])
    arguments = {
        "state": engine.state, "tails": engine.tails, "cu_seqlens": int32(0, 3, 3, device=DEVICE),
        "state_indices": int32(0, -1, device=DEVICE), "context_lens": int32(0, 0, device=DEVICE),
    }  # fmt: skip

    def moved(x):
        return x.to(DEVICE) if isinstance(x, torch.Tensor) else x

    for name, value in change.items():
        arguments[name] = moved(value) if isinstance(value, torch.Tensor) else type(value)(*map(moved, value))
    with pytest.raises(ValueError, match=message):
        serve(*engine.sequences[0], engine.s, **arguments)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.library.*:UserWarning")
def test_the_operator_is_registered_correctly():
    engine = Engine(KERNEL, [20])
    engine.state.zero_()
    tails = [tail.zero_() for tail in engine.tails]
    slots = int32(0, device=DEVICE)
    operator = torch.ops.lightning_kernels.linear_attention_serve_bitwise.default
    arguments = (*engine.sequences[0], None, engine.state, *tails, int32(0, 20, device=DEVICE), slots, slots)
    torch.library.opcheck(operator, (*arguments, slots + 1, slots[:, None] + 2, 16, 0.5))


def test_flops_are_those_of_the_recurrence():
    engine = Engine(KERNEL, [20])
    with FlopCounterMode(display=False) as counter:
        engine.run([20])
    assert counter.get_total_flops() == 4 * 20 * 2 * 16 * 24


@pytest.mark.usefixtures("invariant")
class TestTokenByToken:
    """`LIGHTNING_KERNELS_INVARIANT=1`: every function adds token by token, and so in one order."""

    @pytest.fixture
    def invariant(self, monkeypatch):
        monkeypatch.setenv("LIGHTNING_KERNELS_INVARIANT", "1")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_prompts_decoding_and_drafts_have_the_same_bits(self, dtype):
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(20, h, 16, generator=generator).to(DEVICE, dtype) for h in (4, 2, 2))
        s = lk.build_slope_tensor(4).to(DEVICE)
        start = torch.randn(3, 4, 16, 16, generator=generator).to(DEVICE)

        def chunks(cuts):
            pool, rows = start.clone(), []
            for first, end in pairwise(cuts):
                other = q.new_ones(2, 1, 1).expand(2, 4, 16)  # a sequence of two tokens beside it
                packed = [
                    torch.cat([x[first:end], other[:, : x.shape[1]]]) for x in (q, k, v)
                ]  # fmt: skip
                bounds = int32(0, end - first, end - first + 2, device=DEVICE)
                slots = int32(1, 2, device=DEVICE)
                o = lk.lightning_attn2_serve(
                    *packed, s, state=pool, cu_seqlens=bounds, state_indices=slots
                )  # fmt: skip
                rows.append(o[: end - first])
            return torch.cat(rows), pool[1]

        o, state = chunks([0, 20])
        for cuts in ([0, 7, 8, 20], [0, 19, 20]):
            assert equal(chunks(cuts), (o, state))
        pool, slots = start.clone(), int32(1, device=DEVICE)
        steps = [
            lk.lightning_attn2_step(
                q[t : t + 1], k[t : t + 1], v[t : t + 1], s, state=pool, state_indices=slots
            )
            for t in range(20)
        ]
        assert equal((torch.cat(steps), pool[1]), (o, state))
        pool = start.clone()
        for first in range(0, 20, 5):
            draft = [x[None, first : first + 5] for x in (q, k, v)]
            rows = lk.lightning_attn2_verify(*draft, s, state=pool, state_indices=slots)
            assert same_bits(rows[0], o[first : first + 5])
            count = int32(5, device=DEVICE)
            lk.lightning_attn2_commit(*draft[1:], s, state=pool, state_indices=slots, num_accepted=count)
        assert same_bits(pool[1], state)


class TestOnAGpu:
    pytestmark = gpu

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    @pytest.mark.parametrize(("d", "e"), [(128, 128), (64, 64), (256, 256), (80, 96)])
    def test_chunks_and_decoding(self, dtype, d, e):
        kinds = {"dtype": dtype, "d": d, "e": e, "heads": 4, "kv_heads": 2}
        for seed in range(3):
            check(KERNEL, [700, 64, 130], at_random(seed), **kinds)
        check(KERNEL, [140, 33], one_by_one, **kinds)

    def test_many_blocks(self):
        kinds = {"dtype": torch.bfloat16, "d": 128, "e": 128, "heads": 8, "kv_heads": 8}
        check(KERNEL, [9000, 5000], at_random(1), **kinds)
