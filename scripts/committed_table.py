"""The tables of files in results/h200, results/h200-x2 and results/cpu: how they are made, what they hold.

The commands are those of benchmarks/committed_files.py; rows, kernels and commits are what the files say.
`python -m scripts.docs_tables --write` puts the tables into the READMEs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.committed_files import CPU_FILES, FILES, CommittedFile
from lightning_bench.providers.bundled import KERNELS
from lightning_bench.record.codec import read_cells
from lightning_bench.words import counted
from scripts.stale_results import bundled_providers

RESULTS = Path(__file__).parents[1] / "results"
HEAD = ("file", "made by", "has", "of our kernels", "at commit")
NONE = "–"


def lines(folder: str) -> Iterator[tuple[str, ...]]:
    """Yield a line for each file of a folder of results/, in order of importance."""
    for file in (*FILES, *CPU_FILES):
        if file.folder == folder:
            yield file.inside, file.shown(), *contents(file)


def contents(file: CommittedFile) -> tuple[str, str, str]:
    """Return how many rows or cases the file has, of which versions of our kernels, at which commits."""
    cells = read_cells(RESULTS / file.path)
    if not cells:
        return "not measured yet", NONE, NONE
    ours = {*bundled_providers(), KERNELS}
    versions = dict.fromkeys(
        row["provider_version"]
        for row in cells
        if row.get("provider_version") and row.get("provider", KERNELS) in ours
    )
    commits = Counter(row["harness_commit"] for row in cells if row.get("harness_commit"))
    counts = [f"{commit} ({count})" for commit, count in commits.items()]
    return (
        _has(file, cells),
        ", ".join(versions) or NONE,
        ", ".join(counts if len(counts) > 1 else commits) or NONE,
    )


def _has(file: CommittedFile, cells: list[dict[str, str]]) -> str:
    if not file.cases:
        return counted(len(cells), "row")
    measured = {row["case_id"] for row in cells}
    others = len(measured.difference(file.cases))
    known = f"{len(measured) - others} of {counted(len(file.cases), 'case')}"
    return f"{known}, {others} others" if others else known
