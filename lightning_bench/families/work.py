"""Work: what a case must move and compute at least, and what follows from a device's ceilings.

The models count what any implementation must do, not what a given one does: inputs read once, outputs
written once, and the arithmetic of the family's cheapest exact form. docs/roofline.md derives them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from lightning_bench.case import Direction, Shape
from lightning_bench.families import Definition, definition_of
from lightning_bench.machine.mix import Mix

if TYPE_CHECKING:
    from lightning_bench.machine.ceilings import Ceilings

Bound = Literal["bytes", "flops"]
Count = TypeVar("Count", int, float)

# A figure may exceed the measured ceiling by this factor before it is called impossible: the SM clock moves
# by some per cent, and a kernel that mostly reads or writes may be faster than a copy.
CEILING_TOLERANCE = 1.15
# A bandwidth that was measured with the case's own mix of reads and writes does not depend on either.
MIX_TOLERANCE = 1.05
# A CPU's clocks move by more.
CPU_CEILING_TOLERANCE = 1.5


@dataclass(frozen=True)
class Work:
    """The least work of one family at one shape in one direction, on one device."""

    definition: Definition
    shape: Shape
    direction: Direction

    @classmethod
    def of(cls, family: str, shape: Shape, direction: Direction) -> Work:
        """Return the work of a family by its name. Raise UsageError if this version has no such family.

        Where ranks share the sequences it is that of the rank with the most tokens.
        """
        own = shape.of_rank(0) if shape.is_split else shape
        return cls(definition_of(family), own, direction)

    @property
    def read_bytes(self) -> int:
        """Bytes that must be read: every input, and for a backward pass the gradient of the output too."""
        fwd = self.definition.bytes_of(self.shape, self.definition.inputs)
        return self._in_direction(fwd, fwd + self.shape.output_bytes)

    @property
    def write_bytes(self) -> int:
        """Bytes that must be written: what a call returns, and inputs that it updates."""
        return self.result_bytes + self.definition.bytes_of(self.shape, self.definition.updates)

    @property
    def result_bytes(self) -> int:
        """Bytes that a call returns: the output, the gradients of all inputs that have one, or both."""
        return self._in_direction(self.shape.output_bytes, self._gradient_bytes)

    @property
    def min_bytes(self) -> int:
        """Bytes that must cross device memory.

        Without inputs beyond q, k and v these are 4 U forward and 7 U backward, where U is one
        batch·heads·seq_len·head_dim tensor in the case's dtype, value_dim = head_dim and kv_heads = heads.
        """
        return self.read_bytes + self.write_bytes

    @property
    def mix(self) -> Mix:
        """In which proportion they are read and written."""
        return Mix.nearest(self.read_bytes, self.write_bytes)

    @property
    def min_flops(self) -> float:
        """Floating-point operations of the cheapest exact form; a multiply-add counts as two.

        Those of packed documents are the sum of what each takes by itself.
        """
        if not self.shape.variant.documents:
            return self._in_direction(*self.definition.flops(self.shape))
        alone = replace(self.shape, variant=replace(self.shape.variant, documents=()))
        counts = Counter(self.shape.variant.documents).items()
        each = [(many, self.definition.flops(replace(alone, seq_len=n))) for n, many in counts]
        fwd, bwd = (sum(many * flops[at] for many, flops in each) for at in (0, 1))
        return self._in_direction(fwd, bwd)

    @property
    def plan_bytes(self) -> int:
        """Bytes of memory that a case needs at least: inputs, output and, backward, as much for gradients.

        What calls update is there twice: as it is before each call, and in the pool.
        """
        held = self.shape.output_bytes + sum(
            self.definition.bytes_of(self.shape, names)
            for names in (self.definition.inputs, self.definition.updates)
        )
        return held if self.direction == "fwd" else held + self.shape.output_bytes + self._gradient_bytes

    def floor_ms(self, ceilings: Ceilings) -> float:
        """Return the minimum time in ms: the maximum of what bytes and FLOPs take at their ceilings."""
        return self.floor_at(ceilings.gbps, ceilings.tflops)

    def floor_at(self, gbps: float, tflops: float) -> float:
        """Return that time for a bandwidth in GB/s and a rate in TFLOP/s."""
        return max(self.min_bytes / gbps / 1e6, self.min_flops / tflops / 1e9)

    def bound_by(self, ceilings: Ceilings) -> Bound:
        """Return which of the two sets the floor."""
        bytes_ms = self.min_bytes / ceilings.gbps / 1e6
        return "bytes" if bytes_ms >= self.floor_ms(ceilings) else "flops"

    def impossible(self, median_ms: float, ceilings: Ceilings) -> str | None:
        """Return why a time cannot be true on this device, or None if it can.

        A time is impossible if it implies a rate above a ceiling by more than a tolerance: MIX_TOLERANCE for
        the bandwidth of a mix, else CEILING_TOLERANCE. Reads always cross device memory, because the L2 is
        flushed before each sample. Writes may still be in the L2 when the clock stops, so those that fit
        there are not counted. On a CPU, whose caches hold whole inputs and whose fastest matmul may be in
        another dtype, only the FLOPs of fp32 count.
        """
        if self.shape.device != "cuda":
            return self.too_many_flops(median_ms, ceilings)
        must_move = self.read_bytes + max(0, self.write_bytes - ceilings.l2_bytes)
        gbps, limit = must_move / median_ms / 1e6, ceilings.gbps
        if gbps > limit * (MIX_TOLERANCE if ceilings.mix else CEILING_TOLERANCE):
            stream = f"a stream of {ceilings.mix} reads and writes" if ceilings.mix else "a copy"
            return f"{gbps:.0f} GB/s is above the {limit:.0f} GB/s that {stream} reaches on this device"
        return self.too_many_flops(median_ms, ceilings)

    def too_many_flops(self, median_ms: float, ceilings: Ceilings) -> str | None:
        """Return why a time cannot be true by its FLOPs only, whatever is in caches, or None if it can."""
        tolerance = CEILING_TOLERANCE if self.shape.device == "cuda" else CPU_CEILING_TOLERANCE
        tflops, limit = self.min_flops / median_ms / 1e9, ceilings.tflops
        if tflops <= limit * tolerance or (self.shape.device == "cpu" and self.shape.dtype != "fp32"):
            return None
        digits = ".0f" if limit >= 10 else ".3g"
        return f"{tflops:{digits}} TFLOP/s is above the {limit:{digits}} that a matmul reaches on this device"

    @property
    def _gradient_bytes(self) -> int:
        return self.definition.bytes_of(self.shape, self.definition.gradients)

    def _in_direction(self, fwd: Count, bwd: Count) -> Count:
        return {"fwd": fwd, "bwd": bwd, "fwd_bwd": fwd + bwd}[self.direction]
