"""GateLoop: the kernels and PyTorch's scan against the recurrence, token by token in fp64."""

import pytest
import torch

import lightning_kernels as lk
from lightning_kernels.gateloop import gateloop_kernel as gateloop
from tests.support.kernel_cases import relative_l2

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGETS = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}
FORMS = [lk.gate_loop, lk.gate_loop_torch]
NAMES = ("o", "dq", "dk", "dv", "dlog_decay", "dphase")
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def short_steps(monkeypatch):
    """In the interpreter the scan over tiles takes its time whether or not there are so many tiles."""
    if DEVICE == "cpu":
        monkeypatch.setattr(gateloop, "_ENTER_TILES", 8)


def recurrence(q, k, v, log_decay, phase=None):
    """h_t = a_t·h_{t−1} + k_t·v_t, o_t = q_t·Re h_t."""
    gate = log_decay.exp() if phase is None else torch.polar(log_decay.exp(), phase)
    state, outputs = torch.zeros_like(gate[..., 0, :]), []
    for t in range(q.shape[-2]):
        state = gate[..., t, :] * state + (k * v)[..., t, :]
        outputs.append(q[..., t, :] * (state if phase is None else state.real))
    return torch.stack(outputs, -2)


def inputs(*shape, phase, dtype=torch.float32, gate=torch.float32, seed=0, bias=0.0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v, g, p, do = (torch.randn(shape, generator=generator).to(DEVICE) for _ in range(6))
    g = torch.nn.functional.logsigmoid(g + bias)
    leaves = [q.to(dtype), k.to(dtype), v.to(dtype), g.to(gate)] + ([p.to(gate)] if phase else [])
    return [x.requires_grad_() for x in leaves], do.to(dtype)


def results(form, leaves, do):
    o = form(*leaves)
    return dict(zip(NAMES, (o.detach(), *torch.autograd.grad(o, leaves, do)), strict=False))


def check(form, leaves, do):
    got = results(form, leaves, do)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    expected = results(recurrence, exact, do.double())
    for name, leaf in zip(got, [leaves[0], *leaves], strict=True):
        assert got[name].dtype == leaf.dtype, name
        assert relative_l2(got[name], expected[name]) < BUDGETS[leaf.dtype], name


@pytest.mark.slow
@pytest.mark.parametrize("phase", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 70, 5), (2, 1, 33, 2), (1, 2, 4), (40, 16)])
@pytest.mark.usefixtures("poison")
def test_agrees_with_the_recurrence(form, shape, phase):
    check(form, *inputs(*shape, phase=phase))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_half_precision(form):
    check(form, *inputs(1, 34, 4, phase=True, dtype=torch.float16))
    check(form, *inputs(1, 34, 4, phase=False, dtype=torch.float16, gate=torch.float16))


@pytest.mark.slow
@pytest.mark.parametrize("phase", [False, True], ids=["real", "complex"])
def test_more_than_one_step_over_tiles(phase, monkeypatch):
    """Five tiles of 32 tokens, four a step."""
    monkeypatch.setattr(gateloop, "_ENTER_TILES", 4)
    check(lk.gate_loop, *inputs(140, 2, phase=phase, bias=5.0))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_gates_that_are_shut(form):
    """Where the gate is all but shut, its gradient must not drown in what cancels."""
    check(form, *inputs(1, 40, 4, phase=True, bias=-12.0))
    (q, k, v, g), _ = inputs(1, 40, 4, phase=False)
    shut = torch.full_like(g, -torch.inf)
    assert torch.allclose(form(q, k, v, shut), q * k * v)


@pytest.mark.slow
def test_inputs_of_any_stride():
    leaves, do = inputs(1, 5, 2, 4, phase=True)
    plain = results(lk.gate_loop, [x.transpose(1, 2).contiguous() for x in leaves], do.transpose(1, 2))
    strided = results(lambda *xs: lk.gate_loop(*(x.transpose(1, 2) for x in xs)), leaves, do.transpose(1, 2))
    assert torch.equal(plain["o"], strided["o"])
    for name in NAMES[1:]:
        assert torch.equal(plain[name], strided[name].transpose(1, 2)), name


def test_gradcheck_of_the_torch_form():
    for phase in (False, True):
        leaves, _ = inputs(1, 6, 2, phase=phase)
        leaves = [x.detach().double().requires_grad_() for x in leaves]
        assert torch.autograd.gradcheck(lk.gate_loop_torch, leaves)


def test_only_the_gradients_that_are_asked_for():
    (q, k, v, g), do = inputs(1, 20, 4, phase=False)
    everything = results(lk.gate_loop, [q, k, v, g], do)
    o = lk.gate_loop(q.detach(), k, v.detach(), g)
    dk, dg = torch.autograd.grad(o, (k, g), do)
    assert torch.equal(dk, everything["dk"])
    assert torch.equal(dg, everything["dlog_decay"])
    with torch.no_grad():
        assert not lk.gate_loop(q, k, v, g).requires_grad


@pytest.mark.parametrize("form", FORMS)
def test_one_token(form):
    (q, k, v, g, phase), do = inputs(1, 1, 4, phase=True)
    got = form(q, k, v, g, phase)
    assert torch.allclose(got, q * k * v)
    assert torch.allclose(torch.autograd.grad(got, k, do)[0], do * q * v)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_asked_of_the_inputs(form):
    (q, k, v, g), _ = inputs(1, 5, 4, phase=False)
    with pytest.raises(ValueError, match="k must have the shape of q"):
        form(q, k[:, 1:], v, g)
    with pytest.raises(ValueError, match="phase must have a floating dtype"):
        form(q, k, v, g, torch.zeros_like(g, dtype=torch.int32))
    with pytest.raises(ValueError, match="one dtype"):
        form(q, k.half(), v, g)
    with pytest.raises(ValueError, match="seq_len, channels"):
        form(*(x[0, 0] for x in (q, k, v, g)))
    with pytest.raises(ValueError, match="device"):
        form(q, k.to("meta"), v, g)
    assert form(*(x[:, :0] for x in (q, k, v, g))).shape == (1, 0, 4)


def test_what_the_kernel_does_not_take():
    leaves, _ = inputs(1, 5, 4, phase=False)
    with pytest.raises(ValueError, match="float64"):
        lk.gate_loop(*(x.double() for x in leaves))
    (dq,) = torch.autograd.grad(lk.gate_loop(*leaves).square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


@pytest.mark.gpu
@ON_A_GPU
@pytest.mark.parametrize("phase", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("dtype", list(BUDGETS), ids=["fp32", "fp16", "bf16"])
def test_on_a_gpu(dtype, phase):
    for shape in ((2, 3, 517, 64), (1, 9001, 192), (3, 64, 17)):
        check(lk.gate_loop, *inputs(*shape, phase=phase, dtype=dtype, bias=2.0))
