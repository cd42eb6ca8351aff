"""The adapters of vLLM and SGLang on stand-ins for what they import; the engines do not run here."""

import importlib
import sys
import tomllib
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support import kernel_cases  # noqa: F401  makes the Triton interpreter quick
from tests.support.documents import DOCS, block
from tests.support.engine_packages import write_engines

import lightning_kernels as lk  # isort: skip

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
HEADS, DIM = 2, 16
SLOPES = torch.tensor([0.5, 0.05], device=DEVICE).reshape(HEADS, 1, 1)
ADAPTERS = "vllm_layers", "sglang_lightning"
BOUNDS = torch.tensor([0, 1, 2, 9, 14], device=DEVICE)
SLOTS = torch.tensor([4, 0, 3, 1], device=DEVICE)


@pytest.fixture(autouse=True)
def _engines(tmp_path, monkeypatch):
    write_engines(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [
        name for name in sys.modules if name.startswith(("vllm", "sglang")) or "integrations." in name
    ]:
        del sys.modules[name]


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(14, HEADS, DIM, generator=generator).to(DEVICE, dtype) for _ in range(3))
    return q, k, v, torch.randn(5, HEADS, DIM, DIM, generator=generator).to(DEVICE)


def served(q, k, v, pool, count, *, begun=None, scale=1.0):
    """Return what the first sequences give, by the PyTorch form, which updates the pool."""
    end = int(BOUNDS[count])
    return lk.lightning_attn2_serve_torch(
        q[:end], k[:end], v[:end], SLOPES, state=pool, cu_seqlens=BOUNDS[: count + 1].int(), scale=scale,
        state_indices=SLOTS[:count].int(), has_initial_state=begun,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["BailingMoELinearAttention", "MiniMaxText01LinearAttention"])
