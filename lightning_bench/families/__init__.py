"""What each family computes: its inputs, its fp64 oracle, its operations. Importing this imports no torch."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from lightning_bench.case import FAMILIES
from lightning_bench.errors import UsageError
from lightning_bench.families.base import QKV, Definition, Problem, Spec

__all__ = ["DEFINED", "QKV", "Definition", "Problem", "Spec", "definition"]

DEFINED: dict[str, str] = {
    "linear_decay": "linear:LinearDecay",
    "linear": "linear:Linear",
    "softmax": "softmax:Softmax",
    "softmax_full": "softmax:SoftmaxFull",
    "retention": "linear:Retention",
    "gla": "gated:Gla",
    "based": "based:Based",
    "rwkv6": "gated:Rwkv6",
    "abc": "slots:Abc",
    "mamba2": "gated:Mamba2",
    "gated_delta": "delta:GatedDelta",
    "kda": "delta:Kda",
    "gateloop": "gateloop:GateLoop",
    "gateloop_complex": "gateloop:GateLoopComplex",
    "vq": "vq:VqAttention",
    "transnormer": "transnormer:TransNormer",
    "norm": "norm:Norm",
}
"""Each family of ``case.Family`` to ``module:Class``."""


@cache
def definition(family: str) -> Definition:
    """The definition of a family. Raises UsageError for a name that this version does not know."""
    if family not in DEFINED:
        raise UsageError(f"this version knows no family {family!r}; families are {', '.join(FAMILIES)}")
    module, _, attribute = DEFINED[family].partition(":")
    made: Definition = getattr(import_module(f"{__name__}.{module}"), attribute)()
    return made
