"""Plots of whole models: tokens per second, memory and energy, a line per attention, a plot per size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from matplotlib.figure import Figure

from lightning_bench.record import Record
from lightning_bench.report.plots.line_plots import Quantity, draw_lines
from lightning_bench.report.plots.plot_rows import Over
from lightning_bench.report.plots.style import COLUMN, Look
from lightning_bench.report.tables.kinds import KINDS

TrainedQuantity = Literal["tokens", "peak", "energy"]

_QUANTITIES: dict[TrainedQuantity, tuple[str, str, Callable[[Record], float | None]]] = {
    "tokens": ("training tokens per second and device", "new tokens per second", lambda r: r.tokens_per_s),
    "peak": ("peak memory (MiB)", "peak memory (MiB)", lambda r: r.peak_mib),
    "energy": (
        "energy per token, training (mJ)", "energy per new token (mJ)", KINDS["train_energy"].value,
    ),
}  # fmt: skip
"""What an axis is called for training and for generation, and the figure of a row."""


def training_plot(
    records: Iterable[Record], quantity: TrainedQuantity, *, look: Look = COLUMN, over: Over = "seq_len"
) -> Figure | None:
    """Draw a quantity against n or the batch, both logarithmic; None with figures at fewer than two places.

    The records are of one metric, of models of one size, one dtype and one way to run them; of those of one
    provider and place the last counts.
    """
    latest = list({(r.provider, getattr(r, over)): r for r in records}.values())
    training, generation, value = _QUANTITIES[quantity]
    label = generation if latest and latest[0].metric == "generate" else training
    return draw_lines(latest, look, Quantity(label, lambda r: value(r) if r.worked else None), over)
