"""Plots of whole models: tokens per second, memory and energy, a line per attention, a plot per size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from matplotlib.figure import Figure

from lightning_bench.record import Record
from lightning_bench.report.plots.line_plots import Quantity, draw_lines
from lightning_bench.report.plots.plot_rows import Over
from lightning_bench.report.plots.style import COLUMN, Look
from lightning_bench.report.tables.kinds import KINDS

TrainedQuantity = Literal["tokens", "peak", "energy"]

_VALUES: dict[TrainedQuantity, tuple[str, Callable[[Record], float | None]]] = {
    "tokens": ("{} per second", lambda r: r.tokens_per_s if r.worked else None),
    "peak": ("peak memory (MiB)", lambda r: r.peak_mib if r.worked else None),
    "energy": ("energy per {} (mJ)", lambda r: KINDS["train_energy"].value(r) if r.worked else None),
}


def training_plot(
    records: Iterable[Record], quantity: TrainedQuantity, *, look: Look = COLUMN, over: Over = "seq_len"
) -> Figure | None:
    """Draw a quantity against n or the batch, both logarithmic; None with figures at fewer than two places.

    The records are of one metric, of models of one size, one dtype and one way to run them; of those of one
    provider and place the last counts.
    """
    latest = list({(r.provider, getattr(r, over)): r for r in records}.values())
    label, value = _VALUES[quantity]
    many, one = (
        ("new tokens", "new token") if _generates(latest) else ("tokens, training,", "token, training")
    )
    what = one if quantity == "energy" else many
    return draw_lines(latest, look, Quantity(label.format(what), value), over)


def _generates(records: Sequence[Record]) -> bool:
    return bool(records) and records[0].metric == "generate"
