"""The Hopper kernel on a pool of states: on the emulated device, and its choice on a GPU."""

from dataclasses import replace

import pytest
import torch

from lightning_kernels import lightning_attn2_serve
from lightning_kernels.serving import serve_hopper
from lightning_kernels.serving.serve_call import ServeCall
from lightning_kernels.serving.serve_hopper import Serving, hopper_serving
from tests.support.gluon_emulator import scalars
from tests.support.gluon_emulator.trials import Runner
from tests.support.served_batches import (
    check_batch,
    int32,
    make_batch,
    part_of_another,
    same_bits,
    snapshots,
)

DIMS = [(64, 64), (128, 128), (64, 128), (48, 80)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_HOPPER = DEVICE == "cuda" and torch.cuda.get_device_capability() == (9, 0)
needs_hopper = pytest.mark.skipif(not ON_HOPPER, reason="needs a Hopper GPU")


def on_hopper_or_a_cpu(test):
    """Mark a test that sees a Hopper GPU on a CPU, too."""
    return test if DEVICE == "cpu" else pytest.mark.gpu(needs_hopper(test))


def as_call(q, k, v, s, *, state, cu_seqlens, state_indices, scale, max_seqlen=0, **options):
    """Return the call that `lightning_attn2_serve` would make of these arguments."""
    names = "output_state_indices", "has_initial_state", "context_lens"
    given = [options.pop(name, None) for name in names]
    kept, seeds = options.pop("snapshots", None), options.pop("rounding_seeds", None)
    assert not options
    return ServeCall(
        q, k, v, s, state, cu_seqlens, state_indices, *given, None if kept is None else kept.indices, seeds,
        0 if kept is None else kept.every, max_seqlen, scale,
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
    begun = torch.tensor([True, False, True, True, True])
    kinds = {"slots": [2, 0, 1, 3, 4], "has_initial_state": begun, "pool_dtype": torch.bfloat16}
    batch = batch_of([1, 130, 64, 70, 7], d=d, e=e, **kinds)
    o, pool = check_batch(serve, batch, slack=2)
    exact_o, exact_pool = check_batch(serve, replace(batch, state=batch.state.float()), slack=2)
    assert torch.equal(o, exact_o)
    torch.testing.assert_close(pool, exact_pool.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["pages", "layers", "heads", "address"])
def test_pools_that_are_parts_of_others(serve, layout, pool_dtype):
    begun = torch.tensor([True, False, True])
    batch = batch_of([70, 64, 1], pool_dtype=pool_dtype, has_initial_state=begun)
    expected = check_batch(serve, batch, slack=2)
    moved = replace(batch, state=part_of_another(batch.state, layout))
    assert all(map(same_bits, check_batch(serve, moved, slack=2), expected))


def test_no_decay_and_no_tokens(serve):
    check_batch(serve, batch_of([65, 3], slope=None), slack=2)
    o, _ = check_batch(serve, batch_of([0, 0], beyond=3))
    assert not o.any()


def test_indices_that_begin_anywhere(serve):
    """A kernel compiled for vectors at multiples of 16 bytes runs on parts of longer vectors, too."""
    others = {"output_state_indices": int32(2, 3), "has_initial_state": torch.tensor([True, False])}
    batch = batch_of([70, 5], slots=[0, 1], **others)
    expected = check_batch(serve, batch, slack=2)
    moved = replace(
        batch, s=moved_on(batch.s), cu_seqlens=moved_on(batch.cu_seqlens),
        state_indices=moved_on(batch.state_indices),
        options={name: moved_on(x) for name, x in batch.options.items()},
    )  # fmt: skip
    assert all(map(same_bits, check_batch(serve, moved, slack=2), expected))


def test_offsets_of_slots_take_64_bits(serve, monkeypatch):
    """Here 32-bit integers have 18 bits: offsets in a pool of 72 slots exceed that, and nothing else does."""
    monkeypatch.setitem(scalars._BOUND, 32, 2**18)
    check_batch(serve, batch_of([70, 1], slots=[70, 69], output_state_indices=int32(68, 69)), slack=2)


def moved_on(vector):
    """Return an equal vector, one element beyond an aligned address."""
    return torch.cat([vector[:1], vector])[1:]


@pytest.fixture
def chosen(runner, monkeypatch):
    """Return what chooses the kernel of a batch, which sees a Hopper GPU on a CPU, too."""
    monkeypatch.delenv("LIGHTNING_KERNELS_HOPPER", raising=False)  # CONTRIBUTING.md has GPU tests run with it
    if not torch.cuda.is_available():
        monkeypatch.setattr(serve_hopper, "hopper", lambda device: runner.host)
    return lambda batch: batch.call(lambda *x, **y: hopper_serving(as_call(*x, **y)), batch.state)


@on_hopper_or_a_cpu
def test_batches_of_one_size_with_and_without_decay_are_two_kinds(chosen):
    decaying, lasting = (batch_of([65], slope=slope, device=DEVICE) for slope in (0.3, None))
    first = chosen(decaying)
    assert None is not chosen(lasting) is not first
    assert chosen(decaying) is first


@on_hopper_or_a_cpu
def test_prompts_go_to_it_and_decoding_does_not(chosen, monkeypatch):
    def takes(lengths, **options):
        return chosen(batch_of(lengths, device=DEVICE, **options)) is not None

    assert takes([100, 1])
    assert not takes([1, 1])
    assert takes([32], beyond=32, slots=[-1])
    assert not takes([31])
    assert not takes([0])
    assert takes([100], max_seqlen=9)
    assert not takes([100], max_seqlen=8)
    assert not takes([100], d=40, e=40)
    assert not takes([100], dtype=torch.float32)
    assert takes([100], dtype=torch.float16)
    assert takes([100], pool_dtype=torch.bfloat16)
    seeds = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    assert not takes([100], pool_dtype=torch.bfloat16, rounding_seeds=seeds)
    assert not takes([100], snapshots=snapshots(64, [[3]], DEVICE))
    monkeypatch.setenv("LIGHTNING_KERNELS_INVARIANT", "1")
    assert not takes([100])


@on_hopper_or_a_cpu
def test_states_must_be_contiguous_within_a_slot(chosen):
    batch = batch_of([100], device=DEVICE)
    pool = batch.state
    assert chosen(replace(batch, state=torch.stack([pool, pool], 1)[:, 1])) is not None
    assert chosen(replace(batch, state=torch.cat([pool, pool], 1)[:, 1:3])) is not None
    for padded in (torch.cat([pool, pool], 3)[..., :64], torch.cat([pool, pool], 2)[..., :64, :]):
        assert chosen(replace(batch, state=padded)) is None
    assert chosen(replace(batch, state=pool.transpose(2, 3).contiguous().transpose(2, 3))) is None


def test_slots_far_apart_do_not_share_a_kernel_with_near_ones(runner):
    x, slots = torch.empty(1, 2, 64, 64, dtype=torch.bfloat16), int32(0)

    def key(slot_stride):
        pool = torch.empty(1, 2, 64, 64).as_strided((1, 2, 64, 64), (slot_stride, 4096, 64, 1))
        extras = None, int32(0, 64), pool, None, pool
        return runner.host.Launch((x, x, x, None, x, None, None), extras, runner.host.Pool(slots))._key

    assert key(2**13) == key(2**30) != key(2**31)  # where a stride takes 64 bits


@pytest.mark.gpu
@needs_hopper
@pytest.mark.usefixtures("poison")
class TestOnAGpu:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize(("d", "e"), [*DIMS, (256, 256), (192, 240), (80, 32)])
    def test_mixed_batches(self, chosen, dtype, d, e):
        kinds = {"d": d, "e": e, "dtype": dtype, "heads": 4, "kv_heads": 2, "device": DEVICE}
        batch = batch_of(
            [1, 700, 0, 64, 65, 9, 1, 130], slots=[8, 3, 0, 2, -1, 5, 6, 1], beyond=100, **kinds,
            output_state_indices=int32(8, 9, 0, -1, 4, 5, 7, 1, device=DEVICE),
            has_initial_state=torch.tensor([1, 0, 1, 1, 1, 1, 0, 1], dtype=torch.bool, device=DEVICE),
        )  # fmt: skip
        batch.state[3] = float("nan")  # which does not enter
        narrow = batch.state.bfloat16()
        rounded = replace(batch, state=part_of_another(narrow, "pages"))
        exact = replace(batch, state=part_of_another(narrow.float(), "heads"))
        assert None not in (chosen(rounded), chosen(exact))
        _, pool = check_batch(lightning_attn2_serve, rounded, slack=2)
        _, exact_pool = check_batch(lightning_attn2_serve, exact, slack=2)
        # To nearest: cut off, half of them would be others. Two compiled kernels may add up otherwise.
        written = [8, 9, 5, 7, 1]
        others = pool[written] != exact_pool[written].bfloat16()
        assert float(others.float().mean()) < 1e-2
