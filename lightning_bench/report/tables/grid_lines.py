"""Lines of a table: a length, and what of the inputs else differs from line to line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from lightning_bench.record import Record
from lightning_bench.variant import PLAIN, Variant, packing_label, part_text


@dataclass(frozen=True, order=True)
class GridLine:
    """One line: the length, and the layer, rank and documents of its rows; kv heads are the table's.

    `batch` is that of rows of generation; the tables of all others have one batch, or one follows from n.
    `ranks` is 0 for one process.
    """

    variant: Variant
    n: int
    batch: int = 0
    ranks: int = 0

    @classmethod
    def of(cls, record: Record) -> GridLine:
        """Return the line that a row is in."""
        batch = record.batch if record.metric == "generate" else 0
        return cls(replace(record.shape.variant, kv_heads=0), record.seq_len, batch, record.ranks or 0)

    @property
    def columns(self) -> dict[str, str]:
        """What the line has in the columns of `LINE`, as text."""
        columns = {**self.variant.columns, "ranks": self.ranks or ""}
        return {name: str(columns[name]) for name in LINE}

    def __str__(self) -> str:
        more = [f"batch {self.batch}"] * bool(self.batch) + [self.variant.words] * (self.variant != PLAIN)
        more += [f"{self.ranks} ranks"] * bool(self.ranks)
        return f"{self.n} ({', '.join(more)})" if more else str(self.n)


LINE = ("layer", "rank", "packing", "ranks")
"""Columns in which the lines of a table may differ, besides seq_len."""

_HEADS: dict[str, Callable[[GridLine], str]] = {
    "layer": lambda line: part_text(line.variant.layer),
    "rank": lambda line: part_text(line.variant.rank),
    "documents": lambda line: packing_label(line.variant.documents),
    "batch": lambda line: str(line.batch),
    "ranks": lambda line: str(line.ranks or 1),
}


def line_heads(lines: Iterable[GridLine]) -> list[str]:
    """Return the heads of the columns that tell lines apart: `n`, and before it what differs."""
    once = set(lines)
    return [*(name for name, text in _HEADS.items() if len({text(each) for each in once}) > 1), "n"]


def line_texts(line: GridLine, heads: Iterable[str]) -> list[str]:
    """Return the texts of a line in the columns of these heads."""
    return [str(line.n) if name == "n" else _HEADS[name](line) for name in heads]


def common(lines: Iterable[GridLine]) -> GridLine:
    """Return what all lines share, without a length; the default for what differs."""
    once = set(lines)
    first, *others = {line.variant for line in once}
    ranks = {line.ranks for line in once}
    kept = {name: getattr(first, name) for name in ("layer", "rank", "documents")}
    same = {name: x for name, x in kept.items() if all(getattr(each, name) == x for each in others)}
    return GridLine(Variant(**same), 0, ranks=ranks.pop() if len(ranks) == 1 else 0)
