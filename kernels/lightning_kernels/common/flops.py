"""What torch's `FlopCounterMode` counts for the operators: the recurrence, whatever a kernel does.

A token and query head take 4·d·e FLOPs: k_tᵀ v_t is added to a state of d × e, which q_t multiplies. Backward
it is 10·d·e: the state is computed again for dq, and a second one, of q_tᵀ do_t, gives dk and dv.
"""

from typing import Any

from torch import Size
from torch.utils.flop_counter import register_flop_formula


def register_flops(forward: object, backward: object) -> None:
    """Register the counts of the two operators of `lightning_attn2`."""
    register_flop_formula(forward)(_forward)
    register_flop_formula(backward)(_backward)


def register_step_flops(step: object) -> None:
    """Register the count of `lightning_attn2_step`, one token of each sequence."""
    register_flop_formula(step)(_forward)


def register_draft_flops(verify: object, commit: object) -> None:
    """Register the counts of `lightning_attn2_verify` and `lightning_attn2_commit`.

    Putting a token into a state is half of 4·d·e. How many tokens are accepted is on the device: all count.
    """
    register_flop_formula(verify)(_verify)
    register_flop_formula(commit)(_commit)


def register_state_flops(forward: object, backward: object) -> None:
    """Register the counts of the two operators of `lightning_attn2_state`.

    A token and head of the state take 2·d·e: k_tᵀ v_t is added. Backward it is 4·d·e: the gradient of the
    state multiplies k_t and v_t.
    """
    register_flop_formula(forward)(_states)
    register_flop_formula(backward)(_states_backward)


def _states(k: Size, v: Size, slopes: Size | None, state: Size | None, bounds: Size | None, heads: int,
            *_: object, **__: object) -> int:  # fmt: skip
    return 2 * k[0] * heads * k[2] * k[3] * v[3]


def _states_backward(grad: Size, *of_call: Any, **_: object) -> int:
    return 2 * _states(*of_call)


def _forward(q: Size, k: Size, v: Size, *_: object, **__: object) -> int:
    return 4 * q.numel() * v[-1]


def _backward(
    grad_o: Size | None, grad_state: Size | None, q: Size, k: Size, v: Size, *_: object, **__: object
) -> int:
    return 10 * q.numel() * v[-1]


def _verify(
    q: Size, k: Size, v: Size, slopes: Size | None, state: Size, indices: Size, kept_k: Size | None,
    *_: object, **__: object,
) -> int:  # fmt: skip
    kept = 0 if kept_k is None else 2 * kept_k[0] * kept_k[1] * state[1:].numel()
    return 4 * q.numel() * v[-1] + kept


def _commit(k: Size, v: Size, slopes: Size | None, state: Size, *_: object, **__: object) -> int:
    return 2 * k[0] * k[1] * state[1:].numel()
