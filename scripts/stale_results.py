"""Which committed results are of other kernels, models or floors than the repository's?

Reads CSVs and measures nothing:

    python scripts/stale_results.py                       # results/
    python scripts/stale_results.py results/h200/paper-speed.csv
    python scripts/stale_results.py --github              # and as warnings of a workflow

A row of a bundled provider is stale if its version is not that of the sources in kernels/, unless its own
functions run the code that they ran at the row's commit (scripts/kernel_sources.py); a row of a model, if the
model ran other code at that commit or was of another size; a row with a time, if its least bytes, FLOPs or
``floor_ms`` are not those that the families' definitions give now. This needs the commits, which a shallow
clone lacks. CSVs of the benchmarks are looked at if they have the column ``provider_version``; without a
column ``provider`` all of their rows are of our kernels. One line for each file and reason; exit status 1 if
there is any.
`python -m benchmarks.run_all` measures what is stale.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_bench.cli.shared.sink import Sink
from lightning_bench.errors import UsageError
from lightning_bench.families.work import Work
from lightning_bench.machine.git import is_shallow
from lightning_bench.machine.mix import COPY
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers import get_provider, provider_names
from lightning_bench.providers.bundled import KERNELS, BundledProvider, bundled_version, digest_of
from lightning_bench.record import Record, read_records
from lightning_bench.record.codec import read_cells
from lightning_bench.record.discover import result_files, shown_path
from lightning_bench.record.row import SCHEMA
from lightning_bench.words import counted
from scripts.kernel_sources import same_model, same_sources

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
_CLOSE = 1e-4  # figures are written with 6 to 12 digits


@dataclass(frozen=True)
class Stale:
    """Why rows of one file are stale; `rows` of `total` are, of these providers."""

    path: Path
    reason: str
    rows: int
    total: int
    providers: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.providers)
        return f"{self.rows} of {counted(self.total, 'row')}: {self.reason} ({names})"


def repository_version() -> str:
    """Return the version that rows of the bundled kernels get from the sources of this repository."""
    return bundled_version(digest_of([ROOT / "kernels" / KERNELS]))


def bundled_providers() -> dict[str, BundledProvider]:
    """Return the providers whose version is that of our kernels."""
    providers = {name: get_provider(name) for name in provider_names()}
    return {name: each for name, each in providers.items() if isinstance(each, BundledProvider)}


def stale_results(paths: Sequence[Path]) -> list[Stale]:
    """Return what is stale in these files and folders: result files in order, then CSVs of benchmarks."""
    found = result_files(paths)
    version, bundled = repository_version(), {**bundled_providers(), KERNELS: None}
    stale: list[Stale] = []
    scripts = [path for path in found.files if path in found.named and _of_script(path)]
    for path in found.files:
        if path not in scripts:
            records = read_records(path)
            stale += _grouped(path, len(records), _faults(records, version, bundled))
    in_folders = sorted(file for folder in paths if folder.is_dir() for file in folder.rglob("*.csv"))
    for path in scripts + [file for file in in_folders if file not in found.files]:
        cells = read_cells(path)
        if cells and "provider_version" in cells[0]:
            rows = [
                (row.get("provider", KERNELS), row["provider_version"], row.get("harness_commit", ""))
                for row in cells
            ]
            faults = ((name, _of_version(name, its, at, version, bundled, "")) for name, its, at in rows)
            stale += _grouped(path, len(cells), faults)
    return stale


def _of_script(path: Path) -> bool:
    """Return whether a benchmark wrote the CSV: its columns are not those of a result file."""
    cells = read_cells(path)
    return bool(cells) and not cells[0].keys() >= set(SCHEMA.required)


def _faults(
    records: Iterable[Record], version: str, bundled: Mapping[str, BundledProvider | None]
) -> Iterator[tuple[str, str | None]]:
    for record in records:
        its, at = record.provider_version, record.harness_commit
        yield record.provider, _of_version(record.provider, its, at, version, bundled, record.metric)
        yield record.provider, model_fault(record)
        yield record.provider, floor_fault(record)


def _of_version(
    provider: str,
    its: str,
    commit: str,
    version: str,
    bundled: Mapping[str, BundledProvider | None],
    metric: str,
) -> str | None:
    if provider not in bundled or its == version or not its:
        return None
    known = bundled[provider]
    if known and all(same_sources(function, commit) for function in known.functions(metric)):
        return None
    return f"kernels {its}; those of the repository are {version}"


def model_fault(record: Record) -> str | None:
    """Return that a row with a time is of a model of other code or size, or None.

    Code that git does not know counts as that of the repository.
    """
    size = MODELS.get(record.model)
    if size is None or record.median_ms is None:
        return None
    if same_model(size.architecture, record.harness_commit) is False:
        return "a model that ran other code than the repository's"
    if record.metric == "train":
        its, now = record.model_flops, size.step_flops(record.shape)
    elif record.metric == "generate":
        its, now = record.model_bytes, size.decoding_bytes(record.shape)
    else:
        return None
    same_heads = (record.heads, record.head_dim) == (size.heads, size.head_dim)  # LLaMA's figures do not tell
    if same_heads and (its is None or math.isclose(its, now, rel_tol=_CLOSE)):
        return None
    return "a model of another size, or figures of another definition"


def floor_fault(record: Record) -> str | None:
    """Return why the floor of a row is of another definition, or None; a row without a time has none."""
    if record.metric != "speed" or record.median_ms is None or record.floor_ms is None:
        return None
    try:
        work = Work.of(record.family, record.shape, record.direction)
    except UsageError:
        return f"family {record.family} is not defined any more"
    if record.model_bytes is None or record.model_flops is None:
        return "floor of bytes alone, an older definition"
    if not math.isclose(record.model_bytes, work.min_bytes, rel_tol=_CLOSE):
        return "model_bytes of another definition"
    if not math.isclose(record.model_flops, work.min_flops, rel_tol=_CLOSE):
        return "model_flops of another definition"
    if record.ceiling_gbps is None or record.ceiling_tflops is None:
        return "no ceilings to compute the floor from"
    floor_ms = work.floor_at(record.ceiling_gbps, record.ceiling_tflops)
    if not math.isclose(record.floor_ms, floor_ms, rel_tol=_CLOSE):
        return "floor_ms of another definition"
    if not record.ceiling_of and record.device == "cuda":
        return "floor at the bandwidth of a copy, an older definition"
    if record.ceiling_of not in ("", COPY, str(work.mix)):
        return "floor at the bandwidth of another mix of reads and writes"
    return None


def _grouped(path: Path, total: int, faults: Iterable[tuple[str, str | None]]) -> list[Stale]:
    by_reason: dict[str, list[str]] = {}
    for provider, reason in faults:
        if reason is not None:
            by_reason.setdefault(reason, []).append(provider)
    return [
        Stale(path, reason, len(providers), total, tuple(dict.fromkeys(providers)))
        for reason, providers in by_reason.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is stale; return 1 if anything is, 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, default=[RESULTS], help="files or folders")
    parser.add_argument("--github", action="store_true", help="print workflow commands for warnings too")
    options = parser.parse_args(arguments)
    try:
        stale = stale_results(options.paths)
    except UsageError as error:
        parser.error(str(error))
    sink = Sink()
    if is_shallow(ROOT):
        sink.note("this clone lacks older commits, and so rows may seem stale or not: git fetch --unshallow")
    for each in stale:
        path, text = shown_path(each.path), " ".join(str(each).split())
        sink.line(f"{path}: {text}")
        if options.github:
            sink.command(f"::warning file={path}::{text}")
    if not stale:
        sink.line(f"every row is of the repository's kernels ({repository_version()}), models and floors")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
