"""Stand-ins for libraries that serve, written to a folder: their signatures, computed token by token."""

from __future__ import annotations

from pathlib import Path

_WALK = '''
import torch


def walk(q, k, v, slopes, state):
    """Return o [n, h, e] of one sequence from its state [h, d, e], which changes in place."""
    rows = []
    for q_t, k_t, v_t in zip(q.double(), k.double(), v.double()):
        decay = torch.exp(-slopes.double()).reshape(-1, 1, 1)
        state.copy_(decay * state.double() + k_t[:, :, None] * v_t[:, None])
        rows.append((q_t[:, None] @ state.double())[:, 0])
    return torch.stack(rows)
'''

_SEG_LA = (
    _WALK
    + """
from dataclasses import dataclass


@dataclass
class SegLaMeta:
    batch_size: int
    max_q_length: int
    q_offsets: torch.Tensor
    s_offsets: torch.Tensor
    q_lengths: torch.Tensor
    s_scales: torch.Tensor


def seg_la_fwd(q, k, v, s, decay_scales, meta, caches=None, cache_indices=None, softmax_scale=None):
    outputs = []
    for i in range(meta.batch_size):
        first, slot = int(meta.q_offsets[i]), int(meta.s_offsets[i])
        assert int(meta.s_scales[i]) == 1
        state = s[slot].clone() if caches is not None else s[slot]
        for t in range(first, first + int(meta.q_lengths[i])):
            outputs.append(walk(q[t : t + 1], k[t : t + 1], v[t : t + 1], decay_scales, state))
            if caches is not None:
                caches[cache_indices[i].long(), t - first] = state
    return (softmax_scale * torch.cat(outputs)).to(q.dtype)
"""
)

_LIGHTNING_ATTN = (
    _WALK
    + """

def lightning_attention(q, k, v, ed, block_size=256, kv_history=None):
    assert q.shape[0] == 1 and q.dtype == torch.float32
    state = kv_history[0].clone()
    o = walk(*(x[0].transpose(0, 1) for x in (q, k, v)), ed, state)
    return o.transpose(0, 1)[None].float(), torch.stack([kv_history[0], state], 1)[None]


def linear_decode_forward_triton(q, k, v, kv_caches, slope_rate, slot_idx, BLOCK_SIZE=32):
    assert q.shape[2] == 1 and q.dtype == torch.float32
    rows = []
    for i, slot in enumerate(slot_idx.tolist()):
        rows.append(walk(*(x[i].transpose(0, 1) for x in (q, k, v)), slope_rate, kv_caches[slot]))
    return torch.cat(rows).flatten(1).float()
"""
)

_SELECTIVE = (
    _WALK
    + """

def selective_state_update(
    state, x, dt, A, B, C, D, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None
):
    assert dt.shape == x.shape and dt.stride()[1:] == (1, 0)
    assert A.stride() == (1, 0, 0) and D.stride() == (1, 0)
    assert not D.any() and not dt_bias.any() and (dt == 1).all() and not dt_softplus
    rows = [
        walk(C[i : i + 1], B[i : i + 1], x[i : i + 1], -A[:, 0, 0], state[slot].mT)
        for i, slot in enumerate(state_batch_indices.tolist())
    ]
    return torch.cat(rows).to(x.dtype)
"""
)

_CHUNK_SCAN = (
    _WALK
    + """

def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, initial_states=None, return_final_states=False):
    assert dt.shape == x.shape[:3] and (dt == 1).all() and return_final_states
    states = initial_states.clone()
    rows = [walk(C[i], B[i], x[i], -A, states[i].mT) for i in range(len(x))]
    return torch.stack(rows).to(x.dtype), states
"""
)

FILES = {
    "sglang/kernels/ops/attention/linear/seg_la.py": _SEG_LA,
    "sglang/kernels/ops/attention/linear/lightning_attn.py": _LIGHTNING_ATTN,
    "vllm/model_executor/layers/lightning_attn.py": _LIGHTNING_ATTN,
    "mamba_ssm/ops/triton/selective_state_update.py": _SELECTIVE,
    "mamba_ssm/ops/triton/ssd_combined.py": _CHUNK_SCAN,
    "flashinfer/mamba.py": _SELECTIVE,
}


def write_libraries(folder: Path) -> None:
    """Write every stand-in below a folder; importing `sglang` itself fails, as without its dependencies."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in list(path.relative_to(folder).parents)[:-1]:
            (folder / parent / "__init__.py").touch()
        path.write_text(text)
    (folder / "sglang" / "__init__.py").write_text("raise ImportError('a dependency is missing')\n")
