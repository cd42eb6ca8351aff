"""Drafts of speculative decoding: as decoding steps, and the pool as it is until tokens are accepted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import lightning_kernels as lk
from lightning_kernels import Accepted
from tests.support.served_batches import BUDGET, int32, same_bits

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNEL = lk.lightning_attn2_verify, lk.lightning_attn2_commit, lk.lightning_attn2_step
PLAIN = lk.lightning_attn2_verify_torch, lk.lightning_attn2_commit_torch, lk.lightning_attn2_step_torch
both = pytest.mark.parametrize("forms", [KERNEL, PLAIN], ids=["kernel", "torch"])
gpu = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")]


def make_draft(b, tokens, heads=4, kv_heads=2, d=16, e=24, *, dtype=torch.float32, seed=0):
    """Return q, k, v of a draft."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (heads, d), (kv_heads, d), (kv_heads, e)
    return [torch.randn(b, tokens, *shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def make_pool(slots, used, heads=4, d=16, e=24, *, dtype=torch.float32):
    """Return a pool that holds NaN in slots that are not used."""
    pool = torch.full((slots, heads, d, e), float("nan"))
    for slot in used:
        pool[slot] = torch.randn(heads, d, e, generator=torch.Generator().manual_seed(slot))
    return pool.to(DEVICE, dtype)


def steps(q, k, v, s, pool, slots, scale=0.5):
    """Return o of a draft, and states of all sequences after each of its tokens, in fp64."""
    group = q.shape[2] // k.shape[2]
    q, k, v = q.double() * scale, k.double(), v.double()
    k, v = (x.repeat_interleave(group, 2) for x in (k, v))
    decay = torch.exp(-s.double()).reshape(-1, 1, 1)
    states = [pool[[max(slot, 0) for slot in slots]].double()]
    rows = []
    for t in range(k.shape[1]):
        states.append(decay * states[-1] + k[:, t, :, :, None] * v[:, t, :, None, :])
        rows.append((q[:, t, :, None] @ states[-1])[:, :, 0])
    return torch.stack(rows, 1), torch.stack(states)


def close(actual, expected, budget):
    error, norm = float((actual.double() - expected).norm()), float(expected.norm())
    return error <= budget * (norm + 1e-2 * expected.numel() ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forms", "dtype", "examples"),
    [
        (KERNEL, torch.float32, 8),
        (KERNEL, torch.float16, 8),
        pytest.param(KERNEL, torch.bfloat16, 40, marks=gpu),
        (PLAIN, torch.float64, 12),
        (PLAIN, torch.float16, 4),
    ],
)
def test_any_draft(forms, dtype, examples):
    verify, commit, _ = forms

    @settings(max_examples=examples, derandomize=True, database=None)
    @given(st.data())
    def property_holds(data):
        b, tokens, kept = (data.draw(st.integers(1, most)) for most in (3, 8, 5))
        kv_heads, group, d, e = (data.draw(st.integers(1, most)) for most in (2, 2, 70, 70))
        heads = kv_heads * group
        slots = data.draw(st.permutations(range(b + 2)))[:b]
        if data.draw(st.booleans()):
            slots[0] = -1
        counts = [data.draw(st.integers(0, kept)) for _ in slots]
        pool_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        pool = make_pool(b + 2, [slot for slot in slots if slot >= 0], heads, d, e, dtype=pool_dtype)
        q, k, v = make_draft(b, tokens, heads, kv_heads, d, e, dtype=dtype)
        _, *old = make_draft(b, kept, heads, kv_heads, d, e, dtype=dtype, seed=1)
        s = torch.linspace(data.draw(st.floats(0, 8)), 0, heads, device=DEVICE)
        batch = {"state_indices": int32(*slots, device=DEVICE)}
        accepted = Accepted(*old, int32(*counts, device=DEVICE))
        _, states = steps(old[0].new_zeros(b, kept, heads, d), *old, s, pool.nan_to_num(), slots)
        expected_pool = pool.to(torch.float64, copy=True)
        for i, slot in enumerate(slots):
            if slot >= 0:
                expected_pool[slot] = states[counts[i], i]
        expected, _ = steps(q, k, v, s, expected_pool.nan_to_num(), slots)
        some = [i for i, slot in enumerate(slots) if slot >= 0]

        together, apart = pool.clone(), pool.clone()
        o = verify(q, k, v, s, state=together, scale=0.5, accepted=accepted, **batch)
        commit(*old, s, state=apart, num_accepted=accepted.num_accepted, **batch)
        assert same_bits(together, apart)
        assert same_bits(verify(q, k, v, s, state=apart, scale=0.5, **batch), o)
        assert same_bits(together, apart)
        assert close(o[some], expected[some], BUDGET[dtype])
        assert not o[[i for i in range(b) if i not in some]].any()
        untouched = [slot for slot in range(b + 2) if slot not in slots]
        assert same_bits(together[untouched], pool[untouched])
        for i in some:
            if counts[i] == 0:
                assert same_bits(together[slots[i]], pool[slots[i]])
            budget = BUDGET[dtype] if dtype == torch.float64 else BUDGET[torch.float32]
            assert close(together[slots[i]], expected_pool[slots[i]], budget)

    property_holds()


@both
@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16])
def test_a_draft_is_as_many_steps(forms, pool_dtype):
    """The bits of o and of the state are those of steps, so that speculation changes no text."""
    verify, commit, step = forms
    q, k, v = make_draft(3, 4)
    pool, s = make_pool(6, [4, 0, 2], dtype=pool_dtype), lk.build_slope_tensor(4).to(DEVICE)
    slots, counts = int32(4, 0, 2, device=DEVICE), int32(4, 1, 3, device=DEVICE)
    before = pool.clone()
    o = verify(q, k, v, s, state=pool, state_indices=slots)
    assert same_bits(pool, before)
    walked = pool.to(torch.float32, copy=True)
    rows = [
        step(q[:, t].contiguous(), k[:, t], v[:, t], s, state=walked, state_indices=slots) for t in range(4)
    ]
    if pool_dtype == torch.float32:
        assert same_bits(o, torch.stack(rows, 1))
    torch.testing.assert_close(o, torch.stack(rows, 1))
    commit(k, v, s, state=pool, state_indices=slots, num_accepted=counts)
    for i, (slot, count) in enumerate(zip(slots.tolist(), counts.tolist(), strict=True)):
        alone = before.to(torch.float32, copy=True)
        for t in range(count):
            one = slice(i, i + 1)
            step(q[one, t], k[one, t], v[one, t], s, state=alone, state_indices=slots[one])
        assert torch.allclose(
            pool[slot].float(), alone[slot], rtol=2**-7 if pool_dtype != torch.float32 else 0
        )


