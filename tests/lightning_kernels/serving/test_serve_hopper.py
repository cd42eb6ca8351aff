"""The Hopper kernel on a pool of states: on the emulated device, and its choice on a GPU."""

from dataclasses import replace

import pytest
import torch

from lightning_kernels.serving import serve_hopper
from lightning_kernels.serving.serve_call import ServeCall
from lightning_kernels.serving.serve_hopper import Serving, hopper_serving
from tests.support.gluon_emulator.trials import Runner
from tests.support.served_batches import check_batch, int32, make_batch, snapshots

DIMS = [(64, 64), (128, 128), (64, 128), (48, 80)]


def as_call(q, k, v, s, *, state, cu_seqlens, state_indices, scale, max_seqlen=0, **options):
    """Return the call that `lightning_attn2_serve` would make of these arguments."""
    names = "output_state_indices", "has_initial_state", "context_lens"
    kept = options.get("snapshots")
    return ServeCall(
        q, k, v, s, state, cu_seqlens, state_indices, *(options.get(name) for name in names),
        None if kept is None else kept.indices, None, 0 if kept is None else kept.every, max_seqlen, scale,
    )  # fmt: skip


def batch_of(lengths, **kinds):
    return make_batch(lengths, **{"d": 64, "e": 64, "dtype": torch.bfloat16, **kinds})


@pytest.fixture(scope="module")
def runner():
    return Runner()


@pytest.fixture
def serve(runner, monkeypatch):
    """Return `lightning_attn2_serve` by the Hopper kernel on an emulated H200."""
    monkeypatch.setattr(runner.host, "processors", lambda device: 132)
    runner.machine.rng.seed(0)

    def call(*tensors, **options):
        serving = Serving(runner.host.HopperServing(), runner.host.Pool)
        return serving(as_call(*tensors, **options))

    return call


@pytest.mark.parametrize(("d", "e"), DIMS)
def test_mixed_batches(serve, d, e):
    check_batch(serve, batch_of([1, 130, 64, 1, 7], d=d, e=e), slack=2)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_padding_new_sequences_and_other_slots(serve, kv_heads):
    batch = batch_of(
        [1, 70, 66, 0, 65, 1], kv_heads=kv_heads, slots=[2, -1, 0, 1, 3, -1], beyond=80,
        output_state_indices=int32(4, 5, -1, 6, 3, 7),
        has_initial_state=torch.tensor([True, True, False, True, True, False]),
    )  # fmt: skip
    batch.state[0] = float("nan")  # which does not enter
    check_batch(serve, batch, slack=2)


@pytest.mark.parametrize(("d", "e"), DIMS)
def test_states_in_bf16_are_rounded_once(serve, d, e):
    lengths = {"slots": [2, 0, 1, 3, 4], "has_initial_state": torch.tensor([True, False, True, True, True])}
    batch = batch_of([1, 130, 64, 70, 7], d=d, e=e, pool_dtype=torch.bfloat16, **lengths)
    o, pool = check_batch(serve, batch, slack=2)
    exact_o, exact_pool = check_batch(serve, replace(batch, state=batch.state.float()), slack=2)
    assert torch.equal(o, exact_o)
    torch.testing.assert_close(pool, exact_pool.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_no_decay_and_no_tokens(serve):
    check_batch(serve, batch_of([65, 3], slope=None), slack=2)
    o, _ = check_batch(serve, batch_of([0, 0], beyond=3))
    assert not o.any()
    assert check_batch(serve, batch_of([0]))[0].shape == (0, 2, 64)


def test_batches_of_one_size_with_and_without_decay_are_two_kinds(runner, monkeypatch):
    monkeypatch.setattr(serve_hopper, "hopper", lambda device: runner.host)
    decaying, lasting = batch_of([65]), batch_of([65], slope=None)

    def chosen(batch):
        return batch.call(lambda *x, **y: hopper_serving(as_call(*x, **y)), batch.state)

    first = chosen(decaying)
    assert None is not chosen(lasting) is not first
    assert chosen(decaying) is first


def test_slots_far_apart_do_not_share_a_kernel_with_near_ones(runner):
    x, slots = torch.empty(1, 2, 64, 64, dtype=torch.bfloat16), int32(0)

    def key(slot_stride):
        pool = torch.empty(1, 2, 64, 64).as_strided((1, 2, 64, 64), (slot_stride, 4096, 64, 1))
        extras = None, int32(0, 64), pool, None, pool
        return runner.host.Launch((x, x, x, None, x, None, None), extras, runner.host.Pool(slots))._key

    assert key(2**13) == key(2**30) != key(2**31)  # where a stride takes 64 bits


ON_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not ON_HOPPER, reason="needs a Hopper GPU")
def test_prompts_go_to_it_and_decoding_does_not(monkeypatch):
    def chosen(lengths, **options):
        state_dtype = options.pop("pool_dtype", torch.float32)
        batch = batch_of(lengths, device="cuda", pool_dtype=state_dtype, **options)
        return batch.call(lambda *x, **y: hopper_serving(as_call(*x, **y)), batch.state) is not None

    assert chosen([100, 1])
    assert not chosen([1, 1])
    assert not chosen([100], max_seqlen=8)
    assert not chosen([100], d=40, e=40)
    assert chosen([100], pool_dtype=torch.bfloat16)
    seeds = torch.zeros(1, dtype=torch.int64, device="cuda")
    assert not chosen([100], pool_dtype=torch.bfloat16, rounding_seeds=seeds)
    assert not chosen([100], snapshots=snapshots(64, [[3]], "cuda"))
    monkeypatch.setenv("LIGHTNING_KERNELS_INVARIANT", "1")
    assert not chosen([100])
