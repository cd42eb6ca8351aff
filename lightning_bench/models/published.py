"""The shapes of linear attention in published models, which suites name. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple


class AttentionShape(NamedTuple):
    """Heads of the linear attention of a model, and their size for q, k and v."""

    heads: int
    head_dim: int


PUBLISHED: dict[str, AttentionShape] = {
    "minimax-01": AttentionShape(64, 128),  # arXiv 2501.08313: 70 of 80 layers, every eighth is softmax
    "ling-2.5-1t": AttentionShape(64, 128),  # inclusionAI/Ling-2.5-1T: 70 of 80 layers
    "tnl-385m": AttentionShape(8, 128),  # OpenNLPLab/TransNormerLLM-385M, -1B and -15B; arXiv 2307.14995
    "tnl-1b": AttentionShape(16, 128),
    "tnl-15b": AttentionShape(40, 128),
}
"""Every model by the name that a suite gives it."""
