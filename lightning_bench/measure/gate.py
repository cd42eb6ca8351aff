"""The correctness gate: nothing is timed that does not agree with fp64 on the inputs that are timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lightning_bench.case import Case
from lightning_bench.families import definition_of
from lightning_bench.measure.audit import Audit
from lightning_bench.measure.autotuned import AutotuneWatch
from lightning_bench.measure.calls import DirectionCall, direction_call
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded, Enter, Figures
from lightning_bench.measure.likeness import plain_tensor
from lightning_bench.measure.oracle import Reference
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Provider

TENSORS = ("o", "dq", "dk", "dv")
"""The tensors with an error column of their own, besides `state`; all other gradients share `error_dgate`."""


@dataclass(frozen=True)
class Gated:
    """A case that has passed: its call, the watch over further calls, and the figures of its row so far."""

    case: Case
    provider: Provider
    call: DirectionCall
    audit: Audit
    figures: Figures


class InputsChangedError(CaseEnded):
    """A provider has written to its inputs: the case is wrong, and the inputs need their values back."""


def pass_gate(
    case: Case,
    provider: Provider,
    common: InputSet,
    reference: Reference,
    enter: Enter,
    build: Callable[[], DirectionCall] | None = None,
) -> Gated:
    """Build the call of a case, by `build` if that is given, run it once and compare its results with fp64.

    Raises CaseEnded with status `wrong` if they differ by more than the budget, have another dtype or shape,
    or if the call has changed its inputs (then InputsChangedError).
    """
    enter(case.id, "warm-up")
    inputs = common.of(provider.family)
    common.own_signs()
    inputs.pool(provider)  # before its bytes are noted
    inputs.note_bytes(provider.layout)
    tuned = AutotuneWatch()
    with poisoned(inputs, gradients=case.direction != "fwd"):
        call = direction_call(provider, common, case.direction) if build is None else build()
        got = call.tensors()
    enter(case.id, "check")
    if reason := inputs.written(provider.layout):
        raise InputsChangedError("wrong", reason)
    if reason := GUARD.replaced():
        raise CaseEnded("wrong", reason)
    odd = [reason for name, x in got.items() if (reason := plain_tensor(name, x)) is not None]
    if reason := "; ".join(odd) or inputs.aliased(got, provider.layout):
        raise CaseEnded("wrong", reason)
    dtype = torch_dtype(case.shape.dtype)
    given = inputs.inputs(provider.layout)
    wanted = {"o": dtype, **{f"d{name}": given[name].dtype for name in inputs.gradients}}
    wanted |= {name: given[name].dtype for name in definition_of(provider.family).updates}
    if dtypes := [f"{name} is {x.dtype}" for name, x in got.items() if x.dtype != wanted[name]]:
        raise CaseEnded("wrong", f"{', '.join(dtypes)}, not {dtype}")
    result = judge(reference, got, provider.layout)
    errors, named = result.errors, {*TENSORS, "state"}
    figures = Figures(
        provider_config=" ".join(filter(None, [provider.config(case.shape, case.direction), tuned.chosen()])),
        error_o=errors.get("o"),
        error_dq=errors.get("dq"),
        error_dk=errors.get("dk"),
        error_dv=errors.get("dv"),
        error_state=errors.get("state"),
        error_dgate=max((error for name, error in errors.items() if name not in named), default=None),
        error_budget=result.budget,
        seed=reference.seed,
    )
    if result.failure:
        raise CaseEnded("wrong", result.failure, figures)
    first = {name: x for name, x in got.items() if name not in call.kept()}
    return Gated(case, provider, call, Audit(case, provider, call, common, reference, first), figures)


@contextmanager
def poisoned(inputs: InputSet, *, gradients: bool) -> Iterator[None]:
    """Reveal rows that are never written: memory of new outputs holds NaN, not an earlier right answer.

    A GPU's allocator reuses the blocks that are filled and freed here. A CPU's promises no such order, so
    torch itself fills all uninitialized memory there.
    """
    if inputs.shape.device == "cpu":
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("warn")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
        return
    given = inputs.inputs("bhnd")
    like = [inputs.do, *([given[name] for name in inputs.gradients] if gradients else [])]
    junk = [torch.full_like(x, math.nan, requires_grad=False) for x in like]
    del junk
    yield
