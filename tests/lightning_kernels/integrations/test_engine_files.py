"""The adapters beside the layers of vLLM 0.33 and SGLang 0.5.23 themselves, whose kernels Triton interprets.

Skipped unless ENGINE_FILES names a folder with these files; everything else of the engines is made up here:

    pip download --no-deps --only-binary :all: vllm==0.33.0 sglang==0.5.23
    unzip 'vllm-*.whl' '*/lightning_attn.py' '*/custom_op.py' '*/mamba/linear/*' 'vllm/plugins/*' -d engines
    unzip 'sglang-*.whl' '*/attention/linear/*' 'sglang/srt/plugins/*' -d engines
    ENGINE_FILES=engines pytest tests/lightning_kernels/integrations/test_engine_files.py
"""

import importlib.util
import os
import sys
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from tests.support import kernel_cases  # noqa: F401  makes the Triton interpreter quick
from tests.support.documents import DOCS, block
from tests.support.kernel_cases import relative_l2

import lightning_kernels as lk  # isort: skip

FOLDER = os.environ.get("ENGINE_FILES")
pytestmark = pytest.mark.skipif(not FOLDER, reason="needs the engines' files, see above")

REAL = {
    "vllm.plugins", "vllm.model_executor.custom_op", "vllm.model_executor.layers.lightning_attn",
    "vllm.model_executor.layers.mamba.linear.bailing_linear_attn",
    "vllm.model_executor.layers.mamba.linear.minimax_linear_attn",
    "sglang.kernels.ops.attention.linear.seg_la", "sglang.kernels.ops.attention.linear.lightning_attn",
    "sglang.srt.layers.attention.linear.lightning_backend",
    "sglang.srt.plugins", "sglang.srt.plugins.hook_registry",
}  # fmt: skip
PACKAGES = {"vllm.plugins", "sglang.srt.plugins"}
HEADS, DIM = 2, 128
SLOPES = lk.layer_slopes(HEADS, 1, 8)
VALUES = {
    "PAD_SLOT_ID": -1, "current_platform": MagicMock(), "eager_break_during_capture": lambda f: f,
    "init_logger": MagicMock(), "VLLM_PLUGINS": None, "envs": MagicMock(**{
        "SGLANG_PLUGINS.get.return_value": "", "SGLANG_PLATFORM.get.return_value": "",
    }),
}  # fmt: skip


class MadeUp(ModuleType):
    """A module in which every name is an empty class."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = VALUES[name] if name in VALUES else type(name, (torch.nn.Module,), {})
        setattr(self, name, value)
        return value


class Engines:
    """Find the files of `REAL` below the folder, and make up the other modules of both packages."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("vllm", "sglang"):
            return None
        if name in REAL:
            end = "/__init__.py" if name in PACKAGES else ".py"
            return importlib.util.spec_from_file_location(
                name, Path(str(FOLDER)) / f"{name.replace('.', '/')}{end}"
            )
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return MadeUp(spec.name)

    def exec_module(self, module):
        if module.__name__ == "vllm.triton_utils":
            import triton
            import triton.language as tl

            module.triton, module.tl = triton, tl
        if module.__name__ == "vllm.utils.torch_utils":
            module.direct_register_custom_op = lambda **_: None
        if module.__name__.endswith("mamba.linear.base"):
            from vllm.model_executor.custom_op import PluggableLayer

            module.LinearAttention = type("LinearAttention", (PluggableLayer,), {})


@pytest.fixture(autouse=True)
def _engines(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Engines(), *sys.meta_path])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    yield
    for name in [x for x in sys.modules if x.startswith(("vllm", "sglang")) or "integrations." in x]:
        del sys.modules[name]


