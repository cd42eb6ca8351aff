"""One-token decoding against fp64: the kernel, interpreted where there is no GPU, and the plain form."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_kernels as lk
from lightning_kernels import lightning_attn2_step, lightning_attn2_step_torch
from lightning_kernels.common import kinds
from lightning_kernels.step import decode_step
from tests.support.kernel_cases import make_inputs, relative_l2

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGET = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3, torch.float64: 1e-14}

both = pytest.mark.parametrize("step", [lightning_attn2_step, lightning_attn2_step_torch])
gpu = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")]


def make_token(b, hq, hk, d, e, dtype, *, seed=0, device=DEVICE):
    """Return q, k, v of one token."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((b, hq, d), (b, hk, d), (b, hk, e))
    return tuple(torch.randn(s, generator=generator).to(device, dtype) for s in shapes)


def make_state(b, hq, d, e, *, seed=0, dtype=torch.float32, device=DEVICE):
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn((b, hq, d, e), generator=generator).to(device, dtype)


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
def test_grouped_heads_are_repeated_heads(step):
    q, k, v = make_token(2, 6, 2, 32, 16, torch.float32)
    s = lk.build_slope_tensor(6).to(DEVICE)
    one, other = make_state(2, 6, 32, 16), make_state(2, 6, 32, 16)
    grouped = step(q, k, v, s, state=one)
    repeated = step(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), s, state=other)
    assert torch.equal(grouped, repeated)
    assert torch.equal(one, other)


@pytest.fixture(params=["operator", "direct"])
def either_way(request, monkeypatch):
    """Let steps go past the dispatcher too, on a CPU as on a GPU."""
    monkeypatch.setattr(decode_step, "unobserved", lambda _: request.param == "direct")
    monkeypatch.setattr(decode_step, "_steps", kinds.Kept())


@both
@pytest.mark.usefixtures("either_way")
def test_strides_change_nothing(step):
    token = make_token(2, 4, 4, 32, 48, torch.float32)
    s, state = lk.build_slope_tensor(4).to(DEVICE), make_state(2, 4, 32, 48)
    expected_state = state.clone()
    expected = step(*token, s, state=expected_state)

    def swapped(x):  # heads before batch in memory
        return x.transpose(0, 1).contiguous().transpose(0, 1)

    def sliced(x):  # rows with a gap between them
        wide = torch.full((*x.shape[:-1], x.shape[-1] + 8), float("nan"), device=DEVICE)
        wide[..., 8:] = x
        return wide[..., 8:]

    def column(x):  # last dim not contiguous
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)

    for change in 2 * (swapped, sliced, column):
        given_state = state.clone() if change is column else change(state)
        o = step(*(change(x) for x in token), s, state=given_state)
        assert o.is_contiguous()
        assert torch.equal(o, expected)
        assert torch.equal(given_state, expected_state)

    one_of_many = torch.full((3, *state.shape), float("nan"), device=DEVICE)  # a cache of three layers
    one_of_many[1] = state
    step(*token, s, state=one_of_many[1])
    assert torch.equal(one_of_many[1], expected_state)
    assert one_of_many[[0, 2]].isnan().all()


@both
@pytest.mark.usefixtures("either_way")
def test_slopes_in_any_form(step):
    token, state = make_token(1, 4, 4, 16, 16, torch.float32), make_state(1, 4, 16, 16)
    flat = torch.tensor([0.0, 0.5, 1.0, 8.0], device=DEVICE)
    spread = torch.zeros(4, 3, device=DEVICE)
    spread[:, 0] = flat
    states = [state.clone() for _ in range(4)]
    forms = (flat, flat.reshape(4, 1, 1), flat.double(), spread[:, 0])
    outputs = [step(*token, s, state=x) for s, x in zip(forms, states, strict=True)]
    assert all(torch.equal(o, outputs[0]) for o in outputs)
    assert all(torch.equal(x, states[0]) for x in states)


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
def test_an_empty_batch_is_an_empty_result(step):
    token = make_token(0, 2, 2, 16, 8, torch.float32)
    assert step(*token, state=make_state(0, 2, 16, 8)).shape == (0, 2, 8)


@both
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (2, 4, 1, 16)}, "q, k and v must be"),
        ({"k": (2, 2, 17)}, "k must share batch and head_dim"),
        ({"k": (1, 2, 16)}, "k must share batch and head_dim"),
        ({"v": (2, 4, 8)}, "v must share batch and heads"),
        ({"q": (2, 3, 16), "state": (2, 3, 16, 8)}, "multiple of those of k, got 3 and 2"),
        ({"q": (2, 4, 0), "k": (2, 2, 0), "state": (2, 4, 0, 8)}, "at least 1"),
        ({"s": (2,)}, r"s must be \[4, 1, 1\] or \[4\]"),
        ({"state": (2, 2, 16, 8)}, r"state must be .* = \[2, 4, 16, 8\], got \[2, 2, 16, 8\]"),
        ({"state": (2, 4, 8, 16)}, "state must be"),
    ],
)
def test_shapes_that_do_not_fit(step, change, message):
    shapes = {"q": (2, 4, 16), "k": (2, 2, 16), "v": (2, 2, 8), "s": (4,), "state": (2, 4, 16, 8), **change}
    with pytest.raises(ValueError, match=message):
        step(**{name: torch.zeros(shape, device=DEVICE) for name, shape in shapes.items()})


