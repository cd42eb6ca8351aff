"""Rows as JSON: an array of objects, each with every column; a figure that was not taken is null."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from lightning_bench.record import Record


def json_rows(records: Sequence[Record]) -> bytes:
    """Return the records as UTF-8 JSON, one per line."""
    lines = ",\n".join(json_line(asdict(record)) for record in records)
    return f"[\n{lines}\n]\n".encode()


def json_line(value: object) -> str:
    """Return JSON in one line of ASCII, which no terminal and no runner of GitHub takes for a command."""
    return json.dumps(value, allow_nan=False).replace("##[", r"##\u005b").replace("\x7f", r"\u007f")
