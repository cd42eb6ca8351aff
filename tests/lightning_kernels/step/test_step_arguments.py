"""What a decode step takes and refuses, through the dispatcher of torch and past it."""

import pytest
import torch

from lightning_kernels import build_slope_tensor, lightning_attn2_step
from lightning_kernels.common import call_kinds
from lightning_kernels.step import decode_step
from tests.support.step_cases import DEVICE, both, make_state, make_token

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


@pytest.fixture(params=["operator", "direct"])
def either_way(request, monkeypatch):
    """Let steps go past the dispatcher too, on a CPU as on a GPU."""
    monkeypatch.setattr(decode_step, "unobserved", lambda _: request.param == "direct")
    monkeypatch.setattr(decode_step, "_steps", call_kinds.KeptByKind())


@both
@pytest.mark.usefixtures("either_way")
def test_strides_change_nothing(step):
    token = make_token(2, 4, 4, 32, 48, torch.float32)
    s, state = build_slope_tensor(4).to(DEVICE), make_state(2, 4, 32, 48)
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
        # Triton lays a program's tile out by strides and alignments, and adds up o in that order.
        slack = 1e-5 if DEVICE == "cuda" else 0.0
        torch.testing.assert_close(o, expected, rtol=slack, atol=slack)
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
    monkeypatch.setattr(decode_step, "_steps", call_kinds.KeptByKind())
    monkeypatch.setattr(call_kinds, "MOST_KINDS", 3)
    for batch in range(1, 9):
        lightning_attn2_step(*make_token(batch, 1, 1, 4, 4, torch.float32), state=make_state(batch, 1, 4, 4))
        assert 1 <= len(decode_step._steps) <= 3


@both
@pytest.mark.skipif(torch.cuda.is_available(), reason="reads the values of s, on a CPU alone")
def test_negative_slopes_are_refused_on_the_cpu(step):
    token = make_token(1, 2, 2, 16, 16, torch.float32)
    with pytest.raises(ValueError, match="at least 0"):
        step(*token, torch.tensor([0.1, -0.1]), state=make_state(1, 2, 16, 16))


def test_the_operator_decides_once_per_kind(monkeypatch):
    """The one that a compiled model calls, which has been checked; a call by users is checked."""
    monkeypatch.setattr(decode_step, "_steps", call_kinds.KeptByKind())
    checked, check = [], decode_step._check_for_kernel
    monkeypatch.setattr(decode_step, "_check_for_kernel", lambda call: checked.append(1) or check(call))
    operator = torch.ops.lightning_kernels.linear_attention_step.default
    state = make_state(1, 2, 16, 16)
    for _ in range(3):
        operator(*make_token(1, 2, 2, 16, 16, torch.float32), None, state, 1.0)
    assert len(decode_step._steps) == 1
    assert not checked
    monkeypatch.setattr(decode_step, "unobserved", lambda _: True)
    lightning_attn2_step(*make_token(1, 2, 2, 16, 16, torch.float32), state=state)
    assert len(checked) == 1


def test_more_sequences_than_a_grid_has_are_refused():
    token = (x.expand(2**16, 1, 16) for x in make_token(1, 1, 1, 16, 16, torch.float32))
    state = torch.zeros(1, 1, 16, 16, device=DEVICE)
    nowhere = torch.full((2**16,), -1, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match=r"at most 65535 sequences, got 65536; give them in several calls"):
        lightning_attn2_step(*token, state=state, state_indices=nowhere)
