"""The row of a case's memory: what a call adds to inputs that exist already, and keeps for backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lightning_bench.case import Case, Direction
from lightning_bench.families.work import Work
from lightning_bench.measure import paper
from lightning_bench.measure.device.memory import MIB, Meter
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded, Figures
from lightning_bench.measure.session import Session
from lightning_bench.providers.registry.base import Provider


@dataclass(frozen=True)
class CallMemory:
    """Memory of one call in MiB; the fields of a Record of these names. None where it cannot be known."""

    extra_mib: float
    peak_mib: float
    saved_mib: float | None
    reserved_mib: float | None

    @classmethod
    def largest(cls, found: Sequence[CallMemory]) -> CallMemory:
        """Return the largest of each, of calls of one case on several devices."""
        saved = [each.saved_mib for each in found if each.saved_mib is not None]
        reserved = [each.reserved_mib for each in found if each.reserved_mib is not None]
        return cls(
            extra_mib=max(each.extra_mib for each in found),
            peak_mib=max(each.peak_mib for each in found),
            saved_mib=max(saved, default=None),
            reserved_mib=max(reserved, default=None),
        )


def paper_figures(
    figures: Figures, case: Case, provider: Provider, inputs: InputSet, session: Session
) -> Figures:
    """Return the gate's figures with those of protocol paper, in MiB. Raise CaseEnded without a GPU."""
    if session.device != "cuda":
        raise CaseEnded("unsupported", "protocol paper reads CUDA's allocator: needs a CUDA device")
    base = session.meter.settle()
    call = paper.build_call(provider, inputs, case.direction)
    ideal = Work.of(provider.family, case.shape, case.direction).result_bytes / MIB
    return replace(figures, peak_mib=paper.mean_peak_mib(call, base), ideal_mib=ideal)


def memory_figures(figures: Figures, case: Case, provider: Provider, memory: CallMemory) -> Figures:
    """Return the gate's figures with those of a call's memory, in MiB."""
    ideal = Work.of(provider.family, case.shape, case.direction).result_bytes / MIB
    return replace(
        figures,
        extra_mib=memory.extra_mib,
        peak_mib=memory.peak_mib,
        saved_mib=memory.saved_mib,
        reserved_mib=memory.reserved_mib,
        ideal_mib=ideal,
        extra_ratio=memory.extra_mib / ideal,
    )


def call_memory(provider: Provider, inputs: InputSet, direction: Direction, meter: Meter) -> CallMemory:
    """Measure the memory of one call.

    `extra_mib` is the peak that the call adds to what is held before it. `peak_mib` adds what is held:
    q, k, v, the slopes, a family's other inputs, and for a backward pass do, the output and what the forward
    pass saved. `saved_mib` is what the forward pass leaves held besides its output (None for `fwd`, which
    runs under no_grad). A graph is used up by its backward pass, as in training.
    """
    inputs = inputs.of(provider.family)
    given = inputs.given(provider)
    do = inputs.grad_output(provider.layout)
    leaves = [given[name] for name in inputs.gradients]
    forward = provider.build(given)
    held = [given.q, given.k, given.v, given.decay, *given.more.values()]
    held += [do] if direction != "fwd" else []
    input_bytes = sum(x.numel() * x.element_size() for x in held)
    meter.settle()
    saved: float | None = None
    before = 0
    if direction == "fwd":
        with torch.no_grad():
            _, peak = meter.measure(forward)
    else:
        output, forward_peak = meter.measure(forward)
        output_bytes = output.numel() * output.element_size()
        saved = max(0, forward_peak.held - output_bytes) / MIB
        if direction == "bwd":
            before = forward_peak.held
            _, peak = meter.measure(lambda: torch.autograd.grad(output, leaves, do))
        else:
            del output
            meter.settle()
            _, peak = meter.measure(lambda: torch.autograd.grad(forward(), leaves, do))
    return CallMemory(
        extra_mib=peak.peak / MIB,
        peak_mib=(input_bytes + before + peak.peak) / MIB,
        saved_mib=saved,
        reserved_mib=None if peak.reserved is None else peak.reserved / MIB,
    )
