import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_kernels as lk
from tests.support.kernel_cases import make_inputs, oracle, relative_l2, run, slack

SLOPES = torch.tensor([0.0, 0.2])


@pytest.mark.parametrize("block_size", [1, 3, 64, 100])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 130])
def test_fp64_equals_the_oracle(n, block_size):
    q, k, v, do = make_inputs(2, 2, n, 8, 12, torch.float64)

    def attention(*inputs):
        return lk.lightning_attn2_torch(*inputs, block_size=block_size)

    for a, b in zip(run(attention, q, k, v, do, SLOPES), oracle(q, k, v, do, SLOPES), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("slopes", [None, SLOPES])
def test_gradcheck(slopes):
    q, k, v, _ = make_inputs(1, 2, 11, 3, 4, torch.float64)

    def attention(*inputs):
        return lk.lightning_attn2_torch(*inputs, slopes, block_size=4)

    assert torch.autograd.gradcheck(attention, (q, k, v))


def test_several_segments_equal_one(monkeypatch):
    q, k, v, do = make_inputs(1, 2, 500, 16, 16, torch.float64)
    one = run(lk.lightning_attn2_torch, q, k, v, do, SLOPES)
    monkeypatch.setitem(lk.lightning_attn2_torch.__globals__["_SEGMENT_ELEMENTS"], "cpu", 1 << 14)
    many = run(lk.lightning_attn2_torch, q, k, v, do, SLOPES)
    for a, b in zip(one, many, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@settings(max_examples=40, derandomize=True)
@given(
    n=st.integers(1, 200), d=st.integers(1, 96), e=st.integers(1, 96), b=st.integers(1, 2),
    h=st.integers(1, 3), slope=st.floats(0, 8), scale=st.floats(0.01, 10), block_size=st.integers(1, 128),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_fp32_on_any_shape(n, d, e, b, h, slope, scale, block_size, seed):
    q, k, v, do = make_inputs(b, h, n, d, e, torch.float32, scale=scale, seed=seed)
    s = torch.linspace(0, slope, h)

    def attention(*inputs):
        return lk.lightning_attn2_torch(*inputs, block_size=block_size)

    got = run(attention, q, k, v, do, s)
    for a, b in zip(got, oracle(q, k, v, do, s), strict=True):
        assert relative_l2(a, b) <= 2e-6 * slack(q)


@pytest.mark.parametrize(("dtype", "budget"), [(torch.float16, 6e-4), (torch.bfloat16, 4e-3)])
def test_low_precision_computes_in_fp32(dtype, budget):
    inputs = make_inputs(1, 2, 300, 32, 48, dtype)
    got = run(lk.lightning_attn2_torch, *inputs, SLOPES)
    assert {x.dtype for x in got} == {dtype}
    for a, b in zip(got, oracle(*inputs, SLOPES), strict=True):
        assert relative_l2(a, b) <= budget


@pytest.mark.usefixtures("poison")
def test_every_element_is_written():
    got = run(lk.lightning_attn2_torch, *make_inputs(1, 2, 131, 16, 16, torch.float32), SLOPES)
    assert all(x.isfinite().all() for x in got)


def test_memory_does_not_grow_with_the_sequence():
    sizes = []
    for n in (4096, 16384):
        q, k, v, _ = (x.detach() for x in make_inputs(1, 2, n, 64, 64, torch.float32))
        with torch.profiler.profile(
            profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
        ) as p:
            lk.lightning_attn2_torch(q, k, v, SLOPES)
        held = peak = 0
        for event in p.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        sizes.append(peak - v.nbytes)
    assert sizes[1] <= sizes[0] * 1.1
