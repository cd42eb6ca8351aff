"""Rows in other formats: one module per format, each a function from records to the bytes of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_bench.exchange.exports.bencher import bencher_metrics
from lightning_bench.exchange.exports.json_rows import json_rows
from lightning_bench.exchange.exports.parquet import parquet_table
from lightning_bench.exchange.exports.pytorch_v3 import pytorch_lines
from lightning_bench.record import Record

ExportName = Literal["json", "parquet", "pytorch", "bencher"]
EXPORT_NAMES: tuple[ExportName, ...] = get_args(ExportName)


@dataclass(frozen=True)
class ExportFormat:
    """How records become a file: `encode` gives its bytes, `binary` says that no terminal can show them.

    With `figures_only` a row without a figure has no place in the format and is left out.
    """

    encode: Callable[[Sequence[Record]], bytes]
    binary: bool = False
    figures_only: bool = False


EXPORTS: dict[ExportName, ExportFormat] = {
    "json": ExportFormat(json_rows),
    "parquet": ExportFormat(parquet_table, binary=True),
    "pytorch": ExportFormat(pytorch_lines, figures_only=True),
    "bencher": ExportFormat(bencher_metrics, figures_only=True),
}
