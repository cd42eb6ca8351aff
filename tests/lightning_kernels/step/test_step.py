"""One-token decoding against fp64: the kernel, interpreted where there is no GPU, and the plain form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_kernels as lk
from lightning_kernels import lightning_attn2_step, lightning_attn2_step_torch
from tests.support.kernel_cases import make_inputs, relative_l2, run_each
from tests.support.step_cases import DEVICE, both, make_state, make_token

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

BUDGET = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3, torch.float64: 1e-14}

gpu = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")]


def oracle(q, k, v, s, state, scale):
    """Return o and the new state in fp64."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    decay = 1.0 if s is None else torch.exp(-s.double()).reshape(-1, 1, 1)
    state = decay * state.double() + k[..., :, None] * v[..., None, :]
    return scale * (q.double()[:, :, None] @ state)[:, :, 0], state


def check(step, tokens, s, state, scale):
    """Walk the tokens and compare each o and the state with fp64; return the last o."""
    expected_state = state.double().clone()
    for q, k, v in tokens:
        given_state = state
        o = step(q, k, v, s, state=state, scale=scale)
        expected, expected_state = oracle(q, k, v, s, expected_state, scale)
        assert o.dtype == q.dtype
        assert o.shape == expected.shape
        assert state is given_state
        # Few elements may be sums that cancel.
        slack = 1.0 if expected.numel() >= 64 else 30.0
        # Below the normal numbers of fp16, rounding is absolute.
        floor = 2.0**-24 * o.numel() ** 0.5 if o.dtype == torch.float16 else 0.0
        error = float((o.double() - expected).norm())
        assert error <= BUDGET[q.dtype] * slack * float(expected.norm()) + floor
        state_budget = BUDGET[torch.float64 if state.dtype == torch.float64 else torch.float32]
        assert relative_l2(state, expected_state) <= state_budget
    return o


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "dtype", "examples"),
    [
        (lightning_attn2_step, torch.float32, 12),
        (lightning_attn2_step, torch.float16, 12),
        pytest.param(lightning_attn2_step, torch.bfloat16, 30, marks=gpu),
        (lightning_attn2_step_torch, torch.float64, 20),
        (lightning_attn2_step_torch, torch.float32, 20),
        (lightning_attn2_step_torch, torch.bfloat16, 20),
    ],
)
def test_any_shape_token_by_token(step, dtype, examples):
    @settings(max_examples=examples, derandomize=True, database=None)
    @given(
        b=st.integers(1, 2), hk=st.integers(1, 2), group=st.integers(1, 3), d=st.integers(1, 256),
        e=st.integers(1, 256), tokens=st.integers(1, 2), slope=st.none() | st.floats(0, 8),
        scale=st.sampled_from([1.0, 0.125, -2.0]), seed=st.integers(0, 99),
    )  # fmt: skip
    def property_holds(b, hk, group, d, e, tokens, slope, scale, seed):
        heads = hk * group
        s = None if slope is None else torch.linspace(slope, 0, heads, device=DEVICE)
        state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        state = make_state(b, heads, d, e, seed=seed, dtype=state_dtype)
        walk = [make_token(b, heads, hk, d, e, dtype, seed=seed + 100 * t) for t in range(tokens)]
        check(step, walk, s, state, scale)

    property_holds()


@both
@pytest.mark.parametrize("shape", [(1, 32, 128, 128), (5, 64, 64, 64), (2, 3, 256, 256), (3, 1, 1, 1)])
def test_shapes_of_models(step, shape):
    b, h, d, e = shape
    token = make_token(b, h, h, d, e, torch.float32)
    check(step, [token], lk.build_slope_tensor(h).to(DEVICE), make_state(b, h, d, e), d**-0.5)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_sequence_in_tokens_is_the_sequence_whole(step, dtype):
    b, h, n, d, e = 2, 2, 20, 24, 40
    q, k, v, _ = (x.detach() for x in make_inputs(b, h, n, d, e, dtype, device=DEVICE))
    s = torch.tensor([0.3, 0.0], device=DEVICE)
    whole = lk.lightning_attn2_torch(q, k, v, s)
    state = torch.zeros(b, h, d, e, device=DEVICE)
    parts = [step(*(x[:, :, t] for x in (q, k, v)), s, state=state) for t in range(n)]
    assert relative_l2(torch.stack(parts, 2), whole.double()) <= 2 * BUDGET[dtype]


