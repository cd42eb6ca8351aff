"""Kimi Delta Attention (KDA): the gated delta rule with a decay of each channel."""

from __future__ import annotations

from lightning_bench.families.gated_delta import GatedDelta
from lightning_bench.families.spec import QKV, Spec


class Kda(GatedDelta):
    """Gated DeltaNet with log decays of each channel: g [b, h, n, d] in fp32."""

    equation = "o_t = d^(−1/2) q_t S_t,  S_t = (I − β_t k_tᵀ k_t) diag(exp(g_t)) S_{t−1} + β_t k_tᵀ v_t"
    paper = "2510.26692"
    inputs = QKV | {"g": Spec("bhnd", "fp32"), "beta": Spec("bhn")}
    gate_axes = "bhnd"
