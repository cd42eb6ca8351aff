"""Rows of earlier versions of result files, from git: files that are committed have a history already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lightning_bench.errors import UsageError
from lightning_bench.machine.git import run_git
from lightning_bench.machine.scratch import scratch_folder
from lightning_bench.record.frame import load
from lightning_bench.record.row import KEY

_ROW = [*KEY, "time_utc"]


def with_committed(rows: pd.DataFrame, paths: Sequence[Path]) -> pd.DataFrame:
    """Return `rows`, which are those of `paths`, after the rows of every committed version of these paths.

    A row of several versions comes once. Raise UsageError if a path is in no git repository, and for a
    version that cannot be parsed.
    """
    with scratch_folder() as folder:
        for path in paths:
            _write_versions(path, folder)
        earlier = load([folder])
    earlier = earlier.drop_duplicates(_ROW)
    present = pd.MultiIndex.from_frame(rows[_ROW])
    return pd.concat([earlier[~pd.MultiIndex.from_frame(earlier[_ROW]).isin(present)], rows])


def is_shallow(paths: Sequence[Path]) -> bool:
    """Return whether a repository of these paths lacks earlier commits, as a clone with a depth does."""
    return any(_git(path, "rev-parse", "--is-shallow-repository").strip() == "true" for path in paths)


def _write_versions(path: Path, folder: Path) -> None:
    """Write each CSV that a commit has of `path` below `folder`, as COMMIT/NAME; equal ones once."""
    name = "." if path.is_dir() else path.name
    log = _git(path, "log", "--full-history", "--raw", "--no-abbrev", "--relative", "--format=%h", "--", name)
    commit, written = "", set()
    for line in log.splitlines():
        if not line.startswith(":"):
            commit = line or commit
            continue
        place, _, file = line.partition("\t")
        blob = place.split()[3]
        if file.endswith(".csv") and set(blob) != {"0"} and blob not in written:
            written.add(blob)
            target = folder / commit / Path(file).name
            target = target.with_stem(f"{target.stem}-{blob[:12]}")
            target.parent.mkdir(exist_ok=True)
            target.write_text(_git(path, "cat-file", "blob", blob), encoding="utf-8", newline="")


def _git(path: Path, *arguments: str) -> str:
    try:
        done = run_git(path if path.is_dir() else path.parent, *arguments)
    except OSError as error:
        raise UsageError(f"--committed needs git: {error}") from error
    if done.returncode:
        raise UsageError(f"--committed cannot read the history of {path}: {done.stderr.strip()}")
    return done.stdout
