"""Lightning Attention-1, the quadratic tiled form, as a Triton kernel: public function."""

from torch import Tensor

from ..common.autograd import attend_by_core
from ..common.call import Call
from ..common.validate import check_call, check_kernel_call, check_values, heads_first


def lightning_attn1(q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None) -> Tensor:
    """Compute causal linear attention with a fixed decay per head by its quadratic form, tile by tile.

    o_i = Σ_{j≤i} exp(−s·(i−j)) (q_i·k_j) v_j, without a softmax and without a scale. Time is O(n²), memory
    that of the results; it is what `lightning_attn2` is measured against.

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

    Source: Lightning Attention-1 as described in Lightning Attention-2, arXiv 2401.04658.
    """
    call = Call(*heads_first(q, k, v, "bhnd"), s)
    check_call(call)
    if q.shape != k.shape:
        raise ValueError(f"lightning_attn1 takes one number of heads, got q {q.shape[1]} and k {k.shape[1]}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    check_kernel_call(call, "lightning_attn1")
    from . import lightning1_kernel as implementation

    implementation.check_runnable(q)
    check_values(call)
    return attend_by_core(implementation.quadratic_attention, call.for_kernels())[0]
