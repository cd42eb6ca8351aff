"""The models that can be run, by name: their sizes, parameters, operations and bytes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lightning_bench.case import DTYPE_BYTES, Family, Shape
from lightning_bench.families import definition_of
from lightning_bench.variant import PLAIN

Architecture = Literal["transnormer", "llama"]

_FAMILY: dict[Architecture, Family] = {"transnormer": "linear_decay", "llama": "softmax"}
_DENSE: dict[Architecture, int] = {"transnormer": 5, "llama": 4}
"""Matrices of dim × dim in an attention layer: q, k, v, o, and TransNormerLLM's gate u."""


@dataclass(frozen=True)
class ModelSize:
    """One model. `glu_width` is the inner width of its gated linear unit."""

    name: str
    architecture: Architecture
    layers: int
    dim: int
    heads: int
    glu_width: int
    vocabulary: int = 64000

    @property
    def family(self) -> Family:
        """The family of attention that the model has."""
        return _FAMILY[self.architecture]

    @property
    def head_dim(self) -> int:
        """Columns of q, k and v in all layers but TransNormerLLM's first."""
        return self.dim // self.heads

    def layer_head_dim(self, layer: int) -> int:
        """Return the columns of q and k in a layer: twice as many where LRPE gives them a cos and a sin."""
        return self.head_dim * (2 if self.architecture == "transnormer" and layer == 0 else 1)

    def layer_shape(self, shape: Shape, layer: int) -> Shape:
        """Return the shape of a layer's attention, given that of a step: `shape` of a case of this model."""
        return replace(
            shape,
            heads=self.heads,
            head_dim=self.layer_head_dim(layer),
            value_dim=self.head_dim,
            variant=PLAIN,
        )

    @property
    def product_weights(self) -> int:
        """Weights that each token is multiplied with: all but the embedding and the vectors of norms."""
        dense = _DENSE[self.architecture] * self.dim**2 + 3 * self.dim * self.glu_width
        return self.layers * dense + self.vocabulary * self.dim

    @property
    def parameters(self) -> int:
        """All trained parameters."""
        vectors = self.dim if self.architecture == "transnormer" else (2 * self.layers + 1) * self.dim
        return self.product_weights + self.vocabulary * self.dim + vectors

    def step_flops(self, shape: Shape) -> float:
        """Return the operations that a training step needs, whoever does them.

        They are 6 for each weight of a product and token (one product forward, two backward, a multiply-add
        counted as two), and those of the attention in each layer by the family's cheapest exact form. What
        activation checkpointing computes twice is not counted twice, nor are norms and activations.
        """
        attention = sum(
            sum(definition_of(self.family).flops(self.layer_shape(shape, layer)))
            for layer in range(self.layers)
        )
        return 6.0 * self.product_weights * shape.batch * shape.seq_len + attention

    def cache_bytes(self, shape: Shape, places: float) -> float:
        """Return the bytes that the layers keep of sequences of a batch.

        TransNormerLLM keeps a state in fp32 per layer and head. LLaMA keeps the keys and values of `places`
        tokens in the dtype of the shape.
        """
        if self.architecture == "transnormer":
            columns = sum(self.layer_head_dim(layer) for layer in range(self.layers))
            return 4.0 * shape.batch * self.heads * columns * self.head_dim
        return 2.0 * DTYPE_BYTES[shape.dtype] * shape.batch * self.layers * self.dim * places

    def decoding_bytes(self, shape: Shape) -> float:
        """Return the bytes that a decoding step must read and write, in the mean over the new tokens.

        They are the weights of all products, once; a state read and written, or the keys and values of all
        tokens so far read and those of one written.
        """
        weights = float(DTYPE_BYTES[shape.dtype] * self.product_weights)
        if self.architecture == "transnormer":
            return weights + 2 * self.cache_bytes(shape, 0)
        seen = shape.seq_len + shape.model_run.new_tokens / 2
        return weights + self.cache_bytes(shape, seen + 1)

    def small(self) -> ModelSize:
        """Return a model of the same layers that is small enough for a reference in fp64."""
        return replace(self, layers=2, dim=2 * self.head_dim, heads=2, glu_width=96, vocabulary=256)


def _sizes(size: str, layers: int, dim: int, heads: int, glu_width: int) -> list[ModelSize]:
    """Return both architectures in one size."""
    names: dict[str, Architecture] = {"tnl": "transnormer", "llama": "llama"}
    return [ModelSize(f"{name}-{size}", kind, layers, dim, heads, glu_width) for name, kind in names.items()]


MODELS: dict[str, ModelSize] = {
    size.name: size
    for size in [
        # 0.4B and 1B are TransNormerLLM's by the configurations of OpenNLPLab on Hugging Face. 3B was not
        # published: it has heads of 128, the same ratios, and the layers that give 3 billion parameters. 7B
        # has 30 layers of the width of LLaMA-7B and the same ratios. LLaMA's have the same sizes.
        *_sizes("0.4b", 24, 1024, 8, 2816),
        *_sizes("1b", 16, 2048, 16, 5632),
        *_sizes("3b", 32, 2560, 20, 7040),
        *_sizes("7b", 30, 4096, 32, 11264),
        *(replace(size, vocabulary=256) for size in _sizes("tiny", 2, 128, 2, 352)),
    ]
}
"""Every model by its name, such as `tnl-0.4b`; the tiny ones are for a CPU and read bytes only."""
