"""SimpleRMSNorm: kernel and PyTorch form against the definition in fp64."""

import pytest
import torch
from torch.autograd import forward_ad

import lightning_kernels as lk
from tests.support.kernel_cases import relative_l2

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGETS = {torch.float32: 3e-7, torch.float16: 5e-4, torch.bfloat16: 4e-3}
FORMS = [lk.simple_rms_norm, lk.simple_rms_norm_torch]
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
HALVES = [torch.float32, torch.float16]


def definition(x, eps):
    """x / (‖x‖₂ / √d), with eps beside the mean of squares."""
    d = x.shape[-1]
    return x / ((torch.linalg.vector_norm(x, dim=-1, keepdim=True) / d**0.5).square() + eps).sqrt()


def rows(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def both(form, x, dy, eps=1e-6):
    x = x.detach().requires_grad_()
    y = form(x, eps)
    return y.detach(), *torch.autograd.grad(y, x, dy)


def check(form, x, dy, eps=1e-6):
    got = both(form, x, dy, eps)
    expected = both(definition, x.double(), dy.double(), eps)
    for name, a, b in zip(("y", "dx"), got, expected, strict=True):
        assert a.dtype == x.dtype
        assert a.shape == x.shape
        assert a.is_contiguous()
        assert relative_l2(a, b) < BUDGETS[x.dtype], name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(3, 5, 64), (2, 100), (7, 2048), (1, 3000), (2, 2, 3, 33), (16,), (9, 2)])
@pytest.mark.usefixtures("poison")
def test_agrees_with_the_definition(form, dtype, shape):
    check(form, rows(*shape, dtype=dtype), rows(*shape, dtype=dtype, seed=1))


@pytest.mark.parametrize(
    "strided",
    [
        lambda x: x[..., 3:19],  # rows farther apart than they are long
        lambda x: x.transpose(0, 1),
        lambda x: x.permute(1, 2, 0, 3),
        lambda x: x[::2, :, 1:3],
        lambda x: x.mT,  # no contiguous last dim
        lambda x: x[:, :1].expand(-1, 5, -1, -1),
        lambda x: x[None].permute(1, 3, 0, 2, 4)[::2, ::2],
        lambda x: x.reshape(3, 4, 1, 2, 2, 20)[::2, :, :, :, ::2].permute(4, 0, 3, 1, 2, 5),
    ],
)
@pytest.mark.usefixtures("poison")
def test_strided_rows(strided):
    x, dy = strided(rows(3, 4, 4, 20)), strided(rows(3, 4, 4, 20, seed=1))
    check(lk.simple_rms_norm, x, dy)
    check(lk.simple_rms_norm, x, dy.contiguous())
    check(lk.simple_rms_norm, x.contiguous(), dy)


def test_an_expanded_gradient():
    x = rows(4, 32).requires_grad_()
    (got,) = torch.autograd.grad(lk.simple_rms_norm(x).sum(), x)
    (expected,) = torch.autograd.grad(definition(x, 1e-6).sum(), x)
    torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")  # the interpreter is numpy
@pytest.mark.parametrize("form", FORMS)
def test_eps(form):
    x, dy = rows(5, 48) * 1e-3, rows(5, 48, seed=1)
    check(form, x, dy, eps=1e-6)
    check(form, x, dy, eps=0.0)
    zero = torch.zeros(2, 16, device=DEVICE)
    assert torch.equal(form(zero), zero)
    assert form(zero, 0.0).isnan().all()


@pytest.mark.slow
def test_gradcheck_of_the_torch_form():
    x = rows(3, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lk.simple_rms_norm_torch, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lk.simple_rms_norm_torch, (x,))


def test_gradient_by_finite_differences():
    """As gradcheck does, at the step that fp32 allows."""
    x, dy, step = rows(2, 8), rows(2, 8, seed=1), 1e-2
    _, dx = both(lk.simple_rms_norm, x, dy)
    for index in range(x.numel()):
        push = torch.zeros_like(x).flatten()
        push[index] = step
        push = push.view_as(x)
        with torch.no_grad():
            slope = ((lk.simple_rms_norm(x + push) - lk.simple_rms_norm(x - push)) * dy).sum() / (2 * step)
        assert abs(float(slope - dx.flatten()[index])) < 2e-3


