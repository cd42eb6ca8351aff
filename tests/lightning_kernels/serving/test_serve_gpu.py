"""On a GPU: batches in bf16 as engines serve them, CUDA graphs, memory, and nothing that waits."""

from dataclasses import replace

import pytest
import torch

import lightning_kernels as lk
from lightning_kernels import lightning_attn2_serve
from tests.support.served_batches import check_batch, int32, make_batch, same_bits, snapshots

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
MIXED = [1, 1, 700, 1, 0, 64, 65, 9, 8, 2, 1]


def batch_of(lengths, **kinds):
    return make_batch(lengths, device="cuda", **{"d": 128, "e": 128, "heads": 4, "kv_heads": 2, **kinds})


@dtypes
@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("d", "e"), [(128, 128), (64, 64), (256, 256), (80, 96), (64, 192), (17, 33)])
@pytest.mark.usefixtures("poison")
def test_mixed_batches(dtype, pool_dtype, d, e):
    rows = [[13 + 2 * i, 14 + 2 * i] for i in range(11)]
    batch = batch_of(
        MIXED, d=d, e=e, dtype=dtype, pool_dtype=pool_dtype, slots=[*range(10), -1], spare=30, beyond=100,
        snapshots=snapshots(64, rows, "cuda"), context_lens=int32(*range(60, 71), device="cuda"),
    )  # fmt: skip
    check_batch(lightning_attn2_serve, batch)


@dtypes
@pytest.mark.parametrize("prompts", [4, 12])  # of 12 it is a batch for the Hopper kernel
def test_many_heads_and_sequences(dtype, prompts):
    batch = batch_of([1] * 60 + [300] * prompts, heads=64, kv_heads=64, dtype=dtype)
    check_batch(lightning_attn2_serve, batch)


@dtypes
@pytest.mark.parametrize("heads", [4, 64])
def test_decoding_is_a_step(dtype, heads):
    batch = batch_of([1] * 16, heads=heads, kv_heads=heads, dtype=dtype, max_seqlen=1)
    o, pool = check_batch(lightning_attn2_serve, batch)
    begun = batch.state[batch.state_indices.long()]
    expected = lk.lightning_attn2_step(batch.q, batch.k, batch.v, batch.s, state=begun, scale=batch.scale)
    torch.testing.assert_close(o, expected)
    torch.testing.assert_close(pool[batch.state_indices.long()], begun)


@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16])
def test_a_graph_serves_every_batch_that_fits(pool_dtype):
    kinds = {"dtype": torch.bfloat16, "pool_dtype": pool_dtype}
    graph_batch = batch_of([1] * 8, slots=list(range(8)), beyond=248, **kinds)
    state = graph_batch.state.clone()
    graph_batch.call(lightning_attn2_serve, state)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = graph_batch.call(lightning_attn2_serve, state)
    for seed, lengths in enumerate(([1] * 8, [1, 1, 200], [256], [30, 1, 1, 1], [0, 0])):
        padding = 8 - len(lengths)
        slots = [*torch.randperm(8)[: len(lengths)].tolist(), *[-1] * padding]
        batch = batch_of(
            [*lengths, *[0] * padding], slots=slots, seed=seed, beyond=256 - sum(lengths), **kinds
        )  # fmt: skip
        for name in ("q", "k", "v", "cu_seqlens", "state_indices"):
            getattr(graph_batch, name).copy_(getattr(batch, name))
        replayed = replace(graph_batch, state=batch.state[: len(state)].clone())
        expected, expected_pool = check_batch(lightning_attn2_serve, replayed)
        state.copy_(replayed.state)
        graph.replay()
        assert same_bits(o, expected)
        assert same_bits(state, expected_pool)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nothing_waits_for_the_gpu():
    batch = batch_of(MIXED, dtype=torch.bfloat16)
    batch.call(lightning_attn2_serve, batch.state)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        batch.call(lightning_attn2_serve, batch.state)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_is_that_of_o():
    batch = batch_of([1] * 32 + [2048], heads=32, kv_heads=32, dtype=torch.bfloat16)
    o = batch.call(lightning_attn2_serve, batch.state)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    again = batch.call(lightning_attn2_serve, batch.state)
    assert again.shape == o.shape
    assert torch.cuda.memory_stats()["requested_bytes.all.peak"] - before <= o.nbytes


@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16])
def test_slots_whose_offsets_take_more_than_32_bits(pool_dtype, monkeypatch):
    """The last of 2³¹ elements and two slots more: 8 GiB in fp32."""
    batch = batch_of([1, 70], heads=1, kv_heads=1, dtype=torch.bfloat16, pool_dtype=pool_dtype, slots=[1, 0])
    near = batch.state[:2]
    far = torch.empty(2**31 // near[0].numel() + 2, *near.shape[1:], device="cuda", dtype=pool_dtype)
    indices = batch.state_indices
    beyond = indices + len(far) - 2

    def step(state, state_indices):
        rows = (x[:2] for x in (batch.q, batch.k, batch.v))
        return lk.lightning_attn2_step(*rows, batch.s, state=state, state_indices=state_indices)

    def verify(state, state_indices):
        q, k, v = (x[:4].unflatten(0, (2, 2)) for x in (batch.q, batch.k, batch.v))
        accepted = lk.Accepted(k, v, indices + 1)
        return lk.lightning_attn2_verify(
            q, k, v, batch.s, state=state, state_indices=state_indices, accepted=accepted
        )

    def serve(state, state_indices):
        return replace(batch, state_indices=state_indices).call(lightning_attn2_serve, state)

    def portable(state, state_indices):
        with monkeypatch.context() as patch:
            patch.setenv("LIGHTNING_KERNELS_HOPPER", "0")
            return serve(state, state_indices)

    for function in (serve, portable, step, verify):
        expected_pool = near.clone()
        far[-2:] = near
        assert same_bits(function(far, beyond), function(expected_pool, indices)), function
        assert same_bits(far[-2:], expected_pool), function


@pytest.mark.filterwarnings("ignore")
def test_inductor_updates_the_pool_in_place():
    torch.compiler.reset()
    batch = batch_of(MIXED, dtype=torch.bfloat16)
    expected_pool, pool = batch.state.clone(), batch.state.clone()
    expected = batch.call(lightning_attn2_serve, expected_pool)
    compiled = torch.compile(lambda state: batch.call(lightning_attn2_serve, state), fullgraph=True)
    assert same_bits(compiled(pool), expected)
    assert same_bits(pool, expected_pool)