@both
def test_a_pool_in_bf16_is_rounded_by_seeds(forms):
    verify, commit, _ = forms
    _, k, v = make_draft(2, 3, heads=4, d=32, e=64)
    q, *draft = make_draft(2, 2, heads=4, d=32, e=64, seed=1)
    pool = make_pool(2, [0, 1], d=32, e=64, dtype=torch.bfloat16)
    slots, counts = int32(0, 1, device=DEVICE), int32(3, 1, device=DEVICE)
    exact = pool.float()
    commit(k, v, state=exact, state_indices=slots, num_accepted=counts)
    seeds = torch.tensor([5, 2**41], device=DEVICE)
    pools = []
    for numbers in (seeds, seeds, seeds + 1):
        pools.append(pool.clone())
        batch = {"state_indices": slots, "rounding_seeds": numbers}
        commit(k, v, state=pools[-1], num_accepted=counts, **batch)
        together = pool.clone()
        verify(q, *draft, state=together, accepted=Accepted(k, v, counts), **batch)
        assert same_bits(together, pools[-1])
    assert same_bits(pools[0], pools[1])
    assert not same_bits(pools[0], pools[2])
    off = (pools[0].float() - exact) / torch.exp2(exact.abs().log2().floor() - 7)
    assert float(off.abs().max()) < 1
    assert abs(float(off.mean())) < 4 * off.numel() ** -0.5