@both
def test_a_slow_decay_keeps_its_rate(step):
    # Multiplying by a decay rounded to fp32 is off by up to 2^-25 a token, always to the same side.
    q, k, v = (torch.zeros_like(x) for x in make_token(1, 1, 1, 16, 16, torch.float32))
    s, state = torch.tensor([1.2e-3], device=DEVICE), make_state(1, 1, 16, 16)
    expected = state.double() * torch.exp(-s.double() * 300)
    for _ in range(300):
        step(q, k, v, s, state=state)
    assert relative_l2(state, expected) <= 1e-6


@both
def test_every_decay_is_right_to_its_last_places(step):
    # On both sides of ln 2, where the form of the decay changes, and far from it.
    rates = torch.cat(
        [torch.linspace(0.0, 2.0, 61), torch.tensor([0.693146, 0.6931472, 0.6931473, 5.0, 20.0])]
    )
    heads = len(rates)
    q, k, v = (torch.zeros_like(x) for x in make_token(1, heads, heads, 16, 16, torch.float32))
    state = make_state(1, heads, 16, 16)
    expected = state.double() * torch.exp(-rates.to(DEVICE).double())[:, None, None]
    step(q, k, v, rates.to(DEVICE), state=state)
    error = ((state - expected) / expected).abs().amax((-2, -1))[0].cpu()
    assert (error <= 1.5e-7 * rates.clamp(min=1.0)).all()


@both
def test_grouped_heads_are_repeated_heads(step):
    q, k, v = make_token(2, 6, 2, 32, 16, torch.float32)
    s = lk.build_slope_tensor(6).to(DEVICE)
    one, other = make_state(2, 6, 32, 16), make_state(2, 6, 32, 16)
    grouped = step(q, k, v, s, state=one)
    repeated = step(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), s, state=other)
    assert torch.equal(grouped, repeated)
    assert torch.equal(one, other)


@both
def test_a_steep_decay_forgets(step):
    q, k, v = make_token(1, 2, 2, 16, 16, torch.float32)
    state = 1e6 * make_state(1, 2, 16, 16)
    step(q, k, v, torch.full((2,), 1e3, device=DEVICE), state=state)
    assert torch.equal(state, k[..., :, None] * v[..., None, :])


@both
@pytest.mark.usefixtures("poison")
def test_every_element_is_written(step):
    for d, e in ((24, 40), (17, 5), (128, 96)):
        state = make_state(2, 2, d, e)
        assert step(*make_token(2, 2, 2, d, e, torch.float32), state=state).isfinite().all()
        assert state.isfinite().all()


@both
def test_autocast_changes_nothing(step):
    token, state = make_token(2, 2, 2, 16, 16, torch.float32), make_state(2, 2, 16, 16)
    expected = step(*token, state=state.clone())
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert torch.equal(step(*token, state=state), expected)


@both
def test_an_empty_batch_is_an_empty_result(step):
    token = make_token(0, 2, 2, 16, 8, torch.float32)
    assert step(*token, state=make_state(0, 2, 16, 8)).shape == (0, 2, 8)


def test_cpu_tensors_without_interpreter_and_the_plain_form_without_triton():
    run_each(
        "import torch\n"
        "from lightning_kernels import lightning_attn2_step\n"
        "x = torch.ones(1, 1, 16)\n"
        "try: lightning_attn2_step(x, x, x, state=torch.zeros(1, 1, 16, 16))\n"
        "except ValueError as e: assert 'lightning_attn2_step_torch' in str(e)\n"
        "else: raise SystemExit('CPU tensors were taken')\n",
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from lightning_kernels import lightning_attn2_step_torch\n"
        "x = torch.ones(1, 1, 16)\n"
        "lightning_attn2_step_torch(x, x, x, state=torch.zeros(1, 1, 16, 16))\n",
    )