@both
@pytest.mark.usefixtures("either_way")
def test_dtypes_that_do_not_fit(step):
    q, k, v = make_token(1, 2, 2, 16, 16, torch.float32)
    state = make_state(1, 2, 16, 16)
    with pytest.raises(ValueError, match="one dtype"):
        step(q, k, v.half(), state=state)
    with pytest.raises(ValueError, match="floating"):
        step(q.int(), k.int(), v.int(), state=state)
    with pytest.raises(ValueError, match="s must have a floating dtype"):
        step(q, k, v, torch.zeros(2, dtype=torch.int32, device=DEVICE), state=state)
    with pytest.raises(ValueError, match=r"state must be .*float32"):
        step(q.half(), k.half(), v.half(), state=state.half())


@both
@pytest.mark.usefixtures("either_way")
def test_a_state_that_cannot_be_updated(step):
    token = make_token(1, 2, 2, 16, 8, torch.float32)
    with pytest.raises(ValueError, match="must not be expanded"):
        step(*token, state=torch.zeros(1, 1, 16, 8, device=DEVICE).expand(1, 2, 16, 8))


@pytest.mark.usefixtures("either_way")
def test_limits_of_the_kernel():
    token = make_token(1, 2, 2, 16, 8, torch.float32)
    with pytest.raises(ValueError, match="last dim of state must be contiguous"):
        lightning_attn2_step(*token, state=torch.zeros(1, 2, 8, 16, device=DEVICE).transpose(2, 3))
    with pytest.raises(ValueError, match="bfloat16, got"):
        lightning_attn2_step(*(x.double() for x in token), state=make_state(1, 2, 16, 8))
    for d, e, name in ((257, 8, "head_dim"), (8, 257, "value_dim")):
        token = make_token(1, 1, 1, d, e, torch.float32)
        with pytest.raises(ValueError, match=f"{name} from 1 to 256, got 257"):
            lightning_attn2_step(*token, state=make_state(1, 1, d, e))


@both
@pytest.mark.usefixtures("either_way")
def test_no_gradient_is_computed(step):
    for index in range(4):
        tensors = [*make_token(1, 2, 2, 16, 16, torch.float32), make_state(1, 2, 16, 16)]
        tensors[index].requires_grad_()
        q, k, v, state = tensors
        with pytest.raises(NotImplementedError, match="use lightning_attn2"):
            step(q, k, v, state=state)
        with torch.no_grad():
            assert not step(q, k, v, state=state).requires_grad
    q, k, v = make_token(1, 2, 2, 16, 16, torch.float32)
    with pytest.raises(NotImplementedError, match="respect to s"):
        step(q, k, v, torch.zeros(2, device=DEVICE, requires_grad=True), state=make_state(1, 2, 16, 16))


@pytest.mark.usefixtures("either_way")
def test_a_step_is_noticed_by_autograd():
    """A state that autograd saved for a backward pass must not have changed before it."""
    q, k, v = make_token(1, 2, 2, 16, 16, torch.float32)
    state, weight = make_state(1, 2, 16, 16), torch.ones(1, 2, 16, 16, device=DEVICE, requires_grad=True)
    for _ in range(2):
        loss = (state * weight).sum()
        with torch.no_grad():
            lightning_attn2_step(q, k, v, state=state)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    with torch.inference_mode():
        state = make_state(1, 2, 16, 16)
        for _ in range(2):
            lightning_attn2_step(q, k, v, state=state)


@pytest.mark.usefixtures("either_way")
def test_views_that_are_negated_when_read_are_refused_or_right():
    q, k, v = make_token(1, 2, 2, 16, 16, torch.float32)
    one, other = make_state(1, 2, 16, 16), make_state(1, 2, 16, 16)
    for _ in range(2):
        expected = lightning_attn2_step(-q, k, v, state=one)
        assert torch.equal(lightning_attn2_step(torch._neg_view(q), k, v, state=other), expected)
        assert torch.equal(one, other)


def test_steps_of_many_batches_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(decode_step, "unobserved", lambda _: True)
    monkeypatch.setattr(decode_step, "_steps", kinds.Kept())
    monkeypatch.setattr(kinds, "MOST_KINDS", 3)
    for batch in range(1, 9):
        lightning_attn2_step(*make_token(batch, 1, 1, 4, 4, torch.float32), state=make_state(batch, 1, 4, 4))
        assert 1 <= len(decode_step._steps) <= 3


@both
@pytest.mark.skipif(torch.cuda.is_available(), reason="reads the values of s, on a CPU alone")
def test_negative_slopes_are_refused_on_the_cpu(step):
    token = make_token(1, 2, 2, 16, 16, torch.float32)
    with pytest.raises(ValueError, match="at least 0"):
        step(*token, torch.tensor([0.1, -0.1]), state=make_state(1, 2, 16, 16))


def run_python(code):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_cpu_tensors_without_interpreter_and_the_plain_form_without_triton():
    run_python(
        "import torch\n"
        "from lightning_kernels import lightning_attn2_step\n"
        "x = torch.ones(1, 1, 16)\n"
        "try: lightning_attn2_step(x, x, x, state=torch.zeros(1, 1, 16, 16))\n"
        "except ValueError as e: assert 'lightning_attn2_step_torch' in str(e)\n"
        "else: raise SystemExit('CPU tensors were taken')\n"
    )
    run_python(
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from lightning_kernels import lightning_attn2_step_torch\n"
        "x = torch.ones(1, 1, 16)\n"
        "lightning_attn2_step_torch(x, x, x, state=torch.zeros(1, 1, 16, 16))\n"
    )


def test_the_tiles_fill_the_device():
    from lightning_kernels.step.step_kernel import step_block_e

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
