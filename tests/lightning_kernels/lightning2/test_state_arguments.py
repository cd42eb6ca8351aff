"""What the functions that compute states take and refuse, in both forms."""

import pytest
import torch
from torch.autograd import forward_ad

import lightning_kernels as lk
import tests.support.kernel_cases  # noqa: F401  makes the Triton interpreter quick

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = lk.lightning_attn2, lk.lightning_attn2_state
FORMS = lk.lightning_attn2_torch, lk.lightning_attn2_state_torch

both = pytest.mark.parametrize("forms", [KERNELS, FORMS], ids=["kernels", "torch"])


@both
def test_heads_are_those_of_slopes_or_of_the_state(forms):
    k, v = torch.ones(1, 2, 3, 16, device=DEVICE), torch.ones(1, 2, 3, 8, device=DEVICE)
    assert forms[1](k, v).shape == (1, 2, 16, 8)
    assert forms[1](k, v, torch.zeros(4, device=DEVICE)).shape == (1, 4, 16, 8)
    state = torch.zeros(1, 6, 16, 8, device=DEVICE)
    assert torch.equal(forms[1](k, v, initial_state=state), torch.full_like(state, 3.0))


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (2, 3, 16)}, "k must be"),
        ({"v": (2, 3, 16)}, "v must be"),
        ({"v": (2, 2, 4, 16)}, "v must share batch, heads and seq_len with k"),
        ({"s": (3,)}, "multiple of those of k and v, got 3 and 2"),
        ({"s": (2, 2)}, r"s must be \[2, 1, 1\] or \[2\]"),
        ({"initial_state": (2, 2, 16, 8)}, "initial_state must be"),
    ],
)
def test_what_does_not_fit(forms, change, message):
    shapes = {"k": (2, 2, 3, 16), "v": (2, 2, 3, 16), **change}
    with pytest.raises(ValueError, match=message):
        forms[1](**{name: torch.zeros(shape, device=DEVICE) for name, shape in shapes.items()})


@both
@pytest.mark.parametrize("every", [0, -1, 1.5, True, "8"])
def test_chunks_that_are_none(forms, every):
    x = torch.zeros(1, 1, 3, 16, device=DEVICE)
    with pytest.raises(ValueError, match="return_states_every must be an int of at least 1"):
        forms[0](x, x, x, return_states_every=every)


@both
def test_values_that_are_refused_on_the_cpu(forms):
    x = torch.zeros(1, 1, 3, 16)
    if DEVICE == "cuda" and forms is KERNELS:
        pytest.skip("the values of tensors on a GPU are not read")
    with pytest.raises(ValueError, match="at least 0"):
        forms[1](x, x, torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="cu_seqlens must start at 0"):
        forms[1](x, x, cu_seqlens=torch.tensor([0, 2, 1], dtype=torch.int32))


def test_limits_of_the_kernels():
    x = torch.zeros(1, 1, 3, 16, device=DEVICE)
    with pytest.raises(ValueError, match="lightning_attn2_state takes float32, float16 or bfloat16"):
        lk.lightning_attn2_state(x.double(), x.double())
    wide = torch.zeros(1, 1, 3, 257, device=DEVICE)
    with pytest.raises(ValueError, match="head_dim from 1 to 256, got 257"):
        lk.lightning_attn2_state(wide, x)
    with pytest.raises(NotImplementedError, match="respect to s"):
        lk.lightning_attn2_state(x, x, torch.zeros(1, device=DEVICE, requires_grad=True))
    with pytest.raises(NotImplementedError, match="forward-mode"), forward_ad.dual_level():
        lk.lightning_attn2_state(forward_ad.make_dual(x, torch.ones_like(x)), x)
    k, v = (x.clone().requires_grad_() for _ in range(2))
    (grad,) = torch.autograd.grad(lk.lightning_attn2_state(k, v).sum(), k, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(grad.sum() + v.sum(), v)


def test_meta_tensors_have_shapes():
    k, v = (torch.empty(1, 20, 2, dim, device="meta", dtype=torch.bfloat16) for dim in (16, 32))
    assert lk.lightning_attn2_state(k, v, layout="bnhd").shape == (1, 2, 16, 32)
    bounds = torch.empty(4, device="meta", dtype=torch.int32)
    q = torch.empty(1, 20, 4, 16, device="meta", dtype=torch.bfloat16)
    states = lk.lightning_attn2(q, k, v, cu_seqlens=bounds, layout="bnhd", return_states_every=8)[1]
    assert (states.shape, states.dtype) == ((1, 4, 20 // 8 + 3, 16, 32), torch.float32)


@both
def test_parts_of_sequences_on_ranks_have_no_chunks(forms):
    x = torch.zeros(1, 1, 3, 16, device=DEVICE)
    with pytest.raises(ValueError, match="takes whole sequences, not parts of them on the ranks of cp"):
        forms[0](x, x, x, return_states_every=2, cp=lk.ContextParallel())
