"""Stand-ins for what the adapters import of vLLM 0.33 and SGLang 0.5.23, with these releases' signatures."""

from __future__ import annotations

from pathlib import Path

_CUSTOM_OP = """
op_registry_oot = {}


class PluggableLayer:
    def __new__(cls, *args, **kwargs):
        return super().__new__(op_registry_oot.get(cls.__name__, cls))

    @classmethod
    def register_oot(cls, _decorated_layer_cls=None, name=None):
        assert name not in op_registry_oot
        op_registry_oot[name] = _decorated_layer_cls
        return _decorated_layer_cls
"""

_LAYER = """
from vllm.model_executor.custom_op import PluggableLayer


class {name}(PluggableLayer):
    def __init__(self, tp_slope, model_config):
        self.tp_slope, self.model_config = tp_slope, model_config

    def _prefill_and_mix_infer(self, q, k, v, kv_cache, state_indices_tensor, attn_metadata):
        return "its own, mixed"

    def _decode_infer(self, q, k, v, kv_cache, state_indices_tensor, attn_metadata):
        return "its own, drafts"
"""

_BACKEND = """
class LightningAttentionBackend:
    def __init__(self, tp_slope, _model_runner):
        self.tp_slope, self._model_runner = tp_slope, _model_runner

    def _linear_attention_entry(
        self, q, k, v, kv_cache, state_indices_tensor, metadata, layer, mask=None, temp_cache=None,
        intermediate_state_indices=None, track_lens=None, track_state_indices=None,
    ):
        return "seg_la"
"""

_LINEAR = "vllm/model_executor/layers/mamba/linear"
FILES = {
    "vllm/model_executor/custom_op.py": _CUSTOM_OP,
    f"{_LINEAR}/bailing_linear_attn.py": _LAYER.format(name="BailingMoELinearAttention"),
    f"{_LINEAR}/minimax_linear_attn.py": _LAYER.format(name="MiniMaxText01LinearAttention"),
    "sglang/srt/layers/attention/linear/lightning_backend.py": _BACKEND,
}


def write_engines(folder: Path) -> None:
    """Write every stand-in below a folder."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in list(path.relative_to(folder).parents)[:-1]:
            (folder / parent / "__init__.py").touch()
        path.write_text(text)
