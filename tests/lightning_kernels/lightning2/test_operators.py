"""The operators of `lightning_attn2` under opcheck, torch.compile, autocast and torch.func."""

from functools import partial

import pytest
import torch
from torch._dynamo import compiled_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import lightning_kernels as lk
from lightning_kernels.common import call_kinds
from lightning_kernels.lightning2 import operator, plans, portable
from tests.support.kernel_cases import make_case, make_inputs, relative_l2

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORWARD = operator.linear_attention
BACKWARD = torch.ops.lightning_kernels.linear_attention_backward.default


def operands(bounds=None, layout="bhnd", kv_heads=1):
    case = make_case(1, 2, kv_heads, 20, 16, 32, torch.float32, bounds=bounds, layout=layout, device=DEVICE)
    if layout == "bnhd":
        case.q, case.k, case.v, case.do = (x.transpose(1, 2) for x in (case.q, case.k, case.v, case.do))
    return case


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bounds", "layout", "kv_heads"),
    [(None, "bnhd", 1), ([0, 3, 20], "bhnd", 2)],
)
def test_opcheck(bounds, layout, kv_heads):
    case = operands(bounds, layout, kv_heads)
    q, k, v, state = (x.requires_grad_() for x in (case.q, case.k, case.v, case.initial_state))
    torch.library.opcheck(FORWARD, (q, k, v, case.s, state, case.cu_seqlens, 0.5, True))
    torch.library.opcheck(FORWARD, (q, k, v, None, None, case.cu_seqlens, 0.5, False))
    q, k, v, state = (x.detach() for x in (q, k, v, state))
    rest = (q, k, v, case.s, state, case.cu_seqlens, 0.5)
    torch.library.opcheck(BACKWARD, (case.do, case.d_state, *rest, [True] * 4))
    torch.library.opcheck(BACKWARD, (None, case.d_state, *rest, [False, False, False, True]))
    torch.library.opcheck(BACKWARD, (case.do, None, *rest, [True, False, True, False]))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("bounds", [None, [0, 3, 20]])
def test_compile_without_a_break(bounds, dynamic):
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, bounds=bounds, layout="bnhd", device=DEVICE)

    def layer(q, k, v, s, **options):
        return lk.lightning_attn2(torch.tanh(q), k, v, s, **options)

    expected = case.run(layer)
    torch._dynamo.reset()
    got = case.run(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic))
    for name, x in got.items():
        assert torch.equal(x, expected[name]), name
        strides = zip(x.shape, x.stride(), expected[name].stride(), strict=True)
        assert all(count == 1 or here == there for count, here, there in strides), name


