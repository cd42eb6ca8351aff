"""Figures of the findings on published speed; the template of each function's name has the sentences."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from lightning_bench.record import Record
from lightning_bench.report.published.evidence import (
    PUBLISHED_DIRECTIONS,
    PUBLISHED_LENGTHS,
    Evidence,
    Fault,
    model_tflops,
    ms,
)
from lightning_bench.report.tables.figures import bytes_floor_ms

_FLA_LENGTHS = tuple(128 * 2**i for i in range(8))


@dataclass(frozen=True)
class AccumulationLine:
    """Times of one backward pass with accumulation (protocol paper) and without (protocol lbench), ms."""

    provider: str
    seq_len: int
    paper_ms: float
    cold_ms: float
    addition_floor_ms: float | None
    forward_difference_ms: float

    @property
    def difference_ms(self) -> float:
        """What the published way takes more."""
        return self.paper_ms - self.cold_ms


@dataclass(frozen=True)
class AccumulatedGradients:
    """Figures of the finding that the published speed of backward includes the sum of gradients."""

    lines: list[AccumulationLine]
    faults: list[Fault]


def accumulated_gradients(evidence: Evidence) -> AccumulatedGradients:
    """Speed, backward: each repeat adds its gradients to those of the repeats before it."""
    lines = []
    for provider, n in product(("lightning-official", "lightning2", "flash2", "xformers"), PUBLISHED_LENGTHS):
        cells = product(reversed(PUBLISHED_DIRECTIONS), ("paper", "lbench"))
        rows = [evidence.here(protocol, "speed", direction, provider, n) for direction, protocol in cells]
        if None in rows or len({row.provider_version for row in rows if row}) > 1:
            continue
        paper, cold, forward_paper, forward_cold = (ms(row) or 0.0 for row in rows)
        moved = bytes_floor_ms(rows[1]) if rows[1] else None  # 7 U; adding up three tensors moves 9 U
        lines.append(
            AccumulationLine(
                provider, n, paper, cold, 9 / 7 * moved if moved else None, forward_paper - forward_cold
            )
        )
    return AccumulatedGradients(lines, evidence.faults("gradient accumulation"))


@dataclass(frozen=True)
class MaskLine:
    """Published and measured times of softmax attention and retention at one length, ms."""

    seq_len: int
    flash_ms: float | None
    retention_ms: float | None
    all_pairs_tflops: float
    half_pairs_tflops: float
    flash2_here_ms: float | None
    chunk_here_ms: float | None

    @property
    def ratio(self) -> float:
        """Published: the time of flash over retention's."""
        return (self.flash_ms or 0.0) / (self.retention_ms or 1.0)

    @property
    def ratio_here(self) -> float | None:
        """Measured here: the time of flash2 over fla-chunk's; None unless both have one."""
        if not self.flash2_here_ms or not self.chunk_here_ms:
            return None
        return self.flash2_here_ms / self.chunk_here_ms


@dataclass(frozen=True)
class NoCausalMask:
    """Figures of the finding that softmax attention was timed without its mask.

    `long` is the published row of a long sequence, `long_tflops` its rate if it computes all pairs of tokens,
    `masked_tflops` the rate of the root README's rows of that length, which have the mask.
    """

    long: Record
    long_tflops: float
    masked_tflops: float
    lines: list[MaskLine]
    faults: list[Fault]

    @property
    def measured_here(self) -> bool:
        """Whether any length of the table was measured here on both sides."""
        return any(line.ratio_here is not None for line in self.lines)


def no_causal_mask(evidence: Evidence) -> NoCausalMask:
    """flash-linear-attention's README: softmax attention without the mask beside causal retention."""
    lines = []
    for n in _FLA_LENGTHS:
        flash = evidence.published("fla-performance", "speed", "fwd_bwd", "flash2", n, batch=8)
        retention = evidence.published("fla-performance", "speed", "fwd_bwd", "retention", n, batch=8)
        lines.append(
            MaskLine(
                seq_len=n,
                flash_ms=ms(flash),
                retention_ms=ms(retention),
                all_pairs_tflops=model_tflops(flash, causal=False),
                half_pairs_tflops=model_tflops(flash, causal=True),
                flash2_here_ms=ms(evidence.here("lbench", "speed", "fwd_bwd", "flash2", n, batch=8)),
                chunk_here_ms=ms(evidence.here("lbench", "speed", "fwd_bwd", "fla-chunk", n, batch=8)),
            )
        )
    faults = evidence.faults("no causal mask")
    long = evidence.published("fla-performance", "speed", "fwd_bwd", "flash2", PUBLISHED_LENGTHS[5], batch=8)
    masked = [
        evidence.published("lightning2", "speed", way, "flash2", PUBLISHED_LENGTHS[5])
        for way in PUBLISHED_DIRECTIONS
    ]
    work = sum(model_tflops(row, causal=True) * (ms(row) or 0.0) for row in masked)
    masked_tflops = work / sum(ms(row) or 0.0 for row in masked)
    return NoCausalMask(long, model_tflops(long, causal=False), masked_tflops, lines, faults)
