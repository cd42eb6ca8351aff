"""On a GPU: every dtype, awkward shapes and memory, against fp64 on the same device."""

import math

import pytest
import torch

import lightning_kernels as lk
from lightning_kernels.lightning2.cuts import hopper_launch
from lightning_kernels.lightning2.tiles import processors
from tests.support.kernel_cases import check_case, make_case, make_inputs, oracle, relative_l2, run, slack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]

BUDGET = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}
DIMS = [(16, 16), (64, 64), (128, 128), (80, 96), (256, 256), (64, 192), (192, 64), (17, 33)]

dtypes = pytest.mark.parametrize("dtype", list(BUDGET), ids=["fp32", "fp16", "bf16"])


def check(attention, b, h, n, d, e, dtype, slopes="paper"):
    """Compare o, dq, dk, dv with the oracle, one (batch, head) at a time to bound its memory."""
    # Rows of unit variance keep the sums of 8192 undecayed tokens inside the range of fp16.
    inputs = make_inputs(b, h, n, d, e, dtype, scale=max(d, e) ** -0.25, device="cuda")
    if slopes == "paper":
        slopes = lk.build_slope_tensor(h).cuda()
    got = run(attention, *inputs, slopes)
    error, norm = [0.0] * 4, [0.0] * 4
    for i in range(b):
        for j in range(h):
            part = [x.detach()[i : i + 1, j : j + 1] for x in inputs]
            expected = oracle(*part, None if slopes is None else slopes[j : j + 1])
            for t, (a, x) in enumerate(zip(got, expected, strict=True)):
                error[t] += float((a[i, j].double() - x[0, 0]).square().sum())
                norm[t] += float(x.square().sum())
    budget = BUDGET[dtype] * slack(inputs[0])
    for name, miss, size in zip(("o", "dq", "dk", "dv"), error, norm, strict=True):
        assert math.sqrt(miss / size) <= budget, name


@dtypes
@pytest.mark.parametrize(("d", "e"), DIMS)
@pytest.mark.parametrize("n", [1, 65, 913])
def test_dims(dtype, d, e, n):
    check(lk.lightning_attn2, 2, 3, n, d, e, dtype)


@dtypes
@pytest.mark.parametrize(("b", "h", "n"), [(1, 1, 1213), (1, 2, 8192), (4, 8, 130), (1, 16, 64)])
@pytest.mark.parametrize(("d", "e"), [(64, 64), (128, 128)])
def test_lengths(dtype, b, h, n, d, e):
    check(lk.lightning_attn2, b, h, n, d, e, dtype)


@dtypes
@pytest.mark.parametrize("slope", [None, 0.0, 1e-5, 8.0, 1e3])
def test_slopes(dtype, slope):
    s = None if slope is None else torch.full((2,), slope, device="cuda")
    check(lk.lightning_attn2, 1, 2, 1213, 128, 128, dtype, s)


@dtypes
@pytest.mark.parametrize(("d", "e"), DIMS)
def test_quadratic_form(dtype, d, e):
    check(lk.lightning_attn1, 1, 2, 913, d, e, dtype)