@pytest.mark.slow
@pytest.mark.parametrize("compile_forward", [False, True])
def test_compiled_autograd_without_a_break(compile_forward):
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, bounds=[0, 3, 20], device=DEVICE)
    expected = case.run(lk.lightning_attn2)
    whole = partial(torch.compile, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()
    inputs = case.inputs()
    with torch._dynamo.config.patch(compiled_autograd=True):
        o, state = case.call(whole(lk.lightning_attn2) if compile_forward else lk.lightning_attn2, inputs)
    with compiled_autograd._enable(whole):
        (o * case.do).sum().add((state * case.d_state).sum()).backward()
    for name, x in zip(("dq", "dk", "dv", "d_initial"), inputs, strict=True):
        assert torch.equal(x.grad, expected[name]), name


@pytest.mark.parametrize("attention", [lk.lightning_attn2, lk.lightning_attn2_torch])
def test_autocast(attention):
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    half = {name: getattr(case, name).half() for name in ("q", "k", "v", "do")}
    given = case.q, case.k.half(), case.v, case.do
    case.k = given[1]
    with torch.autocast(DEVICE, dtype=torch.float16):
        got = case.run(attention)
        with pytest.raises(ValueError, match="floating"):
            attention(case.q.int(), case.k.int(), case.v.int())
    case.q, case.k, case.v, case.do = half["q"], half["k"], half["v"], half["do"]
    expected = case.run(attention)
    assert [got[name].dtype for name in ("o", "state")] == [torch.float16, torch.float32]
    assert [got[name].dtype for name in ("dq", "dk", "dv")] == [torch.float32, torch.float16, torch.float32]
    for name, x in got.items():
        assert torch.equal(x.to(expected[name].dtype), expected[name]), name


def test_autocast_that_is_off_does_not_mix_dtypes():
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    with torch.autocast(DEVICE, enabled=False), pytest.raises(ValueError, match="one dtype"):
        lk.lightning_attn2(case.q, case.k.half(), case.v)


def test_inference_mode():
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    expected = lk.lightning_attn2(case.q, case.k, case.v, case.s)
    with torch.inference_mode():
        assert torch.equal(lk.lightning_attn2(case.q.clone(), case.k, case.v, case.s), expected)


@pytest.mark.slow
def test_calls_without_gradients_are_the_same_calls():
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    q, k, v = (x.requires_grad_() for x in (case.q, case.k, case.v))

    def layer(q, k, v):
        return lk.lightning_attn2(q, k, v, case.s)

    expected = layer(q, k, v).detach()
    with torch.no_grad():
        o = layer(q, k, v)
        assert not o.requires_grad
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(q, k, v)
        graph = make_fx(layer)(q, k, v)
        assert FORWARD in {node.target for node in graph.graph.nodes}
        for got in (o, compiled, graph(q, k, v)):
            assert torch.equal(got, expected)
        with torch.autocast(DEVICE, dtype=torch.float16):
            assert torch.equal(layer(q, k, v), layer(q.half(), k.half(), v.half()))
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert layer(*(torch.empty(x.shape, device=DEVICE) for x in (q, k, v))).shape == expected.shape
    assert torch.equal(o.add_(1.0), expected + 1.0)
    (layer(q, k, v) * o).sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize("bounds", [None, [0, 7, 20]])
@pytest.mark.parametrize("wanted", ["o", "state", "both"])
def test_the_way_past_the_dispatcher_gives_the_same(monkeypatch, bounds, wanted):
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, bounds=bounds, device=DEVICE)
    state = torch.randn(1 if bounds is None else 2, 2, 16, 32, device=DEVICE)
    results = []
    for direct in (False, True):
        monkeypatch.setattr(operator, "unobserved", lambda *_, direct=direct: direct)
        leaves = [x.detach().clone().requires_grad_() for x in (case.q, case.k, case.v, state)]
        o, final = lk.lightning_attn2(
            *leaves[:3], case.s, initial_state=leaves[3], return_state=True, cu_seqlens=case.cu_seqlens
        )
        parts = {"o": (o,), "state": (final,), "both": (o, final)}[wanted]
        sum(part.square().sum() for part in parts).backward()
        with torch.no_grad():
            alone = lk.lightning_attn2(*leaves[:3], case.s, cu_seqlens=case.cu_seqlens)
        results.append([o, final, alone, *(leaf.grad for leaf in leaves)])
    for one, two in zip(*results, strict=True):
        assert (one is None) == (two is None)
        assert one is None or torch.equal(one, two)


@pytest.fixture
def past_the_dispatcher(monkeypatch):
    """Let calls go past the dispatcher, on a CPU too, and find no plan of another test."""
    monkeypatch.setattr(operator, "unobserved", lambda _: True)
    monkeypatch.setattr(plans, "_plans", call_kinds.KeptByKind())


@pytest.fixture(params=["operator", "direct"])
def either_way(request, monkeypatch):
    monkeypatch.setattr(operator, "unobserved", lambda _: request.param == "direct")


@pytest.mark.usefixtures("past_the_dispatcher")
def test_a_plan_is_kept_for_calls_alike_and_checks_nothing_less():
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    q, k, v = case.q, case.k, case.v
    expected = lk.lightning_attn2(q, k, v, case.s)
    assert torch.equal(lk.lightning_attn2(q.clone(), k, v, case.s.clone()), expected)
    assert len(plans._plans) == 1
    assert torch.equal(lk.lightning_attn2(q, k, v, case.s, return_state=True)[0], expected)
    assert len(plans._plans) == 2
    with torch.no_grad():
        assert torch.equal(lk.lightning_attn2(q, k, v, case.s.clone().requires_grad_()), expected)
    with pytest.raises(NotImplementedError, match="gradient with respect to s"):
        lk.lightning_attn2(q, k, v, case.s.clone().requires_grad_())
    for wrong in (case.s[:1], case.s.int()):
        for _ in range(2):
            with pytest.raises(ValueError, match="s must"):
                lk.lightning_attn2(q, k, v, wrong)
    assert len(plans._plans) == 2


