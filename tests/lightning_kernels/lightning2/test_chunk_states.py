"""States without o, and after every chunk of tokens, with their gradients, against fp64: in both forms."""

from itertools import pairwise

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import lightning_kernels as lk
from lightning_kernels.lightning2 import chunk_states
from lightning_kernels.lightning2.state_operator import linear_attention_states
from tests.support.kernel_cases import make_case, relative_l2

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGET = {torch.float32: 2e-6, torch.float16: 8e-4, torch.bfloat16: 6e-3}
KERNELS = lk.lightning_attn2, lk.lightning_attn2_state
FORMS = lk.lightning_attn2_torch, lk.lightning_attn2_state_torch

both = pytest.mark.parametrize("forms", [KERNELS, FORMS], ids=["kernels", "torch"])
gpu = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")]


def leaves_of(case, dtype=None):
    """Return copies of k, v and, where there is one, the initial state that require gradients."""
    return [x.to(dtype) if dtype else x for x in case.inputs()[1:]]


def states_by(attention, case, leaves, every):
    """Return the states after every chunk."""
    k, v, state = (*leaves, None)[:3]
    given_state = {"initial_state": state, "cu_seqlens": case.cu_seqlens, "layout": case.layout}
    return attention(case.q, k, v, case.s, return_states_every=every, **given_state)[1]


def final_by(function, case, leaves):
    k, v, state = (*leaves, None)[:3]
    return function(k, v, case.s, initial_state=state, cu_seqlens=case.cu_seqlens, layout=case.layout)


def expected_states(case, leaves, every):
    """Return the states after every chunk in their places, each as the final state of its prefix, in fp64."""
    k, v, state = (*leaves, None)[:3]
    if case.layout == "bnhd":
        k, v = k.transpose(1, 2), v.transpose(1, 2)
    b, _, n, d = k.shape
    heads = case.q.shape[1 if case.layout == "bhnd" else 2]
    bounds = [0, n] if case.cu_seqlens is None else case.cu_seqlens.tolist()
    places = -(-n // every) if case.cu_seqlens is None else n // every + len(bounds) - 1
    found = [torch.zeros(b, heads, d, v.shape[3], dtype=torch.float64, device=DEVICE)] * places
    for i, (first, end) in enumerate(pairwise(bounds)):
        entering = state if case.cu_seqlens is None or state is None else state[i : i + 1]
        for chunk, begin in enumerate(range(first, end, every)):
            rows = slice(None), slice(None), slice(first, min(begin + every, end))
            q = torch.zeros(b, heads, rows[2].stop - first, d, dtype=torch.float64, device=DEVICE)
            place = chunk if case.cu_seqlens is None else first // every + i + chunk
            found[place] = lk.reference_attention(
                q, k[rows], v[rows], case.s, initial_state=entering, return_state=True
            )[1]
    return torch.stack(found, dim=2)


def check(got, leaves, expected, exact, dtype):
    """Compare states and the gradients of a random weighting of them."""
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    if not (got.requires_grad and expected.requires_grad):  # where no sequence has a token
        assert not got.any()
        return
    grads = torch.autograd.grad(got, leaves, weight)
    exact_grads = torch.autograd.grad(expected, exact, weight.double())
    for one, other in zip((got, *grads), (expected, *exact_grads), strict=True):
        floor = 2.0**-24 * other.numel() ** 0.5 if dtype == torch.float16 else 0.0
        slack = 1.0 if other.numel() >= 200 else 10.0
        error = float((one.detach().double() - other.detach()).norm())
        assert error <= BUDGET[dtype] * slack * float(other.detach().norm()) + floor


def draw_case(data, dtype, every):
    n, kv_heads = data.draw(st.integers(1, 9 if every == 1 else 80)), data.draw(st.integers(1, 2))
    cuts = data.draw(st.none() | st.lists(st.integers(0, n), min_size=1, max_size=4))
    return make_case(
        1 if cuts else data.draw(st.integers(1, 2)), kv_heads * data.draw(st.integers(1, 2)), kv_heads, n,
        data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)), dtype,
        slope=data.draw(st.none() | st.sampled_from([0.0, 1e-3, 0.3, 4.0])), state=data.draw(st.booleans()),
        bounds=None if cuts is None else [0, *sorted(cuts)], seed=data.draw(st.integers(0, 99)),
        layout=data.draw(st.sampled_from(["bhnd", "bnhd"])), device=DEVICE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forms", "dtype", "examples"),
    [
        (FORMS, torch.float32, 15),
        (KERNELS, torch.float32, 6),
        (KERNELS, torch.float16, 4),
        pytest.param(KERNELS, torch.bfloat16, 40, marks=gpu),
    ],
)
def test_any_call(forms, dtype, examples):
    # Shrinking takes minutes in the interpreter.
    @settings(max_examples=examples, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.data())
    def property_holds(data):
        every = data.draw(st.sampled_from([1, 7, 16, 33, 64, 1000]))
        case = draw_case(data, dtype, every)
        leaves, exact = leaves_of(case), [x.detach().double().requires_grad_() for x in leaves_of(case)]
        expected = expected_states(case, exact, every)
        check(states_by(forms[0], case, leaves, every), leaves, expected, exact, dtype)
        kv_heads = case.k.shape[1 if case.layout == "bhnd" else 2]
        if case.s is None and len(leaves) == 2 and expected.shape[1] != kv_heads:
            return  # nothing says how many heads the final state has
        _, final = lk.reference_attention(
            case.q.double(), *exact[:2], case.s, initial_state=exact[2] if len(exact) == 3 else None,
            return_state=True, cu_seqlens=case.cu_seqlens, layout=case.layout,
        )  # fmt: skip
        check(final_by(forms[1], case, leaves), leaves, final, exact, dtype)

    property_holds()