def batch(lengths):
    """Return q, k, v of sequences of these lengths, a pool of six slots, and the bounds."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(lengths), HEADS, DIM) for _ in range(3))
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    return q, k, v, torch.randn(6, HEADS, DIM, DIM), bounds


@pytest.mark.parametrize("name", ["BailingMoELinearAttention", "MiniMaxText01LinearAttention"])
def test_layers_of_vllm(name):
    importlib.import_module("lightning_kernels.integrations.vllm_layers").register_layers()
    home = "bailing_linear_attn" if name.startswith("Bailing") else "minimax_linear_attn"
    original = getattr(importlib.import_module(f"vllm.model_executor.layers.mamba.linear.{home}"), name)
    ours = original.__new__(original)
    assert type(ours) is not original
    own = object.__new__(original)
    for layer in (ours, own):
        torch.nn.Module.__init__(layer)
        layer.tp_slope, layer.BLOCK, layer.layer_idx = SLOPES, 256, 1
        layer.model_config = SimpleNamespace(dtype=torch.float32)

    q, k, v, pool, bounds = batch([1, 1, 40, 20])
    slots = torch.tensor([5, 0, 4, 2], dtype=torch.int32)
    pool[slots[2:].long()] = 0  # prompts that go on are off in vLLM's kernel (docs/upstream.md)
    counts = {"num_decodes": 2, "num_decode_tokens": 2, "num_prefills": 2}
    mixed = SimpleNamespace(
        **counts, query_start_loc=bounds, state_indices_tensor_d=slots[:2], state_indices_tensor_p=slots[2:]
    )
    pools = pool.clone(), pool.clone()
    found, wanted = (
        layer._prefill_and_mix_infer(q, k, v, states, slots, mixed)
        for layer, states in zip((ours, own), pools, strict=True)
    )
    assert relative_l2(found, wanted) < 1e-5
    assert relative_l2(*pools) < 1e-5

    slots = torch.tensor([5, -1, 1], dtype=torch.int32)
    decodes = SimpleNamespace(num_decodes=3, num_decode_tokens=3, state_indices_tensor_d=slots)
    pools = pool.clone(), pool.clone()
    found, wanted = (
        layer._decode_infer(q[:3], k[:3], v[:3], states, slots, decodes)[[0, 2]]
        for layer, states in zip((ours, own), pools, strict=True)
    )
    assert relative_l2(found, wanted) < 1e-5
    assert relative_l2(*pools) < 1e-5


@pytest.mark.parametrize("prompts", [3, 0])
def test_backend_of_sglang(prompts):
    adapter = importlib.import_module("lightning_kernels.integrations.sglang_lightning")
    adapter.use_lightning_kernels()
    home = importlib.import_module("sglang.srt.layers.attention.linear.lightning_backend")
    backend = home.LightningAttentionBackend.__new__(home.LightningAttentionBackend)
    backend.tp_slope = [SLOPES.flatten()]
    object.__setattr__(backend, "_model_runner", SimpleNamespace(dtype=torch.float32))
    q, k, v, pool, bounds = batch([40, 7, 3] if prompts else [1, 1, 1])
    slots = torch.tensor([5, 0, 4], dtype=torch.int32)
    begun = torch.tensor([not prompts, True, True])
    metadata = SimpleNamespace(
        num_prefills=prompts, query_start_loc=bounds, has_initial_states=begun, batch_size=3
    )
    layer, pools = SimpleNamespace(layer_id=0, scaling=0.25), (pool.clone(), pool.clone())
    found = backend._linear_attention_entry(q, k, v, pools[0], slots, metadata, layer)
    wanted = adapter._seg_la(backend, q, k, v, pools[1], slots, metadata, layer)
    assert relative_l2(found, wanted) < 1e-5
    assert relative_l2(*pools) < 1e-5


@pytest.fixture
def _installed(tmp_path, monkeypatch):
    """Install a package with the entry points of the docs."""
    points = tomllib.loads(block((DOCS / "serving.md").read_text(), "toml", "entry-points"))["project"]
    lines = [
        line for group, entries in points["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]  # fmt: skip
    info = tmp_path / "in_engines-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: in-engines\nVersion: 1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("_installed")
def test_vllm_finds_the_entry_point_of_the_docs():
    importlib.import_module("vllm.plugins").load_general_plugins()
    layers = importlib.import_module("vllm.model_executor.custom_op").op_registry_oot
    assert {"BailingMoELinearAttention", "MiniMaxText01LinearAttention"} <= layers.keys()


@pytest.mark.usefixtures("_installed")
def test_sglang_finds_the_entry_point_of_the_docs():
    importlib.import_module("sglang.srt.plugins").load_plugins()
    home = importlib.import_module("sglang.srt.layers.attention.linear.lightning_backend")
    adapter = importlib.import_module("lightning_kernels.integrations.sglang_lightning")
    assert home.LightningAttentionBackend._linear_attention_entry is adapter._entry