def test_what_is_no_values_in_memory_has_no_plan():
    x = torch.randn(2, 3)
    assert (
        call_kinds.kind_of((x, None)) == call_kinds.kind_of((torch.nn.Parameter(x.clone()), None)) is not None
    )
    assert call_kinds.kind_of((x[:0],)) is not None
    stands_for_others = torch._neg_view(x), torch.complex(x, x).conj().imag, torch._efficientzerotensor((2,))
    for other in (*stands_for_others, FakeTensorMode().from_tensor(x), x.to_mkldnn()):
        assert call_kinds.kind_of((x, other)) is None


def test_a_batch_under_vmap_of_autograd_has_no_plan():
    found = []

    class Spy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            found.append(call_kinds.kind_of((grad,)))
            return grad

    x = torch.ones(3, requires_grad=True)
    torch.autograd.grad(Spy.apply(x), x, torch.ones(2, 3), is_grads_batched=True)
    torch.autograd.grad(Spy.apply(x), x, torch.ones(3))
    assert found[0] is None
    assert found[1] is not None


@pytest.mark.usefixtures("either_way")
def test_views_that_are_negated_when_read():
    """As autograd makes them of complex numbers: entering as a state, as a slope and as a gradient."""
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    k = case.k.detach().requires_grad_()
    weight = torch.randn(1, 2, 16, 32, dtype=torch.complex64, device=DEVICE)

    def gradient(attention, k):
        _, state = attention(case.q.to(k.dtype), k, case.v.to(k.dtype), case.s, return_state=True)
        z = torch.complex(torch.zeros_like(state), state)
        (grad,) = torch.autograd.grad((z.conj() * weight).real.sum(), k)
        return grad

    expected = gradient(lk.reference_attention, case.k.detach().double().requires_grad_())
    assert relative_l2(gradient(lk.lightning_attn2, k), expected) <= 2e-6
    state = torch.complex(weight.real, weight.imag).conj().imag
    for s in (case.s, torch.complex(case.s, -case.s).conj().imag):
        o = lk.lightning_attn2(case.q, case.k, case.v, s, initial_state=state)
        expected = lk.lightning_attn2(case.q, case.k, case.v, case.s, initial_state=-weight.imag.contiguous())
        assert torch.equal(o, expected)


@pytest.mark.usefixtures("either_way")
def test_several_gradients_at_once():
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    q = case.q.detach().requires_grad_()
    o = lk.lightning_attn2(q, case.k, case.v, case.s)
    several = torch.stack([case.do, 2 * case.do])
    (got,) = torch.autograd.grad(o, q, several, is_grads_batched=True, retain_graph=True)
    (one,) = torch.autograd.grad(o, q, case.do)
    assert torch.equal(got, torch.stack([one, 2 * one]))


@pytest.mark.usefixtures("past_the_dispatcher")
def test_a_scale_that_is_an_int(monkeypatch):
    """It is a float to the kernel, which is compiled for the type of what it is given first."""
    seen = []

    def spy(call, out, final, *, reverse):
        seen.append(call.scale)

    monkeypatch.setattr(portable, "linear_attention", spy)
    q, k, v, _ = (x.detach() for x in make_inputs(1, 2, 5, 16, 16, torch.float32, device=DEVICE))
    for scale in (1, True, 0.5):
        lk.lightning_attn2(q, k, v, scale=scale)
    assert [(type(scale), scale) for scale in seen] == [(float, 1.0), (float, 1.0), (float, 0.5)]


def test_the_operators_decide_once_per_kind(monkeypatch):
    """Those that a compiled model calls, which does not check its calls again; a call by users is checked."""
    monkeypatch.setattr(plans, "_plans", call_kinds.KeptByKind())
    decided, checked = [], []
    choose, check = plans.choose, plans.check
    monkeypatch.setattr(plans, "choose", lambda *x: decided.append(1) or choose(*x))
    monkeypatch.setattr(plans, "check", lambda call: checked.append(1) or check(call))
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    forward = torch.ops.lightning_kernels.linear_attention.default
    backward = torch.ops.lightning_kernels.linear_attention_backward.default
    for _ in range(3):
        tensors = [x.detach().clone() for x in (case.q, case.k, case.v, case.s)]
        o, _ = forward(*tensors, None, None, 1.0, False)
        backward(torch.ones_like(o), None, *tensors, None, None, 1.0, [True, True, False, False])
    assert len(decided) == 2
    assert not checked
    monkeypatch.setattr(operator, "unobserved", lambda _: True)
    assert torch.equal(lk.lightning_attn2(*tensors), o)
    assert len(checked) == 1