def draft_call(**changes):
    q, k, v = make_draft(2, 3)
    _, old_k, old_v = make_draft(2, 4, seed=1)
    accepted = Accepted(old_k, old_v, int32(1, 4, device=DEVICE))
    accepted = accepted._replace(**changes.pop("accepted", {}))
    return {
        "q": q, "k": k, "v": v, "s": torch.zeros(4, device=DEVICE), "state": make_pool(3, [0, 2]),
        "state_indices": int32(2, 0, device=DEVICE), "accepted": accepted, **changes,
    }  # fmt: skip


@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 4, 16)}, r"q, k and v must be \[batch, tokens, heads, dim\]"),
        ({"q": torch.zeros(2, 2, 4, 16)}, "k must share batch, tokens and head_dim"),
        ({"s": torch.zeros(3)}, r"s must be \[4, 1, 1\]"),
        ({"state": torch.zeros(3, 2, 16, 24)}, "state must be a pool"),
        ({"state_indices": torch.zeros(2, dtype=torch.int64)}, r"state_indices must be int32 \[2\]"),
        ({"rounding_seeds": torch.zeros(2, dtype=torch.int64)}, "for states in bfloat16"),
        ({"accepted": {"k": torch.zeros(2, 4, 2, 17)}}, "k must share batch, heads and head_dim|be a pool"),
        ({"accepted": {"v": torch.zeros(2, 3, 2, 24)}}, "v must share batch, kept tokens and heads"),
        (
            {"accepted": {"num_accepted": torch.zeros(3, dtype=torch.int32)}},
            r"num_accepted must be int32 \[2\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(forms, changes, message):
    moved = {
        name: {key: x.to(DEVICE) for key, x in value.items()} if isinstance(value, dict) else value.to(DEVICE)
        for name, value in changes.items()
    }
    with pytest.raises(ValueError, match=message):
        forms[0](**draft_call(**moved))


@pytest.mark.skipif(DEVICE == "cuda", reason="reads values, on a CPU only")
@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s": torch.full((4,), -1.0)}, "at least 0"),
        ({"state_indices": int32(0, 3)}, "slots are from 0 to 2"),
        ({"state_indices": int32(0, 0)}, "slot 0"),
        ({"accepted": {"num_accepted": int32(5, 0)}}, "from 0 to the 4 kept tokens"),
        ({"accepted": {"num_accepted": int32(-1, 0)}}, "from 0 to the 4 kept tokens"),
    ],
)
def test_values_that_do_not_fit_are_refused_on_a_cpu(forms, changes, message):
    verify, commit, _ = forms
    call = draft_call(**changes)
    with pytest.raises(ValueError, match=message):
        verify(**call)
    k, v, count = call["accepted"]
    rest = {name: call[name] for name in ("s", "state", "state_indices")}
    with pytest.raises(ValueError, match=message):
        commit(k, v, num_accepted=count, **rest)


@both
def test_padding_may_accept_any_number(forms):
    """A padded batch of a CUDA graph has whatever the last batch left there."""
    verify, commit, _ = forms
    slots, counts = int32(2, -1, device=DEVICE), int32(2, 99, device=DEVICE)
    call = draft_call(state_indices=slots, accepted={"num_accepted": counts})
    before = call["state"].clone()
    assert not verify(**call)[1].any()
    k, v, count = call["accepted"]
    rest = {name: call[name] for name in ("s", "state", "state_indices")}
    commit(k, v, num_accepted=count, **rest)
    assert same_bits(call["state"][:2], before[:2])
    assert not same_bits(call["state"][2], before[2])


