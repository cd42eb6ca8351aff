"""Both Triton kernels, in the interpreter where there is no GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_kernels as lk
from tests.support.kernel_cases import make_inputs, oracle, relative_l2, run, slack

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGET = {torch.float32: 2e-6, torch.float16: 6e-4}
SLOPES = torch.tensor([0.0, 0.2], device=DEVICE)

both = pytest.mark.parametrize("attention", [lk.lightning_attn1, lk.lightning_attn2])


def check(attention, inputs, s):
    q = inputs[0]
    for a, b in zip(run(attention, *inputs, s), oracle(*inputs, s), strict=True):
        assert a.dtype == q.dtype
        if b.norm() == 0:
            assert a.norm() == 0
            continue
        error = float((a.double() - b).norm())
        # Below the normal numbers of fp16, rounding is absolute: 2^-25 an element and operand at the most.
        floor = 2.0**-24 * b.numel() ** 0.5 if q.dtype == torch.float16 else 0.0
        assert error <= BUDGET[q.dtype] * slack(q) * float(b.norm()) + floor


@pytest.mark.slow
@both
@pytest.mark.parametrize("dtype", list(BUDGET))
@pytest.mark.parametrize("n", [1, 63, 64, 65, 130])
def test_ragged_ends(attention, dtype, n):
    check(attention, make_inputs(1, 2, n, 32, 48, dtype, device=DEVICE), SLOPES)


@pytest.mark.slow
@both
@pytest.mark.parametrize("dtype", list(BUDGET))
@pytest.mark.parametrize(("d", "e"), [(16, 16), (80, 96), (17, 5), (128, 192), (256, 256)])
def test_dims(attention, dtype, d, e):
    check(attention, make_inputs(1, 1, 65, d, e, dtype, device=DEVICE), SLOPES[1:])


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    "s", [None, torch.full((2,), 1e-5), torch.full((2, 1, 1), 8.0), torch.full((2,), 1e3)]
)
def test_slopes(attention, s):
    s = s if s is None else s.to(DEVICE)
    check(attention, make_inputs(1, 2, 130, 16, 16, torch.float32, device=DEVICE), s)


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "examples"), [(lk.lightning_attn1, 5), (lk.lightning_attn2, 6)])
@pytest.mark.parametrize("dtype", list(BUDGET))
def test_any_shape(attention, dtype, examples):
    # Blocks have 64 tokens in fp16, and in fp32 16, which take as long to interpret.
    longest = 90 if dtype == torch.float32 and DEVICE == "cpu" else 200

    @settings(max_examples=examples, derandomize=True, database=None)
    @given(
        n=st.integers(1, longest), d=st.integers(16, 96), e=st.integers(16, 96), b=st.integers(1, 2),
        h=st.integers(1, 2), slope=st.floats(0, 8), exponent=st.floats(-2, 1), seed=st.integers(0, 99),
    )  # fmt: skip
    def property_holds(n, d, e, b, h, slope, exponent, seed):
        # In fp16 a larger scale overflows the results themselves.
        scale = min(10**exponent, 4.0) if dtype == torch.float16 else 10**exponent
        inputs = make_inputs(b, h, n, d, e, dtype, scale=scale, seed=seed, device=DEVICE)
        check(attention, inputs, torch.linspace(slope, 0, h, device=DEVICE))

    property_holds()


@both
@pytest.mark.usefixtures("poison")
def test_every_element_is_written(attention):
    for n in (1, 65):
        inputs = make_inputs(1, 2, n, 24, 40, torch.float32, device=DEVICE)
        got = run(attention, *inputs, torch.tensor([0.0, 1e4], device=DEVICE))
        assert all(x.isfinite().all() for x in got)


@pytest.mark.slow
@both
def test_strides_change_nothing(attention):
    inputs = make_inputs(2, 3, 70, 16, 32, torch.float32, device=DEVICE)
    s = lk.build_slope_tensor(3).to(DEVICE)
    expected = run(attention, *inputs, s)

    def swapped(x):  # [b, n, h, d] in memory
        return x.detach().transpose(1, 2).contiguous().transpose(1, 2)

    def sliced(x):  # rows with a gap between them
        wide = torch.full((*x.shape[:3], x.shape[3] + 8), float("nan"), device=DEVICE)
        wide[..., 8:] = x.detach()
        return wide[..., 8:]

    def column(x):  # last dim not contiguous
        return x.detach().transpose(2, 3).contiguous().transpose(2, 3)

    for change in (swapped, sliced, column):
        q, k, v = (change(x).requires_grad_() for x in inputs[:3])
        got = run(attention, q, k, v, change(inputs[3]), s)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        if change is swapped:
            assert [x.stride() for x in got] == [x.stride() for x in (v, q, k, v)]


@pytest.mark.slow
@both
def test_expanded_gradient(attention):
    q, k, v, _ = make_inputs(1, 2, 66, 16, 16, torch.float32, device=DEVICE)
    ones = torch.ones_like(v)
    summed = torch.autograd.grad(attention(q, k, v, SLOPES).sum(), (q, k, v))
    for a, b in zip(summed, run(attention, q, k, v, ones, SLOPES)[1:], strict=True):
        assert torch.equal(a, b)


@both
def test_same_bits_twice(attention):
    inputs = make_inputs(1, 2, 70, 48, 16, torch.float16, device=DEVICE)
    first, second = (run(attention, *inputs, SLOPES) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.slow
@both
def test_equals_the_blocked_form(attention):
    inputs = make_inputs(2, 2, 130, 32, 32, torch.float32, device=DEVICE)
    blocked = run(lk.lightning_attn2_torch, *inputs, SLOPES)
    for a, b in zip(run(attention, *inputs, SLOPES), blocked, strict=True):
        assert relative_l2(a, b.double()) <= 2e-6


@both
def test_only_the_inputs_are_saved(attention):
    q, k, v, _ = make_inputs(1, 2, 20, 16, 16, torch.float32, device=DEVICE)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()) or x, lambda x: x):
        attention(q, k, v, SLOPES)
    assert sorted(saved) == sorted(x.data_ptr() for x in (q, k, v, SLOPES))


@both
def test_only_what_is_asked_for_gets_a_gradient(attention):
    q, k, v, do = make_inputs(1, 2, 20, 16, 16, torch.float32, device=DEVICE)
    alone = torch.autograd.grad(attention(q.detach(), k, v.detach(), SLOPES), k, do)[0]
    assert torch.equal(alone, run(attention, q, k, v, do, SLOPES)[2])


@both
def test_an_empty_batch_is_an_empty_result(attention):
    x = torch.zeros(0, 2, 5, 16, device=DEVICE)
    assert attention(x, x, x, SLOPES).shape == x.shape