@pytest.mark.usefixtures("past_the_dispatcher")
def test_a_plan_is_for_one_layout():
    case = make_case(1, 2, 2, 20, 16, 32, torch.float32, device=DEVICE)
    tensors = case.q, case.k, case.v, case.initial_state
    expected = lk.lightning_attn2(*tensors[:3], case.s, initial_state=tensors[3], return_state=True)
    changes = (
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat((x, x), dim=-1)[..., : x.shape[-1]],
    )
    for index in (0, 1, 2, 3, 0, 1, 2, 3):
        for change in changes:
            q, k, v, state = (change(x) if i == index else x for i, x in enumerate(tensors))
            got = lk.lightning_attn2(q, k, v, case.s, initial_state=state, return_state=True)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.usefixtures("past_the_dispatcher")
def test_plans_of_many_lengths_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(call_kinds, "MOST_KINDS", 4)
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    whole = lk.lightning_attn2(case.q, case.k, case.v, case.s)
    for n in range(1, 20):
        o = lk.lightning_attn2(*(x[:, :, :n].contiguous() for x in (case.q, case.k, case.v)), case.s)
        assert relative_l2(o, whole[:, :, :n]) <= 2e-6
        assert len(plans._plans) <= 4


def test_forward_mode_is_refused():
    q, k, v, _ = (x.detach() for x in make_inputs(1, 2, 5, 16, 16, torch.float32, device=DEVICE))
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: lk.lightning_attn2(x, k, v), (q,), (torch.ones_like(q),))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        lk.lightning_attn2(forward_ad.make_dual(q, torch.ones_like(q)), k, v)


@pytest.mark.filterwarnings("ignore:.*batching rule.*")
def test_vmap_without_gradients():
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    with torch.no_grad():
        expected = torch.stack([lk.lightning_attn2(q, case.k, case.v) for q in (case.q, 2 * case.q)])
        got = torch.vmap(lambda q: lk.lightning_attn2(q, case.k, case.v))(torch.stack((case.q, 2 * case.q)))
    assert torch.equal(got, expected)


def test_meta_tensors_have_shapes():
    q, k, v = (torch.empty(2, 5, h, 16, device="meta", dtype=torch.bfloat16) for h in (4, 2, 2))
    o, state = lk.lightning_attn2(q, k, v, return_state=True, layout="bnhd")
    assert (o.shape, o.dtype) == (q.shape, torch.bfloat16)
    assert o.is_contiguous()
    assert (state.shape, state.dtype) == ((2, 4, 16, 16), torch.float32)


def test_a_module_is_exported():
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)

    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return lk.lightning_attn2(q, k, v, case.s)

    exported = torch.export.export(Layer(), (case.q, case.k, case.v)).module()
    expected = lk.lightning_attn2(case.q, case.k, case.v, case.s)
    assert torch.equal(exported(case.q, case.k, case.v), expected)


@pytest.mark.parametrize("attention", [lk.lightning_attn2, lk.lightning_attn2_torch])
def test_autocast_is_off_where_there_is_none(attention):
    x = torch.empty(1, 2, 5, 16, device="meta")
    assert attention(x, x, x).shape == x.shape
    with pytest.raises(ValueError, match="one dtype"):
        attention(x, x.half(), x)


def test_slopes_of_any_dtype_and_stride():
    case = make_case(1, 2, 1, 20, 16, 32, torch.float32, device=DEVICE)
    s = torch.tensor([0.5, 0.125], device=DEVICE)
    expected = lk.lightning_attn2(case.q, case.k, case.v, s)
    for other in (s.half(), s.double(), s.repeat_interleave(2)[::2], s.reshape(2, 1, 1)):
        assert torch.equal(lk.lightning_attn2(case.q, case.k, case.v, other), expected)
