"""Figures of the findings on published memory; the template of each function's name has the sentences."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product

from lightning_bench.case import Direction
from lightning_bench.report.published.counterparts import same_kernel
from lightning_bench.report.published.evidence import (
    PUBLISHED_DIRECTIONS,
    PUBLISHED_LENGTHS,
    Evidence,
    first_peak_mib,
    gradients_mib,
    mib,
    ms,
    paper_peak_mib,
    their_title,
)
from lightning_bench.report.published.prose import measured_text

_COLUMNS = ("lightning2", "flash2", "xformers")  # of the tables of the root README


@dataclass(frozen=True)
class RenamedLine:
    """Published and measured memory of one direction and length, MiB."""

    direction: Direction
    seq_len: int
    lightning2_mib: float | None
    without_decay_mib: float | None
    flash2_mib: float | None
    xformers_mib: float | None
    root_readme_mib: float | None
    here_mib: float | None


@dataclass(frozen=True)
class RenamedColumns:
    """Figures of the finding that two memory columns are xFormers under another name."""

    lines: list[RenamedLine]

    @property
    def same_columns(self) -> list[str]:
        """The columns that equal xFormers' in every cell."""
        columns = {
            "lightning2": [line.lightning2_mib for line in self.lines],
            "lightning2-no-decay": [line.without_decay_mib for line in self.lines],
            "flash2": [line.flash2_mib for line in self.lines],
        }
        xformers = [line.xformers_mib for line in self.lines]
        return [name for name, column in columns.items() if column == xformers]

    @property
    def equal_without_decay(self) -> int:
        """In how many cells the column without decay equals xFormers'."""
        return sum(line.without_decay_mib == line.xformers_mib for line in self.lines)


def renamed_columns(evidence: Evidence) -> RenamedColumns:
    """Memory of benchmarks/README.md: two of its columns are xFormers under another name."""

    def printed(direction: Direction, n: int, column: str) -> float | None:
        return mib(evidence.published("lightning2-benchmarks", "memory", direction, column, n))

    return RenamedColumns(
        [
            RenamedLine(
                direction=direction,
                seq_len=n,
                lightning2_mib=printed(direction, n, "lightning2"),
                without_decay_mib=printed(direction, n, "lightning2-no-decay"),
                flash2_mib=printed(direction, n, "flash2"),
                xformers_mib=printed(direction, n, "xformers"),
                root_readme_mib=mib(evidence.published("lightning2", "memory", direction, "lightning2", n)),
                here_mib=mib(evidence.here("paper", "memory", direction, same_kernel("lightning2"), n)),
            )
            for direction, n in product(PUBLISHED_DIRECTIONS, PUBLISHED_LENGTHS)
        ]
    )


@dataclass(frozen=True)
class Reproduced:
    """Cells of the root README's memory tables that were measured here by the script's method.

    `equal` is in how many all six decimals agree; `different` counts the others by column and direction.
    """

    cells: int
    equal: int
    different: dict[str, int]


def reproduced(evidence: Evidence) -> Reproduced:
    """Compare the memory tables of the root README with the rows here."""
    cells, different = 0, Counter[str]()
    for direction, n, column in product(PUBLISHED_DIRECTIONS, PUBLISHED_LENGTHS, _COLUMNS):
        here = mib(evidence.here("paper", "memory", direction, same_kernel(column), n))
        printed = mib(evidence.published("lightning2", "memory", direction, column, n))
        if here is not None:
            cells += 1
            if measured_text(here, 6) != measured_text(printed, 6):
                different[f"{column} {direction}"] += 1
    return Reproduced(cells, cells - different.total(), dict(different))


@dataclass(frozen=True)
class TitledLine:
    """What two published tables of one title print, and the peak that was measured here."""

    direction: Direction
    column: str
    seq_len: int
    speed_ms: float | None
    memory_mib: float | None
    here_mib: float | None


@dataclass(frozen=True)
class MemoryTitledSpeed:
    """Figures of the finding that two memory tables have the titles of speed."""

    titles: list[str]
    reason: str
    reproduced: Reproduced
    lines: list[TitledLine]


