"""Rows that tests of reports begin with; they change what they are about by ``replace``."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_bench.record import Record, Row

PAPER = Record(
    suite="lightning2",
    metric="speed",
    protocol="lbench",
    status="ok",
    case_id="-",
    provider="lightning2",
    family="linear_decay",
    direction="fwd",
    dtype="bf16",
    batch=4,
    heads=32,
    seq_len=512,
    head_dim=128,
    value_dim=128,
    device="cuda",
)
STORY = Record(
    suite="story",
    metric="speed",
    protocol="lbench",
    status="ok",
    case_id="-",
    provider="a",
    family="softmax",
    direction="fwd",
    dtype="bf16",
    batch=1,
    heads=2,
    seq_len=64,
    head_dim=16,
    value_dim=16,
    device="cpu",
)


def rows_of(records: Iterable[Record], source: str = "results/x.csv") -> list[Row]:
    """Return the records as rows of one file."""
    return [Row(record, source) for record in records]
