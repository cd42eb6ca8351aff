"""Decoding against a pool of states, and states in bf16."""

import pytest
import torch

import lightning_kernels as lk
from lightning_kernels import lightning_attn2_step, lightning_attn2_step_torch
from tests.support.served_batches import int32, same_bits

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
both = pytest.mark.parametrize("step", [lightning_attn2_step, lightning_attn2_step_torch])
B, HEADS, D, E = 4, 4, 24, 40


def make_token(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, HEADS, D), (B, 2, D), (B, 2, E)
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def make_pool(dtype=torch.float32):
    """Return six states; those of slots 1 and 3 are NaN."""
    pool = torch.randn(6, HEADS, D, E, generator=torch.Generator().manual_seed(9)).to(DEVICE)
    pool[[1, 3]] = float("nan")
    return pool.to(dtype)


@both
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_pool_is_updated_where_the_indices_are(step, dtype):
    token, pool, s = make_token(dtype), make_pool(), lk.build_slope_tensor(HEADS).to(DEVICE)
    some, slots = [0, 1, 3], [5, 0, 2]
    states = pool[slots].clone()
    expected = step(*(x[some] for x in token), s, state=states, scale=0.5)
    before = pool.clone()
    indices = int32(5, 0, -1, 2, device=DEVICE)
    o = step(*token, s, state=pool, state_indices=indices, scale=0.5)
    torch.testing.assert_close(o[some], expected)
    assert not o[2].any()
    torch.testing.assert_close(pool[slots], states)
    assert same_bits(pool[[1, 3, 4]], before[[1, 3, 4]])
    spread = torch.stack([indices, indices], 1)[:, 0]  # of stride 2
    again = before.clone()
    assert same_bits(step(*token, s, state=again, state_indices=spread, scale=0.5), o)
    assert same_bits(again, pool)


@both
def test_states_in_bf16(step):
    token, s = make_token(), lk.build_slope_tensor(HEADS).to(DEVICE)
    state = make_pool(torch.bfloat16)[[0, 2, 4, 5]]
    exact = state.float()
    expected = step(*token, s, state=exact)
    torch.testing.assert_close(step(*token, s, state=state), expected)
    step_in_bf16 = 2.0**-7 if DEVICE == "cpu" and step is lightning_attn2_step else 2.0**-8  # cut or rounded
    assert float((state.float() / exact - 1).abs().max()) <= step_in_bf16
    if step_in_bf16 == 2.0**-8:
        assert same_bits(state, exact.bfloat16())


@both
def test_stochastic_rounding_keeps_what_rounding_to_nearest_loses(step):
    """A state of 256 to which 0.5 is added 16 times: each addition is a quarter of the last digit."""
    state = torch.full((1, 1, 16, 64), 256.0, device=DEVICE).bfloat16()
    nearest, again = state.clone(), state.clone()
    k, v = torch.full((1, 1, 16), 0.5, device=DEVICE), torch.ones(1, 1, 64, device=DEVICE)
    for count in range(16):
        seeds = torch.tensor([1000 + count], device=DEVICE)
        step(k, k, v, state=state, rounding_seeds=seeds)
        step(k, k, v, state=nearest)
        if count < 4:
            step(k, k, v, state=again, rounding_seeds=seeds)
        if count == 3:
            assert same_bits(again, state)
    assert same_bits(nearest, torch.full_like(nearest, 256.0))
    # Variance per element and step: 2² · p (1 − p) with p = 0.5 / 2.
    deviation = (16 * 4 * 0.25 * 0.75 / state.numel()) ** 0.5
    assert abs(float(state.float().mean()) - 264) < 5 * deviation


@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_indices": torch.zeros(B, dtype=torch.int64)}, r"state_indices must be int32 \[4\]"),
        ({"state_indices": torch.zeros(3, dtype=torch.int32)}, r"state_indices must be int32 \[4\]"),
        ({}, r"state must be \[batch, heads of q.*= \[4, 4, 24, 40\].* it may be a pool"),
        ({"rounding_seeds": torch.zeros(B, dtype=torch.int64)}, "state must be|for states in bfloat16"),
    ],
)
def test_what_does_not_fit_is_refused(step, changes, message):
    moved = {name: x.to(DEVICE) for name, x in changes.items()}
    with pytest.raises(ValueError, match=message):
        step(*make_token(), state=make_pool(), **moved)


@pytest.mark.skipif(DEVICE == "cuda", reason="reads values, on a CPU only")
@both
def test_slots_that_do_not_fit_are_refused_on_a_cpu(step):
    for slots, message in (((0, 1, 2, 6), "slots are from 0 to 5"), ((0, 1, 1, 2), "slot 1")):
        with pytest.raises(ValueError, match=message):
            step(*make_token(), state=make_pool(), state_indices=int32(*slots))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.library.*:UserWarning")
def test_the_operator_is_registered_correctly():
    operator = torch.ops.lightning_kernels.linear_attention_step.default
    pool = make_pool().nan_to_num().bfloat16()
    seeds = torch.arange(B, device=DEVICE)
    arguments = (*make_token(), None, pool, 0.5, int32(5, 0, -1, 2, device=DEVICE), seeds)
    torch.library.opcheck(operator, arguments)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("pool_dtype", [torch.float32, torch.bfloat16])
def test_a_graph_decodes_against_a_pool(pool_dtype):
    token, pool = make_token(torch.bfloat16), make_pool(pool_dtype)
    indices = int32(5, 0, -1, 2, device="cuda")
    start, expected_pool = pool.clone(), pool.clone()
    for _ in range(2):
        expected = lightning_attn2_step(*token, state=expected_pool, state_indices=indices)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = lightning_attn2_step(*token, state=pool, state_indices=indices)
    pool.copy_(start)
    for _ in range(2):
        graph.replay()
    assert same_bits(o, expected)
    assert same_bits(pool, expected_pool)
