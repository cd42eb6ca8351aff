"""Linear attention whose decay each token decides: GLA and RWKV-6 a channel, Mamba-2 a head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.base import QKV, Definition, Problem, Spec, recurrent_flops

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class Gla(Definition):
    """Gated linear attention: log decays g [b, h, n, d] in the dtype of the case."""

    equation = "o_t = d^(−1/2) q_t S_t,  S_t = diag(exp(g_t)) S_{t−1} + k_tᵀ v_t"
    paper = "2312.06635"
    inputs = QKV | {"g": Spec("bhnd")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """g = logsigmoid(normal) / 16: the paper's σ(x)^(1/τ) with τ = 16."""
        from torch.nn.functional import logsigmoid

        return {"g": logsigmoid(draw.normal("bhnd")) / 16.0}

    def output(self, problem: Problem) -> Tensor:
        """The recurrence."""
        from lightning_bench.families.recurrence import gated

        scale = float(problem.q.shape[-1]) ** -0.5
        return gated(problem.q * scale, problem.k, problem.v, problem["g"])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """The state is updated and read; decaying it is not counted."""
        return recurrent_flops(shape, 2)


class Rwkv6(Definition):
    """RWKV-6: log decays w [b, h, n, d] in fp32, and a bonus u [h, d] for the token itself."""

    equation = "o_t = d^(−1/2) q_t (S_{t−1} + diag(u) k_tᵀ v_t),  S_t = diag(exp(w_t)) S_{t−1} + k_tᵀ v_t"
    paper = "2404.05892"
    inputs = QKV | {"w": Spec("bhnd", "fp32"), "u": Spec("hd", "fp32")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """w = −exp(x), x from −6 to −1 over the channels plus normal / 2; u falls from 1 to 0, plus noise.

        The ranges are those from which the official model is trained; the noise stands for its LoRA.
        """
        channel = draw.steps("d") / max(1, draw.shape.head_dim - 1)
        w = -(-6.0 + 5.0 * channel + 0.5 * draw.normal("bhnd")).exp()
        return {"w": w, "u": 1.0 - channel + 0.1 * draw.normal("hd")}

    def output(self, problem: Problem) -> Tensor:
        """The recurrence; the state is read before it decays."""
        from lightning_bench.families.recurrence import gated

        scale = float(problem.q.shape[-1]) ** -0.5
        return gated(problem.q * scale, problem.k, problem.v, problem["w"], bonus=problem["u"])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """The state is updated and read; decay and bonus are not counted."""
        return recurrent_flops(shape, 2)


class Mamba2(Definition):
    """Mamba-2 (SSD), simple GLA with a gate a token: q is C, k is B, v is Δ·x; log decays g = Δ·A, fp32."""

    equation = "o_t = q_t S_t,  S_t = exp(g_t) S_{t−1} + k_tᵀ v_t"
    paper = "2405.21060"
    inputs = QKV | {"g": Spec("bhn", "fp32")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """g = −A·softplus(normal / 2 + softplus⁻¹(Δ₀)), A from 1…16, Δ₀ from 0.001…0.1 a head."""
        return {"g": step_decay(draw, "bhn")}

    def output(self, problem: Problem) -> Tensor:
        """The recurrence, unscaled."""
        from lightning_bench.families.recurrence import gated

        return gated(problem.q, problem.k, problem.v, problem["g"][..., None])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """The state is updated and read."""
        return recurrent_flops(shape, 2)


def step_decay(draw: Draw, axes: str) -> Tensor:
    """Log decays −A·softplus(x + bias) with the ranges of Mamba-2's initialisation, x half a normal."""
    import torch
    from torch.nn.functional import softplus

    rest = "hd" if axes.endswith("d") else "h"
    start = draw.uniform(rest, math.log(0.001), math.log(0.1)).exp()
    bias = start + torch.log(-torch.expm1(-start))  # softplus(bias) = start
    a = draw.uniform("h", 1.0, 16.0)
    x = 0.5 * draw.normal(axes)
    if rest == "h":
        return -a[:, None] * softplus(x + bias[:, None])
    return -a[:, None, None] * softplus(x + bias[:, None])
