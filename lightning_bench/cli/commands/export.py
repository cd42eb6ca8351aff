"""`lbench export`: rows in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightning_bench.case import Metric
from lightning_bench.cli.shared.common_options import Quiet, Results, known
from lightning_bench.cli.shared.completion import one_of
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.words import counted


def _formats() -> tuple[str, ...]:
    from lightning_bench.exchange.exports import EXPORT_NAMES

    return EXPORT_NAMES


def export(
    results: Results = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="json: every column; parquet: the same, with pyarrow; pytorch: JSON lines of PyTorch's "
            "benchmark database, schema v3; bencher: Bencher Metric Format. Default: parquet if --out ends "
            "so, else json.",
            autocompletion=one_of(_formats),
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Only rows of speed, memory or check.",
            autocompletion=one_of(("speed", "memory", "check")),
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write. Default: standard output.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the rows of result CSVs in another format."""
    from typing import get_args

    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.exchange.exports import EXPORT_NAMES, EXPORTS
    from lightning_bench.record import read_rows
    from lightning_bench.record.lock import refuse_file

    if to is None:
        to = "parquet" if out is not None and out.suffix == ".parquet" else "json"
    name = known("--to", to, EXPORT_NAMES)
    wanted = None if metric is None else known("--metric", metric, get_args(Metric))
    chosen = EXPORTS[name]
    if out is not None:
        refuse_file(out)
    elif chosen.binary:
        raise UsageError(f"--to {name} is not text: give --out FILE")
    records = [
        row.record
        for row in read_rows(results or [Path("results")]).rows
        if wanted in (None, row.record.metric)
    ]
    if not records:
        raise UsageError("there is no row to export: give files or folders with rows, or another --metric")
    content = chosen.encode(records)
    sink = Sink(quiet=quiet)
    if out is None:
        sink.raw(content.decode())
    else:
        try:
            out.write_bytes(content)
        except OSError as error:
            raise LbenchError(f"cannot write {out}: {error.strerror}") from error
        sink.say(f"wrote {counted(len(records), 'row')} to {out}")
    without = sum(not record.worked for record in records)
    if chosen.figures_only and without:
        sink.say(f"{counted(without, 'row')} without a figure are left out: the format has no place for them")