def test_nothing_but_x_is_saved():
    saved = []
    x = rows(4, 32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        lk.simple_rms_norm(x)
    assert [t.data_ptr() for t in saved] == [x.data_ptr()]


@pytest.mark.slow
def test_opcheck():
    ops = torch.ops.lightning_kernels
    for x in (rows(3, 4, 20), rows(3, 4, 20).transpose(0, 1), rows(4, 2, 40)[..., 2:22]):
        torch.library.opcheck(ops.simple_rms_norm.default, (x.requires_grad_(), 1e-6))
        x = x.detach()
        torch.library.opcheck(ops.simple_rms_norm_backward.default, (torch.ones_like(x), x, 1e-6))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_a_break(dynamic):
    def layer(x, eps):
        return lk.simple_rms_norm(torch.tanh(x), eps)

    x, dy = rows(2, 5, 48), rows(2, 5, 48, seed=1)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for a, b in zip(both(compiled, x, dy), both(layer, x, dy), strict=True):
        assert torch.equal(a, b)


def test_without_gradients():
    x = rows(3, 16)
    expected = lk.simple_rms_norm(x)
    assert not expected.requires_grad
    with torch.inference_mode():
        assert torch.equal(lk.simple_rms_norm(x.clone()), expected)
    with torch.no_grad():
        assert not lk.simple_rms_norm(x.requires_grad_()).requires_grad


def test_empty_tensors():
    x = torch.empty(0, 5, 16, device=DEVICE, requires_grad=True)
    y = lk.simple_rms_norm(x)
    assert y.shape == (0, 5, 16)
    assert torch.autograd.grad(y.sum(), x)[0].shape == (0, 5, 16)


def test_derivatives_that_are_refused():
    x = rows(2, 16).requires_grad_()
    (dx,) = torch.autograd.grad(lk.simple_rms_norm(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
    x = x.detach()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        lk.simple_rms_norm(forward_ad.make_dual(x, torch.ones_like(x)))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_asked_of_x(form):
    with pytest.raises(ValueError, match="at least one dim"):
        form(torch.tensor(1.0, device=DEVICE))
    with pytest.raises(ValueError, match="floating dtype"):
        form(torch.ones(2, 16, dtype=torch.int32, device=DEVICE))
    for eps in (-1e-6, float("nan")):
        with pytest.raises(ValueError, match="eps"):
            form(rows(2, 16), eps)


def test_what_the_kernel_does_not_take():
    with pytest.raises(ValueError, match="float64"):
        lk.simple_rms_norm(rows(2, 16).double())
    with pytest.raises(NotImplementedError, match="32768 elements, got 32769"):
        lk.simple_rms_norm(torch.empty(1, 32769, device=DEVICE))
    with pytest.raises(NotImplementedError, match="rows"):
        lk.simple_rms_norm(torch.empty(2**31, 4, device="meta"))
    with pytest.raises(ValueError, match="at least 1 element"):
        lk.simple_rms_norm(torch.empty(3, 0, device=DEVICE))


def test_tiles():
    assert lk.simple_rms_norm_config(2048) == "rows=1 block=2048 warps=4"
    assert lk.simple_rms_norm_config(64) == "rows=32 block=64 warps=4"
    assert lk.simple_rms_norm_config(32768) == "rows=1 block=32768 warps=32"
    with pytest.raises(NotImplementedError):
        lk.simple_rms_norm_config(32769)


@pytest.mark.gpu
@ON_A_GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [8, 64, 100, 1024, 2048, 5120, 16384, 32768])
def test_on_a_gpu(dtype, dim):
    x, dy = rows(3, 67, dim, dtype=dtype), rows(3, 67, dim, dtype=dtype, seed=1)
    check(lk.simple_rms_norm, x, dy)
    check(lk.simple_rms_norm, x.transpose(0, 1), dy.transpose(0, 1))


@pytest.mark.gpu
@ON_A_GPU
def test_addresses_beyond_32_bits():
    x = torch.zeros(2**20 + 3, 2112, dtype=torch.float16, device="cuda")
    x[-1] = 3.0
    y = lk.simple_rms_norm(x)
    assert torch.equal(y[-1], torch.ones_like(y[-1]))
    assert not y[:-1].any()
