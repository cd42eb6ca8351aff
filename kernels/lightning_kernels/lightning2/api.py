"""Lightning Attention-2 (arXiv 2401.04658), the Triton kernel: public function and configuration."""

from typing import Literal, overload

import torch
from torch import Tensor

from ..common.call import Call
from ..common.validate import KERNEL_DTYPES, check_dims, check_nvidia, heads_first
from .context import ContextParallel
from .cuts import hopper_launch
from .operator import attend, attend_on_ranks
from .state_call import StateCall, check_every
from .state_forms import states_of
from .tiles import hopper_takes, lightning2_tiles, processors, shared_limit


@overload
def lightning_attn2(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None, *, scale: float = 1.0,
    initial_state: Tensor | None = None, return_state: Literal[False] = False,
    return_states_every: None = None, cu_seqlens: Tensor | None = None, cp: ContextParallel | None = None,
    layout: str = "bhnd",
) -> Tensor: ...  # fmt: skip
@overload
def lightning_attn2(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None, *, scale: float = 1.0,
    initial_state: Tensor | None = None, return_state: Literal[True],
    return_states_every: None = None, cu_seqlens: Tensor | None = None, cp: ContextParallel | None = None,
    layout: str = "bhnd",
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def lightning_attn2(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None, *, scale: float = 1.0,
    initial_state: Tensor | None = None, return_state: bool = False, return_states_every: int,
    cu_seqlens: Tensor | None = None, layout: str = "bhnd",
) -> tuple[Tensor, ...]: ...  # fmt: skip
def lightning_attn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    return_states_every: int | None = None,
    cu_seqlens: Tensor | None = None,
    cp: ContextParallel | None = None,
    layout: str = "bhnd",
) -> Tensor | tuple[Tensor, ...]:
    """Compute causal linear attention with a fixed decay per head, in one pass over the sequence.

    o_t = scale · q_t · X_t,   X_t = exp(−s) · X_{t−1} + k_tᵀ v_t,   X_{−1} = initial_state

    without a softmax. Forward and backward take O(n) time. With as many kv heads as q heads nothing is
    allocated beyond the results, and nothing but the inputs is saved for backward. Operands of every product
    are in the dtype of the inputs, sums, state and decay in fp32; in float16, scores and states beyond 65504
    overflow. It is one operator to torch.compile and casts q, k and v under autocast.

    Args:
        q: queries [b, hq, n, head_dim] in float32, float16 or bfloat16, n ≥ 1, head_dim from 1 to 256.
            Any strides; a copy is made only if the last dim is not contiguous.
        k: keys [b, hk, n, head_dim], hq a multiple of hk: query head i reads kv head i // (hq // hk). With
            hk < hq, the gradients of k and v are computed per query head and then summed.
        v: values [b, hk, n, value_dim], value_dim from 1 to 256.
        s: slopes per token [hq, 1, 1] or [hq], s ≥ 0 (not checked on a GPU, where NaN makes all of its head
            NaN); None means no decay, and inf that a token sees only itself.
        scale: what o is multiplied by; the state does not see it.
        initial_state: X before the first token [b, hq, head_dim, value_dim], any floating dtype and strides;
            None means zeros. It gets a gradient.
        return_state: whether to return X after the last token too; a loss may depend on it.
        return_states_every: C, to return X after each C tokens of a sequence too, and after its last; a loss
            may depend on them. They are computed by kernels of their own, which read k and v once more.
        cu_seqlens: int32 [num_seqs + 1], where sequence i is tokens cu_seqlens[i] to cu_seqlens[i+1] − 1 of
            a batch of 1: from 0, never decreasing, to at most n (not checked on a GPU). Rows beyond are zeros
            in o and in gradients. States are then [num_seqs, hq, head_dim, value_dim].
        cp: how the tokens lie on the ranks of a group, of which q, k, v and o are then this rank's part.
        layout: "bhnd", or "bnhd" for q, k, v and o as [b, n, heads, dim].

    Returns:
        o [b, hq, n, value_dim] in the dtype of q, laid out in memory as v is where its last dim is
        contiguous, or as q is where several heads share one kv head; with return_state (o, state), the state
        in fp32. With return_states_every=C the states come last, (o, states) or (o, state, states), in fp32:
        [b, hq, ⌈n / C⌉, head_dim, value_dim], where number c is X after token min((c + 1)·C, n) − 1. With
        cu_seqlens they are [1, hq, n // C + num_seqs, head_dim, value_dim]: those of sequence i, of
        ⌈length / C⌉ chunks that begin at its first token, are from cu_seqlens[i] // C + i on, and zeros are
        where no sequence has a chunk.

    Raises:
        ValueError: if shapes, dtypes, dims or devices are not as above, return_states_every is not an int of
            at least 1, or the tensors are not on a GPU of NVIDIA.
        NotImplementedError: if s requires a gradient.
        ModuleNotFoundError: if triton is not installed.

    Source: Lightning Attention-2, arXiv 2401.04658.
    """
    q, k, v = heads_first(q, k, v, layout)
    every = 0 if return_states_every is None else check_every(return_states_every, cp)
    call = Call(q, k, v, s, initial_state, cu_seqlens, scale, return_state)
    o, state = attend(call) if cp is None else attend_on_ranks(call, cp)
    if layout != "bhnd":
        o = o.transpose(1, 2)
    if not every:
        return o if state is None or not return_state else (o, state)
    given = StateCall(k, v, s, initial_state, cu_seqlens, q.shape[1], every)
    states = states_of(given, "lightning_attn2")
    return (o, states) if state is None or not return_state else (o, state, states)