@dtypes
def test_blocked_form(dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    check(lk.lightning_attn2_torch, 1, 2, 1213, 64, 64, dtype)


@dtypes
@pytest.mark.parametrize(("d", "e"), [(64, 64), (128, 128), (80, 96), (256, 256)])
@pytest.mark.usefixtures("poison")
def test_same_bits_twice_and_every_element_written(dtype, d, e):
    inputs = make_inputs(1, 4, 1213, d, e, dtype, scale=0.3, device="cuda")
    s = torch.tensor([0.0, 0.01, 8.0, 1e4], device="cuda")
    first, second = (run(lk.lightning_attn2, *inputs, s) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)


def requested(which):
    """Bytes asked of the allocator, without what it rounds up."""
    return torch.cuda.memory_stats()[f"requested_bytes.all.{which}"]


@dtypes
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_extra_memory_is_the_results_and_the_workspace(dtype, d, state):
    case = make_case(1, 4, 4, 8192, d, d, dtype, state=state, device="cuda")
    elements = 4 * 8192 * d
    forward, backward = (
        hopper_launch(d, d, reverse, 4, 8192, processors(0), elements).workspace_bytes
        if torch.cuda.get_device_capability() == (9, 0) and dtype != torch.float32 else 0
        for reverse in (False, True)
    )  # fmt: skip
    inputs = case.inputs()
    torch.autograd.grad(case.call(lk.lightning_attn2, inputs), inputs, (case.do, case.d_state))

    torch.cuda.reset_peak_memory_stats()
    before = requested("current")
    results = case.call(lk.lightning_attn2, inputs)
    assert requested("peak") - before <= 1.02 * sum(x.nbytes for x in results) + forward

    torch.cuda.reset_peak_memory_stats()
    before = requested("current")
    grads = torch.autograd.grad(results, inputs, (case.do, case.d_state))
    assert requested("peak") - before <= 1.02 * sum(x.nbytes for x in grads) + backward


@dtypes
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2)])
@pytest.mark.parametrize(
    ("n", "bounds"), [(1, None), (913, None), (1213, [0, 1, 1, 65, 700, 1213]), (64, [0, 64])]
)
@pytest.mark.parametrize(("d", "e"), [(64, 64), (128, 128), (80, 96), (256, 64)])
def test_states_groups_and_packing(dtype, d, e, n, bounds, heads, kv_heads):
    case = make_case(
        2 if bounds is None else 1, heads, kv_heads, n, d, e, dtype, bounds=bounds, scale=0.5,
        size=max(d, e) ** -0.25, layout="bnhd", device="cuda",
    )  # fmt: skip
    check_case(lk.lightning_attn2, case, BUDGET[dtype])
    first, second = (case.run(lk.lightning_attn2) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@dtypes
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("bounds", [[0, 5], [0, 700, 700, 900], [0, 0]])
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.usefixtures("poison")
def test_rows_of_no_sequence_are_zeros(dtype, bounds, kv_heads):
    """Without waiting for the GPU, which alone knows where the last sequence ends."""
    case = make_case(1, 4, kv_heads, 1213, 64, 128, dtype, bounds=bounds, size=0.3, device="cuda")
    check_case(lk.lightning_attn2, case, BUDGET[dtype])
    try:
        torch.cuda.set_sync_debug_mode("error")
        got = case.run(lk.lightning_attn2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name in ("o", "dq", "dk", "dv"):
        assert not got[name][:, :, bounds[-1] :].any(), name


@dtypes
@pytest.mark.parametrize("n", [70, 1213])
@pytest.mark.parametrize(("d", "e"), [(64, 64), (128, 128), (256, 256)])
def test_slopes_that_are_infinite_or_not_numbers(dtype, n, d, e):
    """A token of infinite slope sees only itself; NaN reaches all of its head, and no other."""
    q, k, v, do = make_inputs(1, 3, n, d, e, dtype, scale=d**-0.25, device="cuda")
    s = torch.tensor([math.inf, math.nan, 0.1], device="cuda")
    got = run(lk.lightning_attn2, q, k, v, do, s)
    finite = torch.tensor([1e4, 0.0, 0.1], device="cuda")
    for a, b in zip(got, oracle(q, k, v, do, finite), strict=True):
        assert relative_l2(a[:, ::2], b[:, ::2]) <= BUDGET[dtype]
        assert a[:, 1].isnan().all()


@pytest.mark.parametrize("d", [64, 128])
def test_a_sequence_in_pieces(d):
    case = make_case(1, 4, 4, 1000, d, d, torch.bfloat16, slope=0.1, size=0.3, device="cuda")
    o, state = [], case.initial_state
    for rows in (slice(0, 63), slice(63, 577), slice(577, 1000)):
        part, state = case.call(
            lk.lightning_attn2, [*(x[:, :, rows] for x in (case.q, case.k, case.v)), state]
        )
        o.append(part)
    expected = case.call(lk.reference_attention, case.inputs(torch.float64))
    for a, b in zip((torch.cat(o, 2), state), expected, strict=True):
        assert relative_l2(a, b) <= BUDGET[torch.bfloat16]


@pytest.mark.filterwarnings("ignore:The AccumulateGrad node")
@pytest.mark.parametrize("bounds", [None, [0, 100, 100, 512]])
def test_a_graph_captures_forward_and_backward(bounds):
    case = make_case(1, 4, 2, 512, 64, 64, torch.bfloat16, bounds=bounds, device="cuda")
    inputs = case.inputs()

    def call():
        results = case.call(lk.lightning_attn2, inputs)
        return (*results, *torch.autograd.grad(results, inputs, (case.do, case.d_state)))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = call()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("bounds", [None, [0, 100, 100, 512]])
def test_nothing_waits_for_the_gpu(bounds):
    case = make_case(1, 4, 2, 512, 64, 64, torch.bfloat16, bounds=bounds, device="cuda")
    case.run(lk.lightning_attn2)
    try:
        torch.cuda.set_sync_debug_mode("error")
        case.run(lk.lightning_attn2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("bounds", [None, [0, 100, 100, 512]])
def test_compiled_by_inductor(bounds):
    case = make_case(1, 4, 2, 512, 64, 64, torch.bfloat16, bounds=bounds, device="cuda")
    torch._dynamo.reset()
    got = case.run(torch.compile(lk.lightning_attn2, fullgraph=True))
    for name, x in case.run(lk.lightning_attn2).items():
        assert torch.equal(x, got[name]), name


def test_autocast_to_bf16():
    case = make_case(1, 4, 2, 512, 64, 64, torch.float32, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        got = case.run(lk.lightning_attn2)
    assert (got["o"].dtype, got["state"].dtype, got["dq"].dtype) == (
        torch.bfloat16, torch.float32, torch.float32,
    )  # fmt: skip
    expected = lk.lightning_attn2(
        *(x.bfloat16() for x in (case.q, case.k, case.v)), case.s, initial_state=case.initial_state
    )
    assert torch.equal(got["o"], expected)


LONG = {torch.float32: 1e-4, torch.float16: 6e-4, torch.bfloat16: 4e-3}
"""Largest relative error after millions of tokens."""


def scan(k, v, rate, initial):
    """Return the states [heads, d, e] before the last 64 tokens and after all, in fp64, by chunks of 1024."""
    state, n = initial.double(), k.shape[1]
    for first in (*range(0, n - 1024, 1024), n - 1024, n - 64):
        last = n if first == n - 64 else n - 64 if first == n - 1024 else first + 1024
        age = torch.arange(last - first - 1, -1, -1, device=k.device, dtype=torch.float64)
        weighed = k[:, first:last].double() * torch.exp(-rate[:, None] * age)[..., None]
        before = state
        state = state * torch.exp(-rate * (last - first))[:, None, None]
        state += weighed.mT @ v[:, first:last].double()
    return before, state


@pytest.mark.parametrize("n", [2**20, 2**22])
@pytest.mark.parametrize("slopes", [None, (1e-7,) * 4, (1e-5,) * 4, (0.0, 1e-7, 1e-6, 1e-5)])
@dtypes
def test_nothing_adds_up_over_millions_of_tokens(dtype, slopes, n):
    """Final state and last rows: decays that are off to one side, and sums that are cut off, would show."""
    heads, d = 4, 64
    make = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(heads, n, d, device="cuda", generator=make).to(dtype) for _ in range(3))
    # With a mean: sums grow with n, and the first tokens count as much as others.
    k, v = k + 0.5, (v + 0.5) * 2.0**-7
    initial = torch.randn(heads, d, d, device="cuda", generator=make)
    s = None if slopes is None else torch.tensor(slopes, device="cuda")
    rate = torch.zeros(heads, device="cuda", dtype=torch.float64) if s is None else s.double()
    before, expected = scan(k, v, rate, initial)
    part = [x[None, :, -64:].double() for x in (q, k, v)]
    rows = lk.reference_attention(*part, None if s is None else s, initial_state=before[None], scale=2.0**-10)
    o, state = lk.lightning_attn2(
        q[None], k[None], v[None], s, initial_state=initial[None], return_state=True, scale=2.0**-10
    )
    for head in range(heads):
        assert relative_l2(state[0, head], expected[head]) <= LONG[dtype], head
        assert relative_l2(o[0, head, -64:], rows[0, head]) <= 1.5 * LONG[dtype], head


def test_extents_beyond_32_bits():
    n = 2**31 // (64 * 64) + 70
    k = torch.randn(1, n, 1, 64, device="cuda", dtype=torch.bfloat16)
    wide = torch.empty(1, n, 64, 64, device="cuda", dtype=torch.bfloat16)  # only head 63 is read
    wide[:, :, 63:] = k
    s = torch.full((1,), 0.5, device="cuda")
    o = lk.lightning_attn2(wide[:, :, 63:], k, k, s, layout="bnhd")
    assert torch.equal(o, lk.lightning_attn2(k, k, k, s, layout="bnhd"))


def test_cpu_tensors_are_refused():
    x = torch.zeros(1, 1, 4, 16)
    with pytest.raises(ValueError, match="lightning_attn2_torch"):
        lk.lightning_attn2(x, x, x)
