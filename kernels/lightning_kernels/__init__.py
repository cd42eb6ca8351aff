"""Lightning Attention kernels: causal linear attention with a fixed decay per head, and what its layer needs.

Everything public is named here and imported on first use, so that `import lightning_kernels` needs
neither a GPU nor triton.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .gateloop.gate_loop import gate_loop, gate_loop_torch
    from .layer import TransNormerAttention
    from .lightning1.attention1 import lightning_attn1
    from .lightning2.api import lightning2_config, lightning_attn2
    from .lightning2.blocked import lightning_attn2_torch
    from .lightning2.context import ContextParallel
    from .lightning2.reference import reference_attention, reference_recurrent
    from .lightning2.state_forms import lightning_attn2_state, lightning_attn2_state_torch
    from .norm.rms_norm import simple_rms_norm, simple_rms_norm_config, simple_rms_norm_torch
    from .serving.bitwise import lightning_attn2_serve_bitwise
    from .serving.bitwise_call import Tails, make_tails
    from .serving.bitwise_torch import lightning_attn2_serve_bitwise_torch
    from .serving.drafts import Accepted
    from .serving.serve import lightning_attn2_serve
    from .serving.serve_call import Snapshots
    from .serving.serve_torch import lightning_attn2_serve_torch
    from .serving.verify_drafts import lightning_attn2_commit, lightning_attn2_verify
    from .serving.verify_torch import lightning_attn2_commit_torch, lightning_attn2_verify_torch
    from .slopes import build_slope_tensor, layer_slopes
    from .step.decode_step import lightning_attn2_step, lightning_attn2_step_torch

__all__ = [
    "Accepted",
    "ContextParallel",
    "Snapshots",
    "Tails",
    "TransNormerAttention",
    "build_slope_tensor",
    "gate_loop",
    "gate_loop_torch",
    "layer_slopes",
    "lightning2_config",
    "lightning_attn1",
    "lightning_attn2",
    "lightning_attn2_commit",
    "lightning_attn2_commit_torch",
    "lightning_attn2_serve",
    "lightning_attn2_serve_bitwise",
    "lightning_attn2_serve_bitwise_torch",
    "lightning_attn2_serve_torch",
    "lightning_attn2_state",
    "lightning_attn2_state_torch",
    "lightning_attn2_step",
    "lightning_attn2_step_torch",
    "lightning_attn2_torch",
    "lightning_attn2_verify",
    "lightning_attn2_verify_torch",
    "make_tails",
    "reference_attention",
    "reference_recurrent",
    "simple_rms_norm",
    "simple_rms_norm_config",
    "simple_rms_norm_torch",
]

_HOME = {
    "Accepted": "serving.drafts",
    "ContextParallel": "lightning2.context",
    "Snapshots": "serving.serve_call",
    "Tails": "serving.bitwise_call",
    "TransNormerAttention": "layer",
    "build_slope_tensor": "slopes",
    "gate_loop": "gateloop.gate_loop",
    "gate_loop_torch": "gateloop.gate_loop",
    "layer_slopes": "slopes",
    "lightning2_config": "lightning2.api",
    "lightning_attn1": "lightning1.attention1",
    "lightning_attn2": "lightning2.api",
    "lightning_attn2_commit": "serving.verify_drafts",
    "lightning_attn2_commit_torch": "serving.verify_torch",
    "lightning_attn2_serve": "serving.serve",
    "lightning_attn2_serve_bitwise": "serving.bitwise",
    "lightning_attn2_serve_bitwise_torch": "serving.bitwise_torch",
    "lightning_attn2_serve_torch": "serving.serve_torch",
    "lightning_attn2_state": "lightning2.state_forms",
    "lightning_attn2_state_torch": "lightning2.state_forms",
    "lightning_attn2_step": "step.decode_step",
    "lightning_attn2_step_torch": "step.decode_step",
    "lightning_attn2_torch": "lightning2.blocked",
    "lightning_attn2_verify": "serving.verify_drafts",
    "lightning_attn2_verify_torch": "serving.verify_torch",
    "make_tails": "serving.bitwise_call",
    "reference_attention": "lightning2.reference",
    "reference_recurrent": "lightning2.reference",
    "simple_rms_norm": "norm.rms_norm",
    "simple_rms_norm_config": "norm.rms_norm",
    "simple_rms_norm_torch": "norm.rms_norm",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
