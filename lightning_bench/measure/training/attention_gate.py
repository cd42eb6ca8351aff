"""The gate of attention at the size that is trained: what a small model is too short to see."""

from __future__ import annotations

from lightning_bench.case import Case
from lightning_bench.measure.gate import pass_gate
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded
from lightning_bench.measure.oracle import Reference
from lightning_bench.models.model_sizes import ModelSize
from lightning_bench.providers.registry.base import Provider


def judge_attention(case: Case, size: ModelSize, provider: Provider, seed: int) -> None:
    """Compare attention and its gradients with fp64 at the batch and length of the case.

    It is the gate of `lbench speed`. Inputs are random, and some pairs of batch entry and head are compared:
    fp64 of all would take longer than the steps. The first layer and the others are judged apart where their
    shapes differ.

    Raises:
        CaseEnded: with status `wrong`, for what `pass_gate` raises.
    """
    shapes = dict.fromkeys(size.layer_shape(case.shape, layer) for layer in (0, 1))
    for shape in shapes:
        inputs = InputSet(shape, seed)
        reference = Reference(provider.family, inputs, gradients=True, seed=seed, every_pair=False)
        try:
            pass_gate(Case(shape, provider.name, "fwd_bwd"), provider, inputs, reference, _stay)
        except CaseEnded as ended:
            if ended.status != "wrong":
                raise
            reason = f"attention at the timed size, head_dim {shape.head_dim}: {ended.reason}"
            raise CaseEnded("wrong", reason) from ended


def _stay(case_id: str, phase: str) -> None:
    """Stay in the phase of the case: that of a layer by itself is not in the sweep."""