def test_layers_of_vllm(name):
    register_layers = importlib.import_module("lightning_kernels.integrations.vllm_layers").register_layers
    register_layers()
    register_layers()  # as where it is an entry point too
    home = "bailing_linear_attn" if name.startswith("Bailing") else "minimax_linear_attn"
    original = getattr(importlib.import_module(f"vllm.model_executor.layers.mamba.linear.{home}"), name)
    layer = original(SLOPES.cpu(), SimpleNamespace(dtype=torch.float16))
    assert type(layer) is not original
    q, k, v, pool = batch()
    expected = pool.clone()
    metadata = SimpleNamespace(num_decodes=2, num_prefills=2, query_start_loc=BOUNDS)
    o = layer._prefill_and_mix_infer(q, k, v, pool, SLOTS, metadata)
    wanted = served(*(x.half() for x in (q, k, v)), expected, 4)
    assert o.dtype == torch.float32
    torch.testing.assert_close(o, wanted.flatten(1).float(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(pool, expected, rtol=5e-3, atol=5e-3)

    expected = pool.clone()
    padded = torch.cat([SLOTS[:2], torch.full_like(SLOTS[:1], -1)])
    decodes = SimpleNamespace(num_decodes=2, num_prefills=0, state_indices_tensor_d=padded)
    o = layer._decode_infer(q, k, v, pool, SLOTS, decodes)
    torch.testing.assert_close(o, served(q, k, v, expected, 2).flatten(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pool, expected, rtol=1e-4, atol=1e-4)

    drafts = SimpleNamespace(num_accepted_tokens=torch.ones(2))
    assert layer._decode_infer(q, k, v, pool, SLOTS, drafts) == "its own, drafts"
    assert layer._prefill_and_mix_infer(q, k, v, pool, SLOTS, drafts) == "its own, mixed"


def backend_of_sglang(dtype=torch.float32):
    """Return the backend of a model of this dtype, with our kernels, and a layer."""
    importlib.import_module("lightning_kernels.integrations.sglang_lightning").use_lightning_kernels()
    home = importlib.import_module("sglang.srt.layers.attention.linear.lightning_backend")
    backend = home.LightningAttentionBackend([SLOPES], SimpleNamespace(dtype=dtype))
    return backend, SimpleNamespace(layer_id=0, scaling=0.25)


def test_backend_of_sglang():
    backend, layer = backend_of_sglang()
    q, k, v, pool = batch()
    expected, begun = pool.clone(), torch.tensor([True, True, False, True], device=DEVICE)
    metadata = SimpleNamespace(num_prefills=2, query_start_loc=BOUNDS, has_initial_states=begun)
    o = backend._linear_attention_entry(q, k, v, pool, SLOTS, metadata, layer)
    torch.testing.assert_close(o, served(q, k, v, expected, 4, begun=begun, scale=0.25), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pool, expected, rtol=1e-4, atol=1e-4)

    rows, decodes = (x[:2] for x in (q, k, v)), SimpleNamespace(num_prefills=0)
    o = backend._linear_attention_entry(*rows, pool, SLOTS[:2], decodes, layer)
    torch.testing.assert_close(o, served(q, k, v, expected, 2, scale=0.25), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pool, expected, rtol=1e-4, atol=1e-4)
    assert (
        backend._linear_attention_entry(q, k, v, pool, SLOTS, metadata, layer, track_lens=SLOTS) == "seg_la"
    )


def test_dtypes_of_sglang():
    backend, layer = backend_of_sglang(torch.float16)
    q, k, v, pool = batch()
    expected, begun = pool.clone(), torch.ones(4, dtype=torch.bool, device=DEVICE)
    metadata = SimpleNamespace(num_prefills=2, query_start_loc=BOUNDS, has_initial_states=begun)
    o = backend._linear_attention_entry(q, k, v, pool, SLOTS, metadata, layer)
    wanted = served(*(x.half() for x in (q, k, v)), expected, 4, scale=0.25).float()
    exact = served(q, k, v, batch()[3], 4, scale=0.25)
    assert o.dtype == torch.float32
    assert (o - wanted).norm() < 0.5 * (wanted - exact).norm()  # it is rounded as these are
    torch.testing.assert_close(pool, expected, rtol=5e-3, atol=5e-3)

    narrow = q[:2].to(torch.float8_e4m3fn)
    o = backend._linear_attention_entry(
        narrow, k[:2], v[:2], pool, SLOTS[:2], SimpleNamespace(num_prefills=0), layer
    )
    wanted = served(narrow.float(), k[:2], v[:2], expected, 2, scale=0.25)
    torch.testing.assert_close(o, wanted, rtol=1e-2, atol=1e-2)


def test_padded_batches_of_sglang():
    backend, layer = backend_of_sglang()
    q, k, v, pool = batch()
    expected = pool.clone()
    begun = torch.ones(4, device=DEVICE)
    metadata = SimpleNamespace(num_prefills=1, query_start_loc=BOUNDS[:4], has_initial_states=begun)
    o = backend._linear_attention_entry(q, k, v, pool, SLOTS, metadata, layer)
    torch.testing.assert_close(o[:9], served(q, k, v, expected, 3, scale=0.25), rtol=1e-4, atol=1e-4)
    assert not o[9:].any()
    torch.testing.assert_close(pool, expected, rtol=1e-4, atol=1e-4)

    rows, decodes = (x[:3] for x in (q, k, v)), SimpleNamespace(num_prefills=0)
    o = backend._linear_attention_entry(*rows, pool, SLOTS[:2], decodes, layer)
    torch.testing.assert_close(o[:2], served(q, k, v, expected, 2, scale=0.25), rtol=1e-4, atol=1e-4)
    assert not o[2].any()
    backend._linear_attention_entry(*(x[:2] for x in (q, k, v)), pool, SLOTS, decodes, layer)
    served(q, k, v, expected, 2, scale=0.25)
    torch.testing.assert_close(pool, expected, rtol=1e-4, atol=1e-4)


class Operations(TorchDispatchMode):
    """Keeps the names of the operations that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_a_decoding_step_of_sglang_copies_nothing():
    backend, layer = backend_of_sglang()
    q, k, v, pool = batch()
    rows, slots = (x[:2] for x in (q, k, v)), SLOTS[:2].int()
    with Operations() as operations:
        backend._linear_attention_entry(*rows, pool, slots, SimpleNamespace(num_prefills=0), layer)
    assert "linear_attention_step" in operations.names
    assert not {"clone", "constant_pad_nd", "copy_", "_to_copy"} & set(operations.names)


def test_the_entry_points_of_the_docs_are_these_functions():
    project = tomllib.loads(block((DOCS / "serving.md").read_text(), "toml", "entry-points"))["project"]
    found = {
        group: EntryPoint(name, value, group).load()
        for group, entries in project["entry-points"].items()
        for name, value in entries.items()
    }
    modules = {name: importlib.import_module(f"lightning_kernels.integrations.{name}") for name in ADAPTERS}
    assert found == {
        "vllm.general_plugins": modules["vllm_layers"].register_layers,
        "sglang.srt.plugins": modules["sglang_lightning"].use_lightning_kernels,
    }
