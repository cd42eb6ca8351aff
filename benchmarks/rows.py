"""The CSV that every script here writes, and the argument of those that take no other; a made-up row."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_bench.providers import get_provider
from lightning_bench.record import Record


def out_path(doc: str | None) -> Path:
    """Return the CSV named on the command line; it is required before anything is measured."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the CSV to write")
    return Path(parser.parse_args().out)


def kernels_version() -> str:
    """Return what column `provider_version` says where all figures of a row are of our kernels."""
    return get_provider("lightning2").version()


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Replace the CSV, whose columns are the keys of the first row; the old one stays until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def made_up_record(**fields: Any) -> Record:
    """Return a row of a forward pass on a CPU that has worked, with these fields."""
    plain: dict[str, Any] = {
        "suite": "made-up",
        "metric": "speed",
        "protocol": "lbench",
        "status": "ok",
        "case_id": "-",
        "provider": "lightning2",
        "family": "linear_decay",
        "direction": "fwd",
        "dtype": "fp32",
        "batch": 1,
        "heads": 1,
        "seq_len": 64,
        "head_dim": 16,
        "value_dim": 16,
        "device": "cpu",
    }
    return Record(**plain | fields)