def memory_titled_speed(evidence: Evidence) -> MemoryTitledSpeed:
    """Root README: four tables, two titles."""
    lines = [
        TitledLine(
            direction=direction,
            column=column,
            seq_len=n,
            speed_ms=ms(evidence.published("lightning2", "speed", direction, column, n)),
            memory_mib=mib(evidence.published("lightning2", "memory", direction, column, n)),
            here_mib=mib(evidence.here("paper", "memory", direction, same_kernel(column), n)),
        )
        for direction, column, n in product(
            PUBLISHED_DIRECTIONS, _COLUMNS, (PUBLISHED_LENGTHS[0], PUBLISHED_LENGTHS[-1])
        )
    ]
    return MemoryTitledSpeed(
        titles=[their_title(evidence, direction) for direction in PUBLISHED_DIRECTIONS],
        reason=evidence.published("lightning2", "memory", "fwd", "lightning2", PUBLISHED_LENGTHS[0]).reason,
        reproduced=reproduced(evidence),
        lines=lines,
    )


@dataclass(frozen=True)
class XformersLine:
    """Mean peak of xFormers' backward as published and as measured here, MiB.

    `least_mib` is what the method gives a kernel that allocates its results only.
    """

    seq_len: int
    published_mib: float
    here_mib: float | None
    least_mib: float

    @property
    def ratio(self) -> float | None:
        """Here over published; None if one has no figure."""
        return self.here_mib / self.published_mib if self.here_mib and self.published_mib else None

    @property
    def published_scratch_mib(self) -> float:
        """What was published above the least."""
        return self.published_mib - self.least_mib

    @property
    def here_scratch_mib(self) -> float | None:
        """What was measured here above the least."""
        return self.here_mib - self.least_mib if self.here_mib else None


@dataclass(frozen=True)
class XformersThenAndNow:
    """Figures of the finding that xFormers' backward kernel takes less memory than it did."""

    reproduced: Reproduced
    version: str
    lines: list[XformersLine]


def xformers_then_and_now(evidence: Evidence) -> XformersThenAndNow:
    """Memory of xFormers' memory-efficient backward kernel: less scratch memory than it took."""
    lines = []
    version = ""
    for n in PUBLISHED_LENGTHS:
        printed = evidence.published("lightning2", "memory", "bwd", "xformers", n)
        row = evidence.here("paper", "memory", "bwd", "xformers", n)
        version = row.provider_version if row else version
        lines.append(XformersLine(n, mib(printed) or 0.0, mib(row), paper_peak_mib(printed)))
    return XformersThenAndNow(reproduced(evidence), version, lines)


@dataclass(frozen=True)
class PeakLine:
    """The mean of the peaks of 20 backward calls at one length, computed and measured, MiB."""

    seq_len: int
    first_mib: float
    later_mib: float
    paper_mib: float
    published_mib: float | None
    here_mib: float | None
    one_call_mib: float | None

    @property
    def mean_mib(self) -> float:
        """The mean of the first call and 19 later ones."""
        return (self.first_mib + 19 * self.later_mib) / 20

    @property
    def slopes_mib(self) -> float:
        """What the slopes take beside them."""
        return self.paper_mib - self.mean_mib


@dataclass(frozen=True)
class MeanOfPeaks:
    """Figures of the finding on where 173.600488 comes from; `example` is the line of that figure."""

    lines: list[PeakLine]

    @property
    def example(self) -> PeakLine:
        """The shortest length."""
        return self.lines[0]


def mean_of_peaks(evidence: Evidence) -> MeanOfPeaks:
    """Where 173.600488 comes from."""
    lines = []
    for n in PUBLISHED_LENGTHS:
        printed = evidence.published("lightning2", "memory", "bwd", "lightning2", n)
        first = first_peak_mib(printed)
        lines.append(
            PeakLine(
                seq_len=n,
                first_mib=first,
                later_mib=first + gradients_mib(printed),
                paper_mib=paper_peak_mib(printed),
                published_mib=mib(printed),
                here_mib=mib(evidence.here("paper", "memory", "bwd", same_kernel("lightning2"), n)),
                one_call_mib=mib(evidence.here("lbench", "memory", "bwd", same_kernel("lightning2"), n)),
            )
        )
    return MeanOfPeaks(lines)
