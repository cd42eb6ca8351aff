"""On a GPU: every dtype, awkward shapes and memory, against fp64 on the same device."""

import math

import pytest
import torch

import lightning_kernels as lk

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]

BUDGET = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}
DIMS = [(16, 16), (64, 64), (128, 128), (80, 96), (256, 256), (64, 192), (192, 64), (17, 33)]

dtypes = pytest.mark.parametrize("dtype", list(BUDGET), ids=["fp32", "fp16", "bf16"])


def check(tools, attention, b, h, n, d, e, dtype, slopes="paper"):
    """Compare o, dq, dk, dv with the oracle, one (batch, head) at a time to bound its memory."""
    # Rows of unit variance keep the sums of 8192 undecayed tokens inside the range of fp16.
    inputs = tools.make_inputs(b, h, n, d, e, dtype, scale=max(d, e) ** -0.25, device="cuda")
    if slopes == "paper":
        slopes = lk.build_slope_tensor(h).cuda()
    got = tools.run(attention, *inputs, slopes)
    error, norm = [0.0] * 4, [0.0] * 4
    for i in range(b):
        for j in range(h):
            part = [x.detach()[i : i + 1, j : j + 1] for x in inputs]
            expected = tools.oracle(*part, None if slopes is None else slopes[j : j + 1])
            for t, (a, x) in enumerate(zip(got, expected, strict=True)):
                error[t] += float((a[i, j].double() - x[0, 0]).square().sum())
                norm[t] += float(x.square().sum())
    slack = tools.slack(inputs[0])
    for name, miss, size in zip(("o", "dq", "dk", "dv"), error, norm, strict=True):
        assert math.sqrt(miss / size) <= BUDGET[dtype] * slack, name


@dtypes
@pytest.mark.parametrize(("d", "e"), DIMS)
@pytest.mark.parametrize("n", [1, 65, 913])
def test_dims(tools, dtype, d, e, n):
    check(tools, lk.lightning_attn2, 2, 3, n, d, e, dtype)


@dtypes
@pytest.mark.parametrize(("b", "h", "n"), [(1, 1, 1213), (1, 2, 8192), (4, 8, 130), (1, 16, 64)])
@pytest.mark.parametrize(("d", "e"), [(64, 64), (128, 128)])
def test_lengths(tools, dtype, b, h, n, d, e):
    check(tools, lk.lightning_attn2, b, h, n, d, e, dtype)


@dtypes
@pytest.mark.parametrize("slope", [None, 0.0, 1e-5, 8.0, 1e3])
def test_slopes(tools, dtype, slope):
    s = None if slope is None else torch.full((2,), slope, device="cuda")
    check(tools, lk.lightning_attn2, 1, 2, 1213, 128, 128, dtype, s)


@dtypes
@pytest.mark.parametrize(("d", "e"), DIMS)
def test_quadratic_form(tools, dtype, d, e):
    check(tools, lk.lightning_attn1, 1, 2, 913, d, e, dtype)


@dtypes
def test_blocked_form(tools, dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    check(tools, lk.lightning_attn2_torch, 1, 2, 1213, 64, 64, dtype)


@dtypes
@pytest.mark.parametrize(("d", "e"), [(64, 64), (128, 128), (80, 96), (256, 256)])
@pytest.mark.usefixtures("poison")
def test_same_bits_twice_and_every_element_written(tools, dtype, d, e):
    inputs = tools.make_inputs(1, 4, 1213, d, e, dtype, scale=0.3, device="cuda")
    s = torch.tensor([0.0, 0.01, 8.0, 1e4], device="cuda")
    first, second = (tools.run(lk.lightning_attn2, *inputs, s) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)


@dtypes
@pytest.mark.parametrize("d", [64, 128, 256])
def test_extra_memory_is_the_results(tools, dtype, d):
    q, k, v, do = tools.make_inputs(1, 4, 8192, d, d, dtype, device="cuda")
    s = lk.build_slope_tensor(4).cuda()
    tools.run(lk.lightning_attn2, q, k, v, do, s)

    def requested(which):  # without what the allocator rounds up
        return torch.cuda.memory_stats()[f"requested_bytes.all.{which}"]

    torch.cuda.reset_peak_memory_stats()
    before = requested("current")
    o = lk.lightning_attn2(q, k, v, s)
    assert requested("peak") - before <= 1.02 * o.nbytes

    torch.cuda.reset_peak_memory_stats()
    before = requested("current")
    grads = torch.autograd.grad(o, (q, k, v), do)
    assert requested("peak") - before <= 1.02 * sum(x.nbytes for x in grads)


def test_a_graph_captures_the_call(tools):
    q, k, v, _ = (x.detach() for x in tools.make_inputs(1, 4, 512, 64, 64, torch.bfloat16, device="cuda"))
    s = lk.build_slope_tensor(4).cuda()
    expected = lk.lightning_attn2(q, k, v, s)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = lk.lightning_attn2(q, k, v, s)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(o, expected)


def test_cpu_tensors_are_refused():
    x = torch.zeros(1, 1, 4, 16)
    with pytest.raises(ValueError, match="lightning_attn2_torch"):
        lk.lightning_attn2(x, x, x)
