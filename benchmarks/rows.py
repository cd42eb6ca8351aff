"""The CSV that every script here writes, and the one argument of those that take no other."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def out_path(doc: str | None) -> Path:
    """Return the CSV named on the command line; it is required before anything is measured."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the CSV to write")
    return Path(parser.parse_args().out)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the CSV, whose columns are the keys of the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
