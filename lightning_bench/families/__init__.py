"""What each family computes: its inputs, its fp64 oracle, its operations. Importing this imports no torch."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from lightning_bench.case import FAMILIES
from lightning_bench.errors import UsageError
from lightning_bench.families.definition import Definition, Problem
from lightning_bench.families.spec import QKV, Spec

__all__ = ["DEFINED", "QKV", "Definition", "Problem", "Spec", "definition_of"]

DEFINED: dict[str, str] = {
    "linear_decay": "LinearDecay",
    "linear": "Linear",
    "softmax": "Softmax",
    "softmax_full": "SoftmaxFull",
    "retention": "Retention",
    "gla": "Gla",
    "based": "Based",
    "rwkv6": "Rwkv6",
    "abc": "Abc",
    "mamba2": "Mamba2",
    "gated_delta": "GatedDelta",
    "kda": "Kda",
    "gateloop": "GateLoop",
    "gateloop_complex": "GateLoopComplex",
    "vq": "VqAttention",
    "transnormer": "TransNormer",
    "norm": "Norm",
    "serving": "ServedDecay",
    "drafting": "Drafting",
}
"""The class of each family of `case.Family`; it is in the module of the family's name in this folder."""


@cache
def definition_of(family: str) -> Definition:
    """Return the definition of a family. Raise UsageError for a name that this version does not know."""
    if family not in DEFINED:
        raise UsageError(f"this version knows no family {family!r}; families are {', '.join(FAMILIES)}")
    defined: Definition = getattr(import_module(f"{__name__}.{family}"), DEFINED[family])()
    return defined
