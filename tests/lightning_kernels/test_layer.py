"""The attention layer of TransNormerLLM against its formula in fp64."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import lightning_kernels as lk
from tests.support.kernel_cases import relative_l2

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGETS = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def formula(layer, x, w_qkvu, w_out, slopes):
    """(SRMSNorm(LA(silu(q), silu(k), v)) ⊙ u) Wo, token by token."""
    q, k, v, u = (x @ w_qkvu.T).chunk(4, -1)
    q, k, v = (
        part.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for part in (q * q.sigmoid(), k * k.sigmoid(), v)
    )
    state, rows = 0.0, []
    for t in range(x.shape[1]):
        state = torch.exp(-slopes) * state + k[:, :, t, :, None] * v[:, :, t, None]
        rows.append((q[:, :, t, None] @ state)[:, :, 0])
    o = torch.stack(rows, 1).flatten(2)  # [b, n, dim]
    o = o / (o.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return (o * u) @ w_out.T


def check(layer, x):
    do = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.device, x.dtype)
    weights = (layer.qkvu_proj.weight, layer.out_proj.weight)
    x = x.requires_grad_()
    got = layer(x)
    got = got, *torch.autograd.grad(got, (x, *weights), do)
    exact = [w.detach().double().requires_grad_() for w in (x, *weights)]
    expected = formula(layer, *exact, layer.slopes.double().reshape(-1, 1, 1))
    expected = expected, *torch.autograd.grad(expected, exact, do.double())
    for name, a, b in zip(("o", "dx", "dqkvu", "dout"), got, expected, strict=True):
        assert a.dtype == x.dtype
        assert relative_l2(a, b) < BUDGETS[x.dtype], name


def make(dim, heads, form, dtype=torch.float32, **options):
    torch.manual_seed(0)
    return lk.TransNormerAttention(dim, heads, form=form, device=DEVICE, dtype=dtype, **options)


@pytest.mark.parametrize("form", ["triton", "torch"])
@pytest.mark.parametrize(("heads", "layer"), [(2, 0), (3, 1)])
def test_agrees_with_the_formula(form, heads, layer):
    module = make(48, heads, form, layer=layer, layers=3)
    check(module, torch.randn(2, 21, 48, device=DEVICE))


def test_slopes_are_those_of_the_layer():
    for index in (0, 2):
        module = make(64, 4, "torch", layer=index, layers=3)
        torch.testing.assert_close(module.slopes.cpu(), lk.layer_slopes(4, index, 3))
    assert set(module.state_dict()) == {"qkvu_proj.weight", "out_proj.weight"}


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_casting_the_weights_leaves_the_slopes_in_fp32(cast):
    """In fp16 the slopes of a last layer would be off by half, in silence."""
    module = make(96, 12, "torch", layer=23, layers=24)
    expected = lk.layer_slopes(12, 23, 24)
    for changed in (getattr(module, cast)(), torch.nn.Sequential(module).to(torch.bfloat16)[0]):
        assert changed.out_proj.weight.dtype != torch.float32
        assert changed.slopes.dtype == torch.float32
        assert torch.equal(changed.slopes.cpu(), expected)


def on_meta_by_argument():
    return lk.TransNormerAttention(48, 3, 1, 3, form="torch", device="meta")


def on_meta_by_context():
    with torch.device("meta"):
        return lk.TransNormerAttention(48, 3, 1, 3, form="torch")


def by_to_empty(module, weights):
    """Initialise as FSDP2 does."""
    module.to_empty(device=DEVICE).load_state_dict(weights)


def by_replacing_each_tensor(module, weights):
    """Initialise as transformers does: weights one by one, buffers that it has not loaded by empty memory."""
    module.load_state_dict({name: x.to(DEVICE) for name, x in weights.items()}, assign=True)
    for name, buffer in list(module.named_buffers()):
        setattr(module, name, torch.full_like(buffer, float("nan"), device=DEVICE))


@pytest.mark.parametrize("make_on_meta", [on_meta_by_argument, on_meta_by_context])
@pytest.mark.parametrize("initialize", [by_to_empty, by_replacing_each_tensor])
def test_a_module_from_the_meta_device(make_on_meta, initialize):
    module = make_on_meta()
    assert module.out_proj.weight.is_meta
    assert module(torch.empty(2, 21, 48, device="meta")).shape == (2, 21, 48)
    initialize(module, make(48, 3, "torch", layer=1, layers=3).state_dict())
    check(module, torch.randn(2, 21, 48, device=DEVICE))
    assert module.slopes.device.type == DEVICE


def test_a_fake_call_leaves_the_slopes():
    module = make(48, 3, "triton")
    with FakeTensorMode(allow_non_fake_inputs=True):
        module(torch.empty(2, 21, 48, device=DEVICE))
    assert type(module.slopes) is torch.Tensor


@pytest.mark.slow
def test_compile_without_a_break():
    module, x = make(32, 2, "triton"), torch.randn(1, 20, 32, device=DEVICE)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), module(x))


def test_what_is_asked():
    with pytest.raises(ValueError, match="multiple of heads"):
        lk.TransNormerAttention(50, 4)
    with pytest.raises(ValueError, match="up to 256"):
        lk.TransNormerAttention(1024, 2)
    with pytest.raises(ValueError, match="form"):
        lk.TransNormerAttention(64, 2, form="auto")
    with pytest.raises(ValueError, match="layer must be"):
        lk.TransNormerAttention(64, 2, layer=2, layers=2)
    with pytest.raises(ValueError, match=r"x must be \[batch, seq_len, 64\]"):
        make(64, 2, "torch")(torch.randn(2, 64, device=DEVICE))


@pytest.mark.gpu
@ON_A_GPU
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")  # torch's own, of its thread for gradients
@pytest.mark.parametrize("dtype", list(BUDGETS), ids=["fp32", "fp16", "bf16"])
def test_on_a_gpu(dtype):
    check(make(256, 4, "triton", dtype, layer=1, layers=4), torch.randn(2, 333, 256).to("cuda", dtype))


@pytest.mark.gpu
@ON_A_GPU
def test_weights_that_came_to_the_gpu_without_the_module():
    """As transformers brings them; compiled, too, the slopes follow x."""
    module = lk.TransNormerAttention(64, 4, device="meta")
    weights = make(64, 4, "triton").state_dict()
    module.load_state_dict(weights, assign=True)
    x = torch.randn(1, 20, 64, device="cuda")
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), module(x))
    assert module.slopes.is_cuda