def test_the_tiles_fill_the_device():
    from lightning_kernels.step.step_kernel import step_block_e, step_tile_of

    assert step_tile_of(64, 128, 128) == (32, 8)
    assert step_tile_of(8, 128, 128) == (16, 4)
    assert step_tile_of(64 * 64, 128, 20) == (32, 8)
    assert step_tile_of(64 * 64, 128, 5) == (16, 4)
    assert step_tile_of(64 * 64, 64, 64) == (64, 4)
    assert step_block_e(64 * 32, 128, 128) == 32
    assert step_block_e(64 * 64, 64, 64) == 64
    assert step_block_e(32, 128, 128) == 16
    assert step_block_e(1, 256, 256) == 16
    assert step_block_e(10**6, 16, 5) == 16


@pytest.mark.filterwarnings("ignore:.*torch.library.*:UserWarning")
@pytest.mark.parametrize("decay", [True, False])
def test_the_operator_is_registered_correctly(decay):
    q, k, v = make_token(2, 4, 2, 16, 24, torch.float32)
    slopes = torch.full((4,), 0.1, device=DEVICE) if decay else None
    operator = torch.ops.lightning_kernels.linear_attention_step.default
    torch.library.opcheck(operator, (q, k, v, slopes, make_state(2, 4, 16, 24), 0.5))


@both
def test_one_graph_to_the_compiler(step):
    torch.compiler.reset()
    token, state = make_token(2, 4, 2, 16, 24, torch.float32), make_state(2, 4, 16, 24)
    s = lk.build_slope_tensor(4).to(DEVICE)

    def decode(q, k, v, s, state):
        first = step(q, k, v, s, state=state)
        return first + 2 * step(q, k, v, s, state=state, scale=0.5) + state.sum()

    expected_state = state.clone()
    expected = decode(*token, s, expected_state)
    o = torch.compile(decode, fullgraph=True, backend="aot_eager")(*token, s, state)
    torch.testing.assert_close(o, expected)
    torch.testing.assert_close(state, expected_state)


class TestOnAGpu:
    pytestmark = gpu

    def test_a_graph_captures_the_call(self):
        token, state = make_token(2, 4, 2, 64, 64, torch.bfloat16), make_state(2, 4, 64, 64)
        s = lk.build_slope_tensor(4).cuda()
        expected_state = state.clone()
        for _ in range(3):
            expected = lightning_attn2_step(*token, s, state=expected_state)
        start = state.clone()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            o = lightning_attn2_step(*token, s, state=state)
        state.copy_(start)
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(o, expected)
        assert torch.equal(state, expected_state)

    @pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
    def test_nothing_waits_for_the_gpu(self):
        token, state = make_token(2, 4, 2, 64, 64, torch.bfloat16), make_state(2, 4, 64, 64)
        s = lk.build_slope_tensor(4).cuda()
        lightning_attn2_step(*token, s, state=state)
        torch.cuda.synchronize()
        try:
            torch.cuda.set_sync_debug_mode("error")
            lightning_attn2_step(*token, s, state=state)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_the_state_is_not_copied(self):
        token, state = make_token(8, 32, 32, 128, 128, torch.bfloat16), make_state(8, 32, 128, 128)
        o = lightning_attn2_step(*token, state=state)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        again = lightning_attn2_step(*token, state=state)
        assert again.shape == o.shape
        assert torch.cuda.memory_stats()["requested_bytes.all.peak"] - before <= o.nbytes

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_large_batches(self, dtype):
        token = make_token(64, 32, 8, 128, 128, dtype)
        state = make_state(64, 32, 128, 128)
        check(lightning_attn2_step, [token], lk.build_slope_tensor(32).cuda(), state, 128**-0.5)

    @pytest.mark.filterwarnings("ignore")
    def test_inductor_updates_the_state_in_place(self):
        torch.compiler.reset()
        token, state = make_token(2, 4, 2, 64, 64, torch.bfloat16), make_state(2, 4, 64, 64)
        expected_state = state.clone()
        expected = lightning_attn2_step(*token, state=expected_state)
        compiled = torch.compile(lambda q, k, v, x: lightning_attn2_step(q, k, v, state=x), fullgraph=True)
        assert torch.equal(compiled(*token, state), expected)
        assert torch.equal(state, expected_state)