@both
def test_a_state_is_that_of_the_attention(forms):
    """Longer than one chunk, with a last block that is not whole, and passed on in two halves."""
    attention, state_of = forms
    case = make_case(1, 2, 1, 1300, 16, 24, torch.float32, slope=1e-3, device=DEVICE)
    q, k, v = (x.detach() for x in (case.q, case.k, case.v))
    _, expected = attention(q, k, v, case.s, initial_state=case.initial_state, return_state=True)
    got = state_of(k, v, case.s, initial_state=case.initial_state)
    assert relative_l2(got, expected.double()) <= 2e-6
    half = state_of(k[:, :, :700], v[:, :, :700], case.s, initial_state=case.initial_state)
    assert relative_l2(state_of(k[:, :, 700:], v[:, :, 700:], case.s, initial_state=half), expected) <= 2e-6


@both
def test_all_results_at_once(forms):
    case = make_case(1, 4, 2, 50, 16, 24, torch.float32, bounds=[0, 20, 50], device=DEVICE)
    options = {"initial_state": case.initial_state, "cu_seqlens": case.cu_seqlens}
    o, state, states = forms[0](
        case.q, case.k, case.v, case.s, return_state=True, return_states_every=16, **options
    )
    plain, final = forms[0](case.q, case.k, case.v, case.s, return_state=True, **options)
    assert torch.equal(o, plain)
    assert torch.equal(state, final)
    assert states.shape == (1, 4, 50 // 16 + 2, 16, 24)
    # Tokens 0 to 19 have the places 0 and 1, tokens 20 to 49 those from 20 // 16 + 1 on.
    assert relative_l2(states[0, :, 1], state[0].double()) <= 2e-6
    assert relative_l2(states[0, :, 3], state[1].double()) <= 2e-6
    assert not states[0, :, 4].any()


@both
def test_sequences_without_tokens(forms):
    case = make_case(1, 2, 2, 8, 16, 16, torch.float32, bounds=[0, 0, 8, 8], device=DEVICE)
    state = forms[1](case.k, case.v, case.s, initial_state=case.initial_state, cu_seqlens=case.cu_seqlens)
    assert torch.equal(state[0], case.initial_state[0])
    assert torch.equal(state[2], case.initial_state[2])
    assert not forms[1](case.k, case.v, case.s, cu_seqlens=case.cu_seqlens)[0].any()
    empty = case.k[:, :, :0]
    assert torch.equal(forms[1](empty, empty, initial_state=case.initial_state[:1]), case.initial_state[:1])
    assert forms[1](case.k[:0], case.v[:0]).shape == (0, 2, 16, 16)


@both
@pytest.mark.usefixtures("poison")
def test_every_element_is_written(forms):
    case = make_case(1, 2, 1, 40, 17, 5, torch.float32, bounds=[0, 3, 30], device=DEVICE)
    leaves = leaves_of(case)
    states = states_by(forms[0], case, leaves, 8)
    final = final_by(forms[1], case, leaves)
    grads = torch.autograd.grad((states.sum(), final.sum()), leaves)
    assert all(x.isfinite().all() for x in (states, final, *grads))
    assert not grads[0][:, :, 30:].any()


def test_strides_change_nothing():
    case = make_case(2, 2, 2, 40, 16, 24, torch.float32, device=DEVICE)
    expected = lk.lightning_attn2_state(case.k, case.v, case.s, initial_state=case.initial_state)
    for change in (
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: torch.cat((x, x), dim=-1)[..., : x.shape[-1]],
    ):
        got = lk.lightning_attn2_state(
            change(case.k), change(case.v), case.s.double(), initial_state=change(case.initial_state)
        )
        assert torch.equal(got, expected)


def test_a_slow_decay_keeps_its_rate_over_many_chunks():
    # Rounded to fp32, the decay of a chunk is off by up to 2^-25, always to the same side.
    zeros, s = torch.zeros(1, 1, 1200, 16, device=DEVICE), torch.tensor([3e-4], device=DEVICE)
    state = torch.randn(1, 1, 16, 16, device=DEVICE)
    _, states = lk.lightning_attn2(zeros, zeros, zeros, s, initial_state=state, return_states_every=4)
    expected = state.double() * torch.exp(-s.double() * 1200)
    assert relative_l2(states[:, :, -1], expected) <= 1e-6


def test_bits_that_do_not_depend_on_the_batch(monkeypatch):
    monkeypatch.setenv("LIGHTNING_KERNELS_INVARIANT", "1")
    monkeypatch.setattr(chunk_states, "_ENOUGH_PROGRAMS", 4)  # reached by three sequences, not by one
    case = make_case(3, 2, 2, 2100, 16, 16, torch.float32, device=DEVICE)
    whole = lk.lightning_attn2_state(case.k, case.v, case.s)
    assert torch.equal(lk.lightning_attn2_state(case.k[1:2], case.v[1:2], case.s), whole[1:2])


def test_derivatives_of_any_order_by_torch():
    k, v = (torch.randn(1, 1, 5, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    state = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    s = torch.tensor([0.3])

    def function(k, v, state):
        return lk.lightning_attn2_state_torch(k, v, s, initial_state=state)

    assert torch.autograd.gradcheck(function, (k, v, state))
    assert torch.autograd.gradgradcheck(function, (k, v, state))
    with FakeTensorMode():
        x = torch.empty(1, 1, 5, 2, dtype=torch.float64)
        assert lk.lightning_attn2_state_torch(x, x).dtype == torch.float64


def leaving(case, k, v, initial, scale, reverse):
    """Return the state that leaves the last token, or in reverse the first, by the operator."""
    return linear_attention_states(k, v, case.s, initial, case.cu_seqlens, case.q.shape[1], 0, scale, reverse)


@pytest.mark.parametrize("slope", [None, 0.3])
@pytest.mark.parametrize(("n", "bounds"), [(20, None), (700, None), (700, [0, 9, 530, 530, 690])])
def test_the_state_of_a_reverse_walk_is_the_gradient_of_an_initial_state(n, bounds, slope):
    case = make_case(1, 4, 2, n, 16, 24, torch.float32, slope=slope, bounds=bounds, device=DEVICE)
    case.initial_state.requires_grad_()
    none = torch.zeros_like(case.k), torch.zeros_like(case.v)
    o, state = lk.lightning_attn2_torch(
        case.q, *none, case.s, initial_state=case.initial_state, cu_seqlens=case.cu_seqlens, scale=0.7,
        return_state=True,
    )  # fmt: skip
    (expected,) = torch.autograd.grad((o, state), case.initial_state, (case.do, case.d_state))
    found = leaving(case, case.q, case.do, case.d_state, 0.7, True)
    assert relative_l2(found, expected.double()) <= BUDGET[torch.float32]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bounds", [None, [0, 64, 2100]])
def test_tokens_that_no_longer_count_are_not_read(bounds, reverse):
    case = make_case(1, 2, 2, 2100, 16, 16, torch.float32, state=False, bounds=bounds, device=DEVICE)
    case.s = torch.full((2,), 0.05, device=DEVICE)  # a token counts for 416 others
    last = -1 if bounds else 0
    expected = leaving(case, case.k, case.v, None, 1.0, reverse)[last]
    far = slice(600, 2100) if reverse else slice(64, 1500)
    case.k[:, :, far] = float("nan")
    assert torch.equal(leaving(case, case.k, case.v, None, 1.0, reverse)[last], expected)


def test_a_reverse_walk_has_no_gradient():
    case = make_case(1, 2, 2, 20, 16, 16, torch.float32, device=DEVICE)
    with pytest.raises(NotImplementedError, match="reverse"):
        leaving(case, case.k.requires_grad_(), case.v, None, 1.0, True)


@pytest.mark.parametrize("forms", [KERNELS, FORMS], ids=["kernels", "torch"])
def test_autocast(forms):
    dtype = torch.float16 if DEVICE == "cpu" and forms is KERNELS else torch.bfloat16
    k, v = (torch.randn(1, 1, 20, 16, device=DEVICE, requires_grad=True) for _ in range(2))
    with torch.autocast(DEVICE, dtype=dtype):
        state = forms[1](k, v)
    assert relative_l2(state, forms[1](k.to(dtype), v.to(dtype)).double()) <= 1e-3
    grads = torch.autograd.grad(state.sum(), (k, v))
    assert all(grad.dtype == torch.float32 for grad in grads)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.library.*:UserWarning")
@pytest.mark.parametrize(("bounds", "every"), [(None, 8), ([0, 9, 20], 0)])
def test_the_operators_are_registered_correctly(bounds, every):
    case = make_case(1, 4, 2, 20, 16, 24, torch.float32, bounds=bounds, device=DEVICE)
    k, v, state = leaves_of(case)
    operator = linear_attention_states
    torch.library.opcheck(operator, (k, v, case.s, state, case.cu_seqlens, 4, every))
    backward = torch.ops.lightning_kernels.linear_attention_states_backward.default
    with torch.no_grad():
        grad = torch.ones_like(operator(k, v, case.s, state, case.cu_seqlens, 4, every))
        for needs in ([True, True, True], [True, False, False]):
            torch.library.opcheck(backward, (grad, k, v, case.s, state, case.cu_seqlens, 4, every, needs))


@pytest.mark.parametrize("every", [None, 8])
def test_one_graph_to_the_compiler(every):
    torch.compiler.reset()
    case = make_case(1, 4, 2, 20, 16, 24, torch.float32, bounds=[0, 9, 20], device=DEVICE)

    def function(k, v, state):
        options = {"initial_state": state, "cu_seqlens": case.cu_seqlens}
        if every is None:
            return lk.lightning_attn2_state(k, v, case.s, **options)
        return lk.lightning_attn2(case.q, k, v, case.s, return_states_every=every, **options)[1]

    results = []
    for run in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        leaves = leaves_of(case)
        states = run(*leaves)
        results.append([states, *torch.autograd.grad(states.square().sum(), leaves)])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_flops():
    case = make_case(1, 4, 2, 20, 16, 32, torch.float32, device=DEVICE)
    with FlopCounterMode(display=False) as counter:
        state = final_by(lk.lightning_attn2_state, case, leaves_of(case))
        assert counter.get_total_flops() == 2 * 4 * 20 * 16 * 32
        state.sum().backward()
    assert counter.get_total_flops() == (2 + 4) * 4 * 20 * 16 * 32


class TestOnAGpu:
    pytestmark = gpu

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    @pytest.mark.parametrize("dims", [(64, 64), (128, 128), (256, 256), (96, 80)])
    @pytest.mark.parametrize("bounds", [None, [0, 5, 3000, 5000]])
    def test_dims_of_models(self, dtype, dims, bounds):
        case = make_case(1, 8, 4, 5000, *dims, dtype, slope=0.02, bounds=bounds, size=0.3, device="cuda")
        leaves, exact = leaves_of(case), [x.detach().double().requires_grad_() for x in leaves_of(case)]
        expected = expected_states(case, exact, 512)
        check(states_by(lk.lightning_attn2, case, leaves, 512), leaves, expected, exact, dtype)

    def test_a_graph_captures_the_call(self):
        case = make_case(2, 4, 4, 3000, 64, 64, torch.bfloat16, device="cuda")
        expected = lk.lightning_attn2_state(case.k, case.v, case.s)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            state = lk.lightning_attn2_state(case.k, case.v, case.s)
        graph.replay()
        assert torch.equal(state, expected)
