"""Which targets of the bundled Lightning Attention-2 kernels do committed results reach?

Reads CSVs that ``lbench speed`` and ``lbench memory`` wrote and measures nothing:

    python scripts/kernel_targets.py results/h200/paper-speed.csv results/h200/dims-speed.csv ...

Every figure is a ratio within one file: median over ``floor_ms`` of the row, that is 4 U forward and 7 U
backward; median of fla's faster kernel over that of lightning2, in the suites dims and layers in bf16; of
memory files what a call adds, without the workspace by which segments exchange states, over its results. One
line a cell, the least allowed or the most allowed, the goal where there is one, and the verdict; ``*`` marks
rows of status ``unstable``. Exit status 1 if anything that must be reached is missed or in none of the files;
these are named at the end.
"""

from __future__ import annotations

import argparse
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lightning_bench.record import Record, latest, read_records
from lightning_kernels.lightning2.cuts import hopper_launch

OURS, PEERS, SOFTMAX_PEER = "lightning2", ("fla-chunk", "fla-fused-chunk"), "sdpa-cudnn"
PEER_SUITES, PEER_DTYPES = ("dims", "layers"), ("bf16",)
GEOMEAN_MUST, MEMORY_MUST = 2.5, 1.02
H200_PROCESSORS = 132


@dataclass(frozen=True)
class FloorTarget:
    """How many times ``floor_ms`` the cells of one kind may take in bf16."""

    name: str
    direction: str
    batch: int
    heads: int
    head_dim: int
    lengths: Callable[[int], bool]
    must: float
    goal: float

    def takes(self, row: Record) -> bool:
        """Whether the row is one of the cells."""
        here = (row.direction, row.batch, row.heads, row.head_dim, row.value_dim, row.dtype)
        there = (self.direction, self.batch, self.heads, self.head_dim, self.head_dim, "bf16")
        return here == there and self.lengths(row.seq_len)