@both
def test_no_gradient_is_computed(forms):
    call = draft_call()
    call["k"].requires_grad_()
    with pytest.raises(NotImplementedError, match="use lightning_attn2"):
        forms[0](**call)
    with torch.no_grad():
        assert not forms[0](**call).requires_grad


def test_only_a_commit_counts_as_a_change_of_the_pool():
    call = draft_call()
    state = call["state"]
    before = state._version
    lk.lightning_attn2_verify(**{**call, "accepted": None})
    assert state._version == before
    lk.lightning_attn2_verify(**call)
    assert state._version > before


def test_flops_are_those_of_the_recurrence():
    call = draft_call()
    k, v, count = call["accepted"]
    with FlopCounterMode(display=False) as counter:
        lk.lightning_attn2_verify(**call)
        assert counter.get_total_flops() == 2 * 4 * 16 * 24 * (4 * 3 + 2 * 4)
        rest = {name: call[name] for name in ("state", "state_indices")}
        lk.lightning_attn2_commit(k, v, num_accepted=count, **rest)
    assert counter.get_total_flops() == 2 * 4 * 16 * 24 * (4 * 3 + 2 * 4 + 2 * 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.library.*:UserWarning")
def test_the_operators_are_registered_correctly():
    call = draft_call()
    pool = call["state"].nan_to_num()
    operators = torch.ops.lightning_kernels
    first = (call["q"], call["k"], call["v"], call["s"], pool, call["state_indices"])
    torch.library.opcheck(operators.linear_attention_verify.default, (*first, *call["accepted"], None, 0.5))
    k, v, count = call["accepted"]
    seeds, pool = torch.tensor([1, 2], device=DEVICE), pool.bfloat16()
    arguments = (k, v, None, pool, call["state_indices"], count, seeds)
    torch.library.opcheck(operators.linear_attention_commit.default, arguments)


def test_one_graph_to_the_compiler():
    torch.compiler.reset()
    call = draft_call()
    call["state"] = call["state"].nan_to_num()

    def decode(state):
        given = {**call, "state": state}
        o = lk.lightning_attn2_verify(**given)
        rest = {name: given[name] for name in ("s", "state", "state_indices")}
        lk.lightning_attn2_commit(
            call["k"], call["v"], num_accepted=call["accepted"].num_accepted - 1, **rest
        )
        return o + lk.lightning_attn2_verify(**{**given, "accepted": None})

    expected_pool, pool = call["state"].clone(), call["state"].clone()
    expected = decode(expected_pool)
    o = torch.compile(decode, fullgraph=True, backend="aot_eager")(pool)
    torch.testing.assert_close(o, expected)
    assert same_bits(pool, expected_pool)


class TestOnAGpu:
    pytestmark = gpu

    @pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16])
    def test_drafts_of_a_model(self, pool_dtype):
        b, heads = 16, 64
        q, k, v = make_draft(b, 5, heads, heads, 128, 128, dtype=torch.bfloat16)
        pool = torch.randn(b, heads, 128, 128, device="cuda").to(pool_dtype)
        slots, s = torch.arange(b, device="cuda", dtype=torch.int32), lk.build_slope_tensor(heads).cuda()
        expected, _ = steps(q, k, v, s, pool, list(range(b)))
        before = pool.clone()
        o = lk.lightning_attn2_verify(q, k, v, s, state=pool, state_indices=slots, scale=0.5)
        assert close(o, expected, BUDGET[torch.bfloat16])
        assert same_bits(pool, before)

    def test_a_graph_captures_drafts(self):
        call = draft_call()
        call["state"] = call["state"].nan_to_num()
        start, expected_pool = call["state"].clone(), call["state"].clone()
        expected = lk.lightning_attn2_verify(**{**call, "state": expected_pool})
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            o = lk.lightning_attn2_verify(**call)
        call["state"].copy_(start)
        graph.replay()
        assert same_bits(o, expected)
        assert same_bits(call["state"], expected_pool)
