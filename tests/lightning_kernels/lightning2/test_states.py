"""Scale, states, grouped heads, packed sequences and layouts, forward and backward, in both forms."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_kernels as lk
from tests.support.kernel_cases import check_case, make_case, relative_l2

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGET = {torch.float32: 2e-6, torch.float16: 6e-4}
KERNEL, TORCH = lk.lightning_attn2, lk.lightning_attn2_torch

both = pytest.mark.parametrize("attention", [KERNEL, TORCH])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "dtype", "examples"),
    [
        (TORCH, torch.float32, 40),
        (KERNEL, torch.float32, 8),
        (KERNEL, torch.float16, 8),
    ],
)
def test_any_call(attention, dtype, examples):
    @settings(max_examples=examples, derandomize=True, database=None)
    @given(st.data())
    def property_holds(data):
        half = dtype == torch.float16
        # The kernel takes blocks of 64 tokens in fp16, and in fp32 of 16, which take as long to interpret.
        longest = 80 if attention is KERNEL and not half and DEVICE == "cpu" else 150
        n, kv_heads = data.draw(st.integers(1, longest)), data.draw(st.integers(1, 2))
        cuts = data.draw(st.none() | st.lists(st.integers(0, n), max_size=3))
        case = make_case(
            1 if cuts is not None else data.draw(st.integers(1, 2)),
            kv_heads * data.draw(st.integers(1, 2)), kv_heads, n,
            data.draw(st.integers(16, 80)), data.draw(st.integers(16, 80)), dtype,
            slope=data.draw(st.none() | st.floats(0, 8)),
            state=data.draw(st.booleans()),
            bounds=None if cuts is None else [0, *sorted(cuts), n],
            # In fp16, beyond these, results leave the range of the dtype.
            scale=10 ** data.draw(st.floats(-1 if half else -2, 0 if half else 1)),
            size=10 ** data.draw(st.floats(-0.5 if half else -2, 0 if half else 1)),
            layout=data.draw(st.sampled_from(["bhnd", "bnhd"])),
            seed=data.draw(st.integers(0, 99)), device=DEVICE,
        )  # fmt: skip
        check_case(attention, case, BUDGET[dtype])

    property_holds()


@pytest.mark.slow
@both
@pytest.mark.parametrize("n", [1, 16, 63, 64, 128])
@pytest.mark.parametrize("bounds", [None, "split"])
def test_ends_of_blocks(attention, n, bounds):
    bounds = None if bounds is None else [0, n // 2, n // 2, n]
    case = make_case(1, 2, 1, n, 16, 32, torch.float32, bounds=bounds, scale=0.3, device=DEVICE)
    check_case(attention, case, BUDGET[torch.float32])


@both
def test_no_decay(attention):
    case = make_case(2, 2, 1, 70, 16, 32, torch.float32, slope=None, scale=0.3, device=DEVICE)
    check_case(attention, case, BUDGET[torch.float32])


@pytest.mark.parametrize("n", [64, 70])
def test_a_state_that_is_passed_on_often_keeps_its_rate(n, monkeypatch):
    monkeypatch.setenv("LIGHTNING_KERNELS_HOPPER", "0")
    slopes = torch.linspace(1e-6, 2e-6, 1000)
    decay = torch.exp(-64 * slopes.double())
    s = slopes[(decay - decay.float().double()).abs().argmax()].reshape(1)  # what rounds worst
    state = torch.ones(1, 1, 16, 16, device=DEVICE)
    nothing = torch.zeros(1, 1, n, 16, dtype=torch.float16, device=DEVICE)
    for _ in range(20):
        _, state = KERNEL(nothing, nothing, nothing, s.to(DEVICE), initial_state=state, return_state=True)
    expected = float(torch.exp(-s.double() * 20 * n))
    assert abs(float(state[0, 0, 0, 0]) / expected - 1) <= 20 * 2.0**-23


def test_fp64_equals_the_oracle():
    case = make_case(1, 4, 2, 70, 5, 7, torch.float64, bounds=[0, 0, 33, 70], scale=0.3, layout="bnhd")
    case.initial_state, case.d_state = case.initial_state.double(), case.d_state.double()
    got, expected = case.run(TORCH), case.run(lk.reference_attention)
    for name, x in got.items():
        assert x.dtype == torch.float64
        torch.testing.assert_close(x, expected[name], rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 16, 64, 65, 99])
@both
def test_pieces_through_the_state_equal_the_whole(attention, cut):
    case = make_case(1, 2, 1, 100, 16, 16, torch.float32, scale=0.5, device=DEVICE)
    whole = case.run(attention)
    inputs = case.inputs()
    first, second = ([x[:, :, rows] for x in inputs[:3]] for rows in (slice(cut), slice(cut, None)))
    o1, state = case.call(attention, [*first, inputs[3]])
    o2, state = case.call(attention, [*second, state])
    o = torch.cat((o1, o2), 2)
    grads = torch.autograd.grad((o, state), inputs, (case.do, case.d_state))
    for (name, expected), x in zip(whole.items(), (o, state, *grads), strict=True):
        assert relative_l2(x, expected.double()) <= 2e-6, name


@pytest.mark.slow
@both
def test_packed_sequences_equal_separate_ones(attention):
    bounds = [0, 17, 17, 18, 83]
    case = make_case(1, 2, 1, 83, 16, 16, torch.float32, bounds=bounds, device=DEVICE)
    packed = case.run(attention)
    for i, (start, end) in enumerate(pairwise(bounds)):
        rows, one = slice(start, end), slice(i, i + 1)
        alone = replace(
            case, cu_seqlens=None, initial_state=case.initial_state[one], d_state=case.d_state[one],
            **{name: getattr(case, name)[:, :, rows] for name in ("q", "k", "v", "do")},
        ).run(attention)  # fmt: skip
        for name, x in alone.items():
            expected = packed[name][
                one if "state" in name or name == "d_initial" else (..., rows, slice(None))
            ]
            if attention is KERNEL:
                assert torch.equal(x, expected), name
            elif x.numel():
                torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
    empty = 1
    assert torch.equal(packed["state"][empty], case.initial_state[empty])
    assert torch.equal(packed["d_initial"][empty], case.d_state[empty])


@both
def test_an_empty_sequence_without_a_state_leaves_zeros(attention):
    case = make_case(1, 2, 2, 9, 16, 16, torch.float32, state=False, bounds=[0, 0, 9, 9], device=DEVICE)
    state = case.run(attention)["state"]
    assert not state[0].any()
    assert state[1].any()
    assert not state[2].any()


@pytest.mark.slow
@both
@pytest.mark.parametrize("bounds", [[0, 5], [0, 20, 20, 41], [0, 0, 0], [0, 70]])
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.usefixtures("poison")
def test_rows_of_no_sequence_are_zeros(attention, bounds, kv_heads):
    """Such as those that pad a batch of packed sequences to a fixed size."""
    case = make_case(1, 4, kv_heads, 70, 24, 40, torch.float32, bounds=bounds, scale=0.5, device=DEVICE)
    expected = case.run(lk.reference_attention, torch.float64)
    for name, x in case.run(attention).items():
        torch.testing.assert_close(x.double(), expected[name], rtol=1e-5, atol=1e-5, msg=name)
        if name in ("o", "dq", "dk", "dv"):
            assert not x[:, :, bounds[-1] :].any(), name


@pytest.mark.parametrize(
    "attention", [KERNEL, TORCH, lk.lightning_attn1, lk.reference_attention, lk.reference_recurrent]
)
def test_an_infinite_slope_forgets_all_but_the_token(attention):
    case = make_case(1, 2, 2, 70, 16, 32, torch.float32, state=False, device=DEVICE)
    q, k, v = (x.requires_grad_() for x in (case.q, case.k, case.v))
    o = attention(q, k, v, torch.tensor([float("inf"), 0.1], device=DEVICE))
    got = o[:, 0], *torch.autograd.grad(o[:, 0], (q, k, v), case.do[:, 0].to(o.dtype))
    own = (q * k).sum(-1, keepdim=True).double() * v
    expected = own[:, 0], *torch.autograd.grad(own[:, 0], (q, k, v), case.do[:, 0].double())
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@both
@pytest.mark.usefixtures("poison")
def test_every_element_is_written(attention):
    for bounds in (None, [0, 0, 20, 70, 70]):
        case = make_case(1, 4, 2, 70, 24, 40, torch.float32, slope=1e4, bounds=bounds, device=DEVICE)
        assert all(x.isfinite().all() for x in case.run(attention).values())


@pytest.mark.slow
@both
def test_same_bits_twice(attention):
    case = make_case(1, 4, 2, 70, 32, 16, torch.float16, bounds=[0, 30, 70], size=0.5, device=DEVICE)
    first, second = case.run(attention), case.run(attention)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@both
def test_layouts_are_views_of_one_another(attention):
    case = make_case(2, 4, 2, 40, 16, 32, torch.float32, layout="bnhd", device=DEVICE)
    names = ("q", "k", "v", "do")
    other = replace(
        case, layout="bhnd", **{name: getattr(case, name).transpose(1, 2) for name in names}
    )  # fmt: skip
    got, expected = case.run(attention), other.run(attention)
    for name in ("o", "dq", "dk", "dv"):
        assert torch.equal(got[name].transpose(1, 2), expected[name])
        assert got[name].is_contiguous()
        assert expected[name].transpose(1, 2).is_contiguous()
    assert torch.equal(got["state"], expected["state"])


@both
@pytest.mark.parametrize("fused", [False, True])
def test_one_kv_head_leaves_the_layout_to_q(attention, fused):
    """The strides of a single head say nothing: those of [b, n, 1, dim] and [b, 1, n, dim] are equal."""
    x = torch.randn(2, 9, 4 + 2, 16, device=DEVICE)
    q, k, v = (part if fused else part.contiguous() for part in x.split((4, 1, 1), dim=2))
    o = attention(q, k, v, layout="bnhd")
    assert o.view(2, 9, 64).shape == (2, 9, 64)
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    other = attention(q, k, v)
    assert other.is_contiguous()
    assert torch.equal(o.transpose(1, 2), other)


@pytest.mark.slow
@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_states_of_other_dtypes_and_strides(attention, dtype):
    case = make_case(2, 2, 2, 40, 16, 32, torch.float32, device=DEVICE)
    case.initial_state = case.initial_state.to(dtype)
    plain = case.run(attention)
    assert plain["state"].dtype == torch.float32
    assert plain["d_initial"].dtype == dtype
    expected = replace(case, initial_state=case.initial_state.float()).run(attention)
    case.initial_state = case.initial_state.mT.contiguous().mT
    for name, x in case.run(attention).items():
        # Not bit by bit: a kernel is compiled anew for other strides, and may then sum in another order.
        torch.testing.assert_close(x, plain[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(x.float(), expected[name], rtol=1e-3, atol=1e-3)


@both
def test_a_loss_of_the_state_alone(attention):
    case = make_case(1, 4, 2, 40, 16, 32, torch.float32, device=DEVICE)
    inputs, exact = case.inputs(), case.inputs(torch.float64)
    got = torch.autograd.grad(case.call(attention, inputs)[1], inputs, case.d_state)
    expected = torch.autograd.grad(
        case.call(lk.reference_attention, exact)[1], exact[1:], case.d_state.double()
    )
    assert not got[0].any()
    for a, b in zip(got[1:], expected, strict=True):
        assert relative_l2(a, b) <= 2e-6


@pytest.mark.slow
@both
@pytest.mark.parametrize("wanted", range(4))
def test_only_what_is_asked_for_gets_a_gradient(attention, wanted):
    case = make_case(1, 4, 2, 40, 16, 32, torch.float32, device=DEVICE)
    inputs = [x.detach() for x in case.inputs()]
    inputs[wanted].requires_grad_()
    (alone,) = torch.autograd.grad(
        case.call(attention, inputs), inputs[wanted : wanted + 1], (case.do, case.d_state)
    )
    assert torch.equal(alone, case.run(attention)[("dq", "dk", "dv", "d_initial")[wanted]])


@both
def test_only_the_inputs_are_saved(attention):
    case = make_case(1, 2, 1, 20, 16, 16, torch.float32, bounds=[0, 5, 20], device=DEVICE)
    inputs, saved = case.inputs(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()) or x, lambda x: x):
        case.call(attention, inputs)
    assert sorted(saved) == sorted(x.data_ptr() for x in (*inputs, case.s, case.cu_seqlens))


@both
def test_empty_batch_and_no_tokens(attention):
    none = make_case(0, 2, 1, 5, 16, 16, torch.float32, device=DEVICE).run(attention)
    assert none["o"].shape == (0, 2, 5, 16)
    assert none["state"].shape == none["d_initial"].shape == (0, 2, 16, 16)
    case = make_case(2, 2, 1, 0, 16, 16, torch.float32, device=DEVICE)
    got = case.run(attention)
    assert got["o"].shape == (2, 2, 0, 16)
    assert torch.equal(got["state"], case.initial_state)
    assert torch.equal(got["d_initial"], case.d_state)
