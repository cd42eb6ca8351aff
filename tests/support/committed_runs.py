"""Rows of speed files as committed on several days: the same providers measured again, nothing changed.

`tests/data/committed-speed.csv` is an extract of `results/h200/` at some commits of this repository, so that
the tests do not need its history: rows with a time, of cases and versions that are in two of them, without
columns that `lbench compare` does not read. With the history, `python -m tests.support.committed_runs` writes
it again.
"""

from __future__ import annotations

import csv
import io
import itertools
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from lightning_bench.comparison.sides import Side, read_side
from lightning_bench.record import Record, ResultFile
from tests.support.paths import ROOT

PATH = ROOT / "tests" / "data" / "committed-speed.csv"
COMMITS = {
    "paper-speed": ("3601cfd", "de10938", "dd9f2e7", "0d88746"),
    "parallelism-speed": ("de10938", "dd9f2e7", "0d88746"),
    "dims-speed": ("de10938", "0d88746"),
}
PAIRS = [(name, *pair) for name, commits in COMMITS.items() for pair in itertools.combinations(commits, 2)]
_COLUMNS = (
    "status",
    "case_id",
    "provider",
    "family",
    "provider_version",
    "direction",
    "dtype",
    "batch",
    "heads",
    "seq_len",
    "head_dim",
    "value_dim",
    "median_ms",
    "ci_low_ms",
    "ci_high_ms",
    "samples",
    "machine_id",
    "time_utc",
)
_CONSTANT = {"metric": "speed", "protocol": "lbench", "device": "cuda", "harness_version": "0.1.0"}
_FIGURES = ("median_ms", "ci_low_ms", "ci_high_ms")


def extract() -> list[dict[str, str]]:
    """Return the rows of the extract from the history. Raises CalledProcessError in a shallow clone."""
    rows = []
    for name, commits in COMMITS.items():
        files = {commit: _at(commit, f"results/h200/{name}.csv") for commit in commits}
        times = Counter(
            (row["case_id"], row["provider_version"])
            for found in files.values()
            for row in found
            if row["median_ms"]
        )
        for commit, found in files.items():
            for row in found:
                if row["median_ms"] and times[row["case_id"], row["provider_version"]] > 1:
                    assert {key: row[key] for key in _CONSTANT} == _CONSTANT, row
                    kept = {key: row[key] for key in _COLUMNS}
                    short = {key: f"{float(row[key]):.6g}" for key in _FIGURES}
                    rows.append({"file": name, "commit": commit} | kept | short)
    return rows


def _at(commit: str, path: str) -> list[dict[str, str]]:
    command = ["git", "show", f"{commit}:{path}"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return list(csv.DictReader(io.StringIO(text)))


def committed() -> list[dict[str, str]]:
    """Return the rows of the extract."""
    with PATH.open(newline="") as file:
        return list(csv.DictReader(file))


def sides(
    rows: list[dict[str, str]], name: str, commits: tuple[str, str], folder: Path, factor: float = 1.0
) -> tuple[Side, Side]:
    """Write one file at two commits, and read both: providers of one version; head's times by `factor`."""
    chosen = [[row for row in rows if (row["file"], row["commit"]) == (name, commit)] for commit in commits]
    versions = [{(row["provider"], row["provider_version"]) for row in side} for side in chosen]
    changed = {provider for provider, _ in versions[0] ^ versions[1]}
    read = []
    for commit, side, by in zip(commits, chosen, (1.0, factor), strict=True):
        path = folder / f"{name}-{commit}-{by}.csv"
        with ResultFile(path, fresh=True) as file:
            for row in side:
                if row["provider"] not in changed:
                    file.append(_record(row, by))
        read.append(read_side(path))
    return read[0], read[1]


def _record(row: dict[str, str], factor: float) -> Record:
    given: dict[str, Any] = _CONSTANT | {key: row[key] for key in _COLUMNS}
    given |= {key: int(row[key]) for key in ("batch", "heads", "seq_len", "head_dim", "value_dim", "samples")}
    given |= {key: factor * float(row[key]) for key in _FIGURES}
    return Record(**given)


def main() -> None:
    """Write the extract from the history."""
    rows = extract()
    PATH.parent.mkdir(exist_ok=True)
    with PATH.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "commit", *_COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
