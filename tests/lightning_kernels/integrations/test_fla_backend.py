"""The functions of fla-core with our backend, on a CPU, where fla has no kernels of its own."""

import warnings
from inspect import unwrap

import pytest
import torch

import lightning_kernels as lk

FUNCTIONS = ("fused_chunk_simple_gla", "fused_recurrent_simple_gla")


@pytest.fixture(scope="module")
def fla_backend():
    """Import our backend, and fla with it, which takes a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning_kernels.integrations import fla_backend
    return fla_backend


@pytest.fixture(autouse=True)
def simple_gla(fla_backend):
    """Register our backend with fla and return the module of the functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fla import backends
        from fla.ops import simple_gla
    fla_backend.register_backend()
    yield simple_gla
    for name in FUNCTIONS:
        function = getattr(simple_gla, name)
        del backends._function_registries[unwrap(function)]._backends["lightning_kernels"]


@pytest.fixture
def function(simple_gla, request):
    """Return the function of a name."""
    return getattr(simple_gla, request.param)


def inputs(n, *, sequences=2, batch=2):
    generator = torch.Generator().manual_seed(n)
    q, k, v = (torch.randn(batch, n, 3, dim, generator=generator) for dim in (8, 8, 5))
    return q, k, v, torch.tensor([-0.5, -0.1, 0.0]), torch.randn(sequences, 3, 8, 5, generator=generator)


@pytest.mark.parametrize("function", FUNCTIONS, indirect=True)
@pytest.mark.parametrize("n", [1, 70])
def test_output_and_state_are_those_of_the_definition(function, n):
    q, k, v, gamma, state = inputs(n)
    kept = state.clone()
    rows = [x.transpose(1, 2).double() for x in (q, k, v)]
    o, last = lk.reference_recurrent(*rows, -gamma.double(), initial_state=state.double(), return_state=True)
    with torch.no_grad():
        got, final = function(q, k, v, g_gamma=gamma, initial_state=state, output_final_state=True)
    torch.testing.assert_close(got, 8**-0.5 * o.transpose(1, 2).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(final, last.float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(state, kept)
    plain, none = function(q, k, v, g_gamma=gamma, scale=1.0)
    assert none is None
    torch.testing.assert_close(plain, lk.lightning_attn2_torch(q, k, v, -gamma, layout="bnhd"))


def test_packed_sequences_and_gradients(simple_gla):
    q, k, v, gamma, state = inputs(20, sequences=2, batch=1)
    bounds = torch.tensor([0, 13, 20])
    q.requires_grad_()
    got, final = simple_gla.fused_chunk_simple_gla(
        q, k, v, g_gamma=gamma, initial_state=state, output_final_state=True, cu_seqlens=bounds
    )
    got.sum().backward()
    assert final.shape == (2, 3, 8, 5)
    assert q.grad.abs().min() > 0
    alone, _ = simple_gla.fused_chunk_simple_gla(
        q[:, 13:], k[:, 13:], v[:, 13:], g_gamma=gamma, initial_state=state[1:]
    )
    torch.testing.assert_close(got[:, 13:], alone)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("function", FUNCTIONS, indirect=True)
@pytest.mark.parametrize("n", [1, 300])
def test_results_are_those_of_the_kernels_of_fla(function, n, monkeypatch):
    generator = torch.Generator(device="cuda").manual_seed(n)
    shape = {"generator": generator, "device": "cuda"}
    q, k, v = (torch.randn(2, n, 4, 64, **shape, dtype=torch.bfloat16) for _ in range(3))
    given = {"g_gamma": torch.tensor([-0.5, -0.1, -0.01, 0.0], device="cuda"), "output_final_state": True}
    given["initial_state"] = torch.randn(2, 4, 64, 64, **shape)
    with torch.no_grad():
        ours = function(q, k, v, **given)
        monkeypatch.setenv("FLA_USE_LIGHTNING_KERNELS", "0")
        theirs = function(q, k, v, **given)
    for got, wanted in zip(ours, theirs, strict=True):
        assert (got.double() - wanted.double()).norm() < 1e-2 * wanted.double().norm()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"g": torch.zeros(2, 4, 3)}, "one decay per head, and no g"),
        ({"g_gamma": None}, "one decay per head, and no g"),
        ({"reverse": True}, "it has no reverse"),
        ({"state_v_first": True}, "it has no state_v_first"),
        ({"transpose_state_layout": True}, "it has no transpose_state_layout"),  # its old name
        ({"v": torch.zeros(2, 4, 3, 264)}, "dims up to 256"),
    ],
)
def test_what_goes_on_to_the_kernels_of_fla(fla_backend, changes, reason):
    q, k, v, gamma, _ = inputs(4)
    given = {"q": q, "k": k, "v": v, "g_gamma": gamma, **changes}
    takes, why = fla_backend._takes(**given)
    assert not takes
    assert reason in why


def test_options_that_ask_for_nothing_are_taken(fla_backend):
    q, k, v, gamma, _ = inputs(4)
    options = {"reverse": False, "state_v_first": False, "transpose_state_layout": False, "cu_seqlens": None}
    assert fla_backend._takes(q, k, v, g_gamma=gamma, scale=0.5, output_final_state=True, **options)[0]


def test_the_switch_of_fla_turns_it_off(fla_backend, monkeypatch):
    backend = fla_backend.LightningKernelsBackend()
    assert backend.is_enabled()
    monkeypatch.setenv("FLA_USE_LIGHTNING_KERNELS", "0")
    assert not backend.is_enabled()