def lightning2_config(
    head_dim: int, value_dim: int, dtype: torch.dtype, *, programs: int = 132, seq_len: int = 4096,
    backward: bool = False, capability: tuple[int, int] | None = None, shared_bytes: int | None = None,
) -> str:  # fmt: skip
    """Describe the launch that `lightning_attn2` chooses for contiguous inputs.

    Args:
        head_dim: from 1 to 256.
        value_dim: from 1 to 256.
        dtype: float32, float16 or bfloat16.
        programs: sequences times query heads.
        seq_len: tokens of a sequence.
        backward: whether it is the launch of the backward pass, without initial and final state.
        capability: compute capability of the GPU in question; None means that of the current GPU, or that
            of an H200, (9, 0), where there is none.
        shared_bytes: shared memory that one program may take there, as in
            `torch.cuda.get_device_properties(...).shared_memory_per_block_optin`; None as for capability.

    Returns:
        for example "path=hopper block=64 columns=128 stages=4 split_e=1 segments=8" or "path=portable
        block=64 warps=8 stages=3 split_e=1": the kernel, tokens per block, columns of v or warps per program,
        pipeline stages, programs that share one head by splitting value_dim, "load=tma" where TMA
        brings the tiles, and into how many segments a sequence is cut.

    Raises:
        ValueError: if `lightning_attn2` does not take these dims, this dtype, or the current GPU, of AMD.
    """
    if dtype not in KERNEL_DTYPES:
        raise ValueError(f"lightning_attn2 takes float32, float16 or bfloat16, got {dtype}")
    check_dims(head_dim, value_dim, "lightning_attn2")
    device = torch.cuda.current_device() if torch.cuda.is_available() else -1
    if device >= 0 and (capability is None or shared_bytes is None):
        check_nvidia(torch.device("cuda", device), "lightning_attn2", "lightning_attn2_torch")
    if capability is None:
        capability = torch.cuda.get_device_capability(device) if device >= 0 else (9, 0)
    if capability == (9, 0) and hopper_takes(dtype, head_dim, value_dim):
        elements = programs * seq_len * head_dim
        cut = hopper_launch(head_dim, value_dim, backward, programs, seq_len, processors(device), elements)
        return f"{cut.tiles.config} segments={cut.segments}"
    if shared_bytes is None:
        shared_bytes = shared_limit(device)
    return f"path=portable {lightning2_tiles(head_dim, value_dim, dtype, shared_bytes)}"
