"""GateLoop: a recurrence of single numbers, each channel with a gate of its own, real or complex."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.base import QKV, Definition, Problem, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw

# exp(−G) of log magnitudes summed over a block stays far inside fp64.
_BLOCK = 32


class GateLoop(Definition):
    """GateLoop with real gates; value_dim is head_dim, since states are one element a channel."""

    equation = "o_t = q_t ⊙ h_t,  h_t = exp(g_t) ⊙ h_{t−1} + k_t ⊙ v_t"
    paper = "2311.01927"
    inputs = QKV | {"g": Spec("bhnd")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """g = logsigmoid(normal): the paper's magnitude, the sigmoid of a projection."""
        from torch.nn.functional import logsigmoid

        return {"g": logsigmoid(draw.normal("bhnd"))}

    def output(self, problem: Problem) -> Tensor:
        """The recurrence."""
        return problem.q * _states(problem.k * problem.v, problem["g"])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """An exponential, two multiply-adds' worth and the product with q; backward two and a half times."""
        return 5.0 * shape.qk_elements, 12.5 * shape.qk_elements


class GateLoopComplex(GateLoop):
    """GateLoop with complex gates in polar form."""

    equation = "o_t = q_t ⊙ Re h_t,  h_t = exp(g_t + iφ_t) ⊙ h_{t−1} + k_t ⊙ v_t"
    inputs = GateLoop.inputs | {"phase": Spec("bhnd")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """g as with real gates; φ = normal: the paper's phase is a projection as it is."""
        return super().make(draw) | {"phase": draw.normal("bhnd")}

    def output(self, problem: Problem) -> Tensor:
        """The recurrence; q, k and v are real."""
        import torch

        states = _states(problem.k * problem.v, torch.complex(problem["g"], problem["phase"]))
        return problem.q * states.real

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Twice those of real gates, and twice the work of the gate."""
        return 12.0 * shape.qk_elements, 30.0 * shape.qk_elements


def _states(pushed: Tensor, log_gate: Tensor) -> Tensor:
    """h [P, n, d] of h_t = exp(log_gate_t) h_{t−1} + pushed_t, block by block."""
    import torch

    n = pushed.shape[1]
    x, g = (
        torch.nn.functional.pad(y, (0, 0, 0, -n % _BLOCK)).unflatten(1, (-1, _BLOCK))
        for y in (pushed, log_gate)
    )
    reach = g.cumsum(2).exp()  # what is left at a token of the state that entered its block
    alone = reach * (x / reach).cumsum(2)
    entering = []
    state = torch.zeros_like(alone[:, 0, 0])
    for index in range(x.shape[1]):
        entering.append(state)
        state = reach[:, index, -1] * state + alone[:, index, -1]
    states = alone + reach * torch.stack(entering, 1)[:, :, None]
    result: Tensor = states.flatten(1, 2)[:, :n]
    return result
