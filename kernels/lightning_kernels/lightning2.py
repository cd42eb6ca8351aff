"""Lightning Attention-2 (arXiv 2401.04658), the Triton kernel: public function and configuration."""

import torch
from torch import Tensor

from lightning_kernels._autograd import attend
from lightning_kernels._config import lightning2_tiles
from lightning_kernels._contract import KERNEL_DTYPES, check_dims, check_inputs, check_kernel_inputs


def lightning_attn2(q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None) -> Tensor:
    """Compute causal linear attention with a fixed decay per head, in one pass over the sequence.

    o_i = Σ_{j≤i} exp(−s·(i−j)) (q_i·k_j) v_j, without a softmax and without a scale. Forward and backward
    take O(n) time; nothing is allocated beyond o forward and the three gradients backward, and nothing but
    q, k, v and s is saved between them. Operands of every product are in the dtype of the inputs,
    sums, state and decay in fp32; in float16, scores and states beyond 65504 overflow.

    Args:
        q: queries [b, h, n, head_dim] in float32, float16 or bfloat16, n ≥ 1, head_dim from 1 to 256.
            Any strides; a copy is made only if the last dim is not contiguous.
        k: keys [b, h, n, head_dim].
        v: values [b, h, n, value_dim], value_dim from 1 to 256.
        s: slopes per token [h, 1, 1] or [h], s ≥ 0 (not checked on a GPU); None means no decay.

    Returns:
        o [b, h, n, value_dim] in the dtype of q, laid out in memory as v is where its last dim is contiguous.

    Raises:
        ValueError: if shapes, dtypes, dims or devices are not as above, or the tensors are not on a GPU.
        NotImplementedError: if s requires a gradient.
        ModuleNotFoundError: if triton is not installed.

    Source: Lightning Attention-2, arXiv 2401.04658.
    """
    slopes = check_inputs(q, k, v, s)
    check_kernel_inputs(q, v, "lightning_attn2")
    from lightning_kernels._triton import lightning2 as implementation

    implementation.check_runnable(q)
    if slopes is not None:
        slopes = slopes.to(torch.float32).contiguous()
    return attend(q, k, v, slopes, implementation.linear_attention)


def lightning2_config(head_dim: int, value_dim: int, dtype: torch.dtype) -> str:
    """Describe the launch that `lightning_attn2` chooses for a forward of these dims and dtype.

    Returns:
        for example "block=64 warps=8 stages=3 split_e=1": tokens a block, warps a program, pipeline
        stages, and programs that share one head by splitting value_dim.

    Raises:
        ValueError: if `lightning_attn2` does not take these dims or this dtype.
    """
    if dtype not in KERNEL_DTYPES:
        raise ValueError(f"lightning_attn2 takes float32, float16 or bfloat16, got {dtype}")
    check_dims(head_dim, value_dim, "lightning_attn2")
    return str(lightning2_tiles(head_dim, value_dim, dtype))