FLOOR_TARGETS = (
    FloorTarget("fwd over floor", "fwd", 4, 32, 128, lambda n: n >= 4096, 1.25, 1.10),
    FloorTarget("bwd over floor", "bwd", 4, 32, 128, lambda n: n >= 4096, 1.9, 1.5),
    FloorTarget("long fwd over floor", "fwd", 1, 16, 128, lambda n: n == 131072, 1.4, 1.2),
    FloorTarget("long bwd over floor", "bwd", 1, 16, 128, lambda n: n == 131072, 2.3, 1.7),
    FloorTarget("d64 fwd over floor", "fwd", 4, 32, 64, lambda n: n == 8192, 1.3, 1.15),
)
SHORT = FloorTarget("n=512 fwd over sdpa-cudnn", "fwd", 4, 32, 128, lambda n: n == 512, 1.0, math.nan)
PEER, GEOMEAN, MEMORY = "faster peer over ours", "geometric mean over peers", "memory over results"
EXPECTED = (
    *(target.name for target in FLOOR_TARGETS), SHORT.name,
    *(f"{name} {direction}" for name in (PEER, GEOMEAN, MEMORY) for direction in ("fwd", "bwd")),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the table; ``reached`` is None where lightning2 has no figure."""

    target: str
    cell: str
    reached: float | None
    must: float
    at_least: bool = False
    goal: float | None = None

    @property
    def ok(self) -> bool:
        """Whether what must be reached is."""
        compare = operator.ge if self.at_least else operator.le
        return self.reached is not None and compare(self.reached, self.must)

    def line(self) -> str:
        """Return the line as it is printed."""
        reached = "-" if self.reached is None else f"{self.reached:.3f}"
        goal = "" if self.goal is None else f"{self.goal:g}"
        must = f"{'≥' if self.at_least else '≤'} {self.must:g}"
        verdict = "ok" if self.ok else "MISSED"
        return f"{self.target:30} {self.cell:56} {reached:>8} {must:>7} {goal:>5}  {verdict}"


def cell_of(row: Record) -> str:
    """Describe a row, with a mark if it is unstable and its status if it has no figure."""
    mark = {"ok": "", "unstable": " *"}.get(row.status, f" ({row.status})")
    return f"{row.case_id.split('/', 1)[1]}{mark}"


def over_floor(rows: list[Record]) -> Iterator[Finding]:
    """Return the targets that are multiples of the floor."""
    for target in FLOOR_TARGETS:
        for row in filter(target.takes, rows):
            if row.provider == OURS:
                timed = row.median_ms is not None and row.floor_ms
                reached = row.median_ms / row.floor_ms if timed else None
                yield Finding(target.name, cell_of(row), reached, target.must, goal=target.goal)


def rivals(rows: list[Record], providers: Iterable[str], like: Record) -> dict[str, Record]:
    """Rows of providers in the cell of ``like`` and on its machine, but for those that are not installed."""
    cell, machine = like.case_id.split("/", 1)[1], like.machine_id
    return {
        row.provider: row for row in rows
        if row.provider in providers and row.status != "unavailable"
        and row.case_id.split("/", 1)[1] == cell and row.machine_id == machine
    }  # fmt: skip


def short_sequences(rows: list[Record]) -> Iterator[Finding]:
    """At n = 512, our time over cuDNN's."""
    for row in filter(SHORT.takes, rows):
        peer = rivals(rows, (SOFTMAX_PEER,), row).get(SOFTMAX_PEER)
        if row.provider == OURS and peer and peer.median_ms:
            reached = None if row.median_ms is None else row.median_ms / peer.median_ms
            yield Finding(SHORT.name, cell_of(row), reached, SHORT.must)


def against_peers(rows: list[Record]) -> Iterator[Finding]:
    """How many times as fast as the faster of the linear peers, where one of them has a figure.

    A cell that lacks the row of a peer is missed: nobody knows which is the faster.
    """
    for row in rows:
        judged = row.provider == OURS and row.suite in PEER_SUITES and row.dtype in PEER_DTYPES
        if not judged or row.direction not in ("fwd", "bwd"):
            continue
        there = rivals(rows, PEERS, row)
        lacking = ", ".join(name for name in PEERS if name not in there)
        times = [peer.median_ms for peer in there.values() if peer.median_ms is not None]
        if times or lacking:
            cell = f"{cell_of(row)} (no {lacking})" if lacking else cell_of(row)
            reached = None if lacking or row.median_ms is None else min(times) / row.median_ms
            yield Finding(f"{PEER} {row.direction}", cell, reached, 1.0, at_least=True)


def geometric_means(findings: list[Finding]) -> Iterator[Finding]:
    """Return the means over all cells of `against_peers` that have a figure."""
    for direction in ("fwd", "bwd"):
        logs = [math.log(f.reached) for f in findings if f.target == f"{PEER} {direction}" and f.reached]
        if logs:
            mean = math.exp(math.fsum(logs) / len(logs))
            yield Finding(f"{GEOMEAN} {direction}", f"{len(logs)} cells", mean, GEOMEAN_MUST, at_least=True)


def workspace_mib(row: Record) -> float:
    """Return the memory by which segments of a sequence exchange states in the cell of a row, MiB."""
    sequences, backward = row.batch * row.heads, row.direction == "bwd"
    elements = sequences * row.seq_len * row.head_dim
    cut = hopper_launch(
        row.head_dim, row.value_dim, backward, sequences, row.seq_len, H200_PROCESSORS, elements
    )
    return cut.workspace_bytes / 2**20


def memory(rows: list[Record]) -> Iterator[Finding]:
    """Return what a call adds without workspace over its results, in every cell that the kernels take."""
    for row in rows:
        if row.provider == OURS and row.direction in ("fwd", "bwd") and row.status != "unsupported":
            known = row.extra_mib is not None and row.ideal_mib
            reached = (row.extra_mib - workspace_mib(row)) / row.ideal_mib if known else None
            yield Finding(f"{MEMORY} {row.direction}", cell_of(row), reached, MEMORY_MUST)


def findings_of(path: Path) -> Iterator[Finding]:
    """Return the lines of one file."""
    records = [row for row in latest(read_records(path)) if row.protocol == "lbench"]
    speed = [row for row in records if row.metric == "speed"]
    for judge in (over_floor, short_sequences, against_peers):
        yield from judge(speed)
    yield from memory([row for row in records if row.metric == "memory"])


def main(arguments: list[str] | None = None) -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="CSVs of lbench speed and lbench memory")
    findings = [finding for path in parser.parse_args(arguments).files for finding in findings_of(path)]
    findings += geometric_means(findings)
    findings.sort(key=lambda finding: EXPECTED.index(finding.target))
    print(f"{'target':30} {'cell':56} {'reached':>8} {'must':>7} {'goal':>5}")
    for finding in findings:
        print(finding.line())
    missed = [f"missed: {finding.target}, {finding.cell}" for finding in findings if not finding.ok]
    found = {finding.target for finding in findings}
    missed += [f"in none of the files: {name}" for name in EXPECTED if name not in found]
    print("\n".join(["", *missed] if missed else ["", "all that must be reached is"]))
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
