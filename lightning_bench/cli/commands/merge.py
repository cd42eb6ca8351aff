"""`lbench merge`: the files of a sweep's shards as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightning_bench.cli.shared.common_options import OUTPUT_PANEL, Json, Quiet
from lightning_bench.errors import UsageError
from lightning_bench.words import counted


def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="FILES", help="CSVs of lbench.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV to write; an existing file is set aside. Default: the shards' name without -shardIofN.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one file with one row per case; different rows of a case are an error."""
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.record import ResultFile
    from lightning_bench.record.merge import (
        merge_rows,
        merged_path,
        missing_shards,
        shard_counts,
        write_merged,
    )

    merged = merge_rows(shards)
    path = out or merged_path(shards)
    if path.resolve() in {shard.resolve() for shard in shards}:
        raise UsageError(f"{path} is one of the files to merge: give another --out")
    sink = Sink(as_json=as_json, quiet=quiet)
    with ResultFile(path, fresh=True) as file:
        if file.moved:
            sink.say(f"the earlier results are now {file.moved}")
        write_merged(merged, file)
    missing = missing_shards(shards)
    if missing:
        sink.say(f"missing: shard {', '.join(missing)}")
    counts = shard_counts(shards)
    if len(counts) > 1:
        sink.say(f"the shards are parts of {' and of '.join(map(str, counts))}: cases may be missing")
    kinds = sorted({record.device_name for record in merged.records if record.device_name})
    if len({record.machine_id for record in merged.records}) > 1:
        sink.say(f"the rows are of machines of several kinds: {', '.join(kinds)}")
    if as_json:
        sink.data({"results": str(path), "rows": len(merged.records), "missing_shards": missing})
    sink.say(f"{counted(len(merged.records), 'row')} of {counted(len(shards), 'file')}: {path}")
