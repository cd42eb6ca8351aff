"""Plots of training: tokens per second and memory against n, one line per attention, one plot per size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from matplotlib.figure import Figure

from lightning_bench.record import Record
from lightning_bench.report.plots.line_plots import Quantity, draw_lines
from lightning_bench.report.plots.style import COLUMN, Look

TrainedQuantity = Literal["tokens", "peak"]

_VALUES: dict[TrainedQuantity, tuple[str, Callable[[Record], float | None]]] = {
    "tokens": ("tokens per second, training", lambda r: r.tokens_per_s if r.worked else None),
    "peak": ("peak memory of a step (MiB)", lambda r: r.peak_mib if r.worked else None),
}


def training_plot(
    records: Iterable[Record], quantity: TrainedQuantity, *, look: Look = COLUMN
) -> Figure | None:
    """Draw a quantity against n, both logarithmic; None with figures at fewer than two lengths.

    The records are of models of one size, one dtype and one way to run a step; of those of one provider and
    length the last counts.
    """
    latest = list({(r.provider, r.seq_len): r for r in records}.values())
    label, value = _VALUES[quantity]
    return draw_lines(latest, look, Quantity(label, value))


def size_of(record: Record) -> str:
    """Return the size in the name of the row's model: 0.4b of tnl-0.4b."""
    return record.model.partition("-")[2] or record.model
