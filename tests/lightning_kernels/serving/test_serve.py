"""Batches of prompts and decoding tokens against fp64: the kernel, interpreted without a GPU, and PyTorch."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_kernels as lk
from lightning_kernels import lightning_attn2_serve, lightning_attn2_serve_torch
from tests.support.kernel_cases import relative_l2
from tests.support.served_batches import (
    BUDGET,
    check_batch,
    int32,
    make_batch,
    part_of_another,
    same_bits,
    snapshots,
)

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
both = pytest.mark.parametrize("serve", [lightning_attn2_serve, lightning_attn2_serve_torch])
MIXED = [1, 90, 1, 0, 17, 1, 9]
"""Decoding tokens, prompts of one and of several blocks, and a sequence without tokens."""


def batch_of(lengths=MIXED, **kinds):
    return make_batch(lengths, device=DEVICE, **kinds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("serve", "dtype", "examples"),
    [
        (lightning_attn2_serve, torch.float32, 12),
        (lightning_attn2_serve, torch.float16, 12),
        (lightning_attn2_serve_torch, torch.float64, 30),
        (lightning_attn2_serve_torch, torch.float16, 10),
    ],
)
def test_any_batch(serve, dtype, examples):
    @settings(max_examples=examples, derandomize=True, database=None)
    @given(st.data())
    def property_holds(data):
        lengths = data.draw(st.lists(st.sampled_from([0, 1, 1, 2, 8, 9, 33, 64, 70]), min_size=1, max_size=5))
        count = len(lengths)
        kv_heads, group = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
        # A slot of its own for each sequence to begin with, another one to end in and three on the way.
        places = data.draw(st.permutations(range(5 * count)))
        slots = [data.draw(st.sampled_from([place, place, place, -1])) for place in places[:count]]
        kinds = {}
        if data.draw(st.booleans()):
            kinds["output_state_indices"] = int32(*places[count : 2 * count], device=DEVICE)
        if data.draw(st.booleans()):
            begun = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
            kinds["has_initial_state"] = torch.tensor(begun, device=DEVICE)
        if data.draw(st.booleans()):
            rest = places[2 * count :]
            rows = [[data.draw(st.sampled_from([x, -1])) for x in rest[i::count]] for i in range(count)]
            kinds["snapshots"] = snapshots(data.draw(st.sampled_from([1, 5, 32])), rows, DEVICE)
            kinds["context_lens"] = int32(*(data.draw(st.integers(0, 99)) for _ in lengths), device=DEVICE)
        if data.draw(st.booleans()):
            kinds["max_seqlen"] = max(1, *lengths)
        batch = batch_of(
            lengths, heads=kv_heads * group, kv_heads=kv_heads, d=data.draw(st.integers(1, 40)),
            e=data.draw(st.integers(1, 40)), dtype=dtype, slope=data.draw(st.none() | st.floats(0, 8)),
            slots=slots, spare=5 * count, beyond=data.draw(st.sampled_from([0, 1, 40])),
            seed=data.draw(st.integers(0, 99)), **kinds,
        )  # fmt: skip
        check_batch(serve, batch)

    property_holds()


@both
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_mixed_batch_whose_rows_and_sequences_are_padded(serve, dtype):
    batch = batch_of([*MIXED, 12, 0, 0], slots=[4, 0, 2, 9, 7, 3, 1, -1, -1, -1], dtype=dtype, beyond=20)
    check_batch(serve, batch)


@both
def test_a_prompt_in_chunks_beside_others_is_the_prompt_whole(serve):
    whole = batch_of([150], slots=[1], seed=3)
    expected, expected_pool = check_batch(serve, whole)
    state, rows = whole.state.clone(), []
    for first, end in ((0, 64), (64, 65), (65, 149), (149, 150)):
        other = batch_of([1, end - first, 40], slots=[0, 1, 2], seed=first)
        for name in ("q", "k", "v"):
            getattr(other, name)[1 : 1 + end - first] = getattr(whole, name)[first:end]
        other.state[1] = state[1]
        state = other.state
        rows.append(other.call(serve, state)[1 : 1 + end - first])
    assert relative_l2(torch.cat(rows), expected.double()) <= 2 * BUDGET[torch.float32]
    assert relative_l2(state[1], expected_pool[1].double()) <= 2 * BUDGET[torch.float32]


@both
def test_a_batch_that_only_decodes_is_a_step(serve):
    batch = batch_of([1] * 5, heads=4, kv_heads=2, d=24, e=40, max_seqlen=1)
    o, pool = check_batch(serve, batch)
    begun = batch.state[batch.state_indices.long()]
    step = lk.lightning_attn2_step if serve is lightning_attn2_serve else lk.lightning_attn2_step_torch
    expected = step(batch.q, batch.k, batch.v, batch.s, state=begun, scale=batch.scale)
    torch.testing.assert_close(o, expected)
    torch.testing.assert_close(pool[batch.state_indices.long()], begun)


@both
@pytest.mark.parametrize("length", [3, 70])
def test_a_sequence_without_a_state_begins_with_zeros(serve, length):
    begun = torch.tensor([False, True], device=DEVICE)
    batch = batch_of([length, length], slots=[0, 1], has_initial_state=begun)
    batch.state[0] = float("nan")
    check_batch(serve, batch)


@both
def test_one_prefix_for_several_sequences(serve):
    output = int32(3, 4, -1, device=DEVICE)
    batch = batch_of([1, 20, 70], slots=[2, 2, 2], output_state_indices=output, spare=4)
    check_batch(serve, batch)


@both
@pytest.mark.parametrize("every", [1, 16, 64, 100])
def test_snapshots_are_at_multiples_counted_from_the_first_token(serve, every):
    rows = [[5 * i + j + 4 for j in range(5)] for i in range(4)]
    rows[1][0] = -1
    batch = batch_of(
        [130, 130, 1, 6], slots=[0, 1, 2, 3], spare=22, snapshots=snapshots(every, rows, DEVICE),
        context_lens=int32(0, 37, 63, 12, device=DEVICE),
    )  # fmt: skip
    check_batch(serve, batch)


@both
@pytest.mark.parametrize("max_seqlen", [1, 8, 9, 1000])
def test_the_length_that_the_host_knows_changes_no_result(serve, max_seqlen):
    check_batch(serve, batch_of(max_seqlen=max_seqlen))


@both
def test_dims_that_fill_no_tile(serve):
    for d, e in ((17, 5), (72, 96), (5, 130)):
        check_batch(serve, batch_of([1, 70, 9], d=d, e=e, kv_heads=2))


@both
def test_strides_change_nothing(serve):
    batch = batch_of(heads=2, kv_heads=2, d=16, e=16)
    expected, expected_pool = check_batch(serve, batch)
    qkv = torch.cat([batch.q, batch.k, batch.v], dim=2)  # as one projection gives them
    fused = replace(batch, **dict(zip("qkv", qkv.split(16, dim=2), strict=True)))
    o, pool = check_batch(serve, fused)
    assert same_bits(o, expected)
    assert same_bits(pool, expected_pool)
    column = batch.q.transpose(1, 2).contiguous().transpose(1, 2)
    assert same_bits(check_batch(serve, replace(batch, q=column))[0], expected)


@both
@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["pages", "layers", "heads", "rows", "address"])
def test_pools_that_are_parts_of_others(serve, layout, pool_dtype):
    batch = batch_of(pool_dtype=pool_dtype)
    expected = check_batch(serve, batch)
    moved = replace(batch, state=part_of_another(batch.state, layout))
    assert all(map(same_bits, check_batch(serve, moved), expected))


@both
def test_slopes_in_any_form(serve):
    batch = batch_of()
    spread = torch.zeros(2, 3, device=DEVICE)
    spread[:, 0] = batch.s
    expected = check_batch(serve, batch)[0]
    for s in (batch.s.reshape(2, 1, 1), batch.s.double(), spread[:, 0]):
        assert same_bits(check_batch(serve, replace(batch, s=s))[0], expected)


@both
def test_a_batch_without_tokens(serve):
    batch = batch_of([0, 0], beyond=0)
    o, _ = check_batch(serve, batch)
    assert o.shape == (0, 2, 16)


@both
def test_states_in_bf16_are_rounded_once(serve):
    batch = batch_of(pool_dtype=torch.bfloat16)
    o, pool = check_batch(serve, batch)
    exact_o, exact_pool = check_batch(serve, replace(batch, state=batch.state.float()))
    torch.testing.assert_close(o, exact_o)
    if DEVICE == "cuda" or serve is lightning_attn2_serve_torch:  # the interpreter cuts digits off
        torch.testing.assert_close(pool, exact_pool.bfloat16(), rtol=0, atol=0, equal_nan=True)


@both
def test_stochastic_rounding_is_unbiased_and_depends_on_the_seed_alone(serve):
    seeds = torch.arange(7, device=DEVICE) * 2**40 + 5
    batch = batch_of(heads=4, d=24, e=40, pool_dtype=torch.bfloat16, rounding_seeds=seeds)
    slots = batch.state_indices[[0, 1, 4]].long()
    exact = replace(batch, state=batch.state.float(), options={})
    _, exact_pool = check_batch(serve, exact)
    _, pool = check_batch(serve, batch)
    assert same_bits(check_batch(serve, batch)[1], pool)
    ulp = torch.exp2(exact_pool[slots].abs().log2().floor() - 7)
    off = (pool[slots].float() - exact_pool[slots]) / ulp
    assert float(off.abs().max()) < 1
    spread = off.numel() ** -0.5  # of the mean of numbers of variance below 1
    assert abs(float(off.mean())) < 4 * spread
    nearest = (exact_pool[slots].bfloat16().float() - exact_pool[slots]) / ulp
    assert float((off - nearest).abs().mean()) > 0.1
    alone = make_alone(batch, 1)
    state = batch.state.clone()
    alone.call(serve, state)
    assert same_bits(state[slots[1]], pool[slots[1]])
    other = replace(batch, options={"rounding_seeds": seeds + 1})
    assert not same_bits(check_batch(serve, other)[1][slots], pool[slots])


def make_alone(batch, sequence):
    """Return the batch of one of its sequences."""
    first, end = batch.cu_seqlens[sequence : sequence + 2].tolist()
    rows = {name: getattr(batch, name)[first:end] for name in "qkv"}
    seeds = batch.options["rounding_seeds"][sequence : sequence + 1]
    return replace(
        batch, **rows, cu_seqlens=int32(0, end - first, device=DEVICE),
        state_indices=batch.state_indices[sequence : sequence + 1], options={"rounding_seeds": seeds},
    )  # fmt: skip


def test_kernel_and_plain_form_round_by_the_same_numbers():
    seeds = torch.arange(7, device=DEVICE) * 2**40 + 5
    rows = [[2 * i + 9, 2 * i + 10] for i in range(7)]
    batch = batch_of(
        d=24, e=36, heads=3, pool_dtype=torch.bfloat16, slots=list(range(7)), spare=16, rounding_seeds=seeds,
        snapshots=snapshots(8, rows, DEVICE),
    )  # fmt: skip
    serves = (lightning_attn2_serve, lightning_attn2_serve_torch)
    kernel, plain = (check_batch(serve, batch)[1].float().nan_to_num() for serve in serves)
    # Sums in another order may fall on the other side of a bound.
    assert float((kernel != plain).float().mean()) < 2e-3
