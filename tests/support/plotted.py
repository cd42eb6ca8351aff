"""Rows for plots, and what a test reads off a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_bench.record import Record
from lightning_bench.report.plots import PlotFormat
from lightning_bench.report.plots.plot_files import draw, drawings_of
from tests.support.report_rows import PAPER, rows_of

BASE = replace(PAPER, device_name="Some GPU", torch="2.11.0", harness_commit="a8bebb1ac722")
TITLE = "lightning2-speed_fwd-batch4-head32-qk_dim128-v_dim128-dtype_bf16"


def row(provider: str, seq_len: int, median_ms: float | None = None, **others: Any) -> Record:
    band = {} if median_ms is None else {"p20_ms": median_ms * 0.9, "p80_ms": median_ms * 1.2}
    return replace(BASE, provider=provider, seq_len=seq_len, median_ms=median_ms, **{**band, **others})


def two_lines(**others: Any) -> list[Record]:
    times = {"a": (1.0, 2.0, 4.0), "b": (2.0, 8.0, 32.0)}
    return [
        row(name, n, ms, **others)
        for name, own in times.items()
        for n, ms in zip((512, 1024, 2048), own, strict=True)
    ]


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def points(figure: Figure | None, gid: str) -> dict[float, float]:
    (line,) = (line for line in drawn(figure).axes[0].lines if line.get_gid() == gid)
    return dict(zip(line.get_xdata(), line.get_ydata(), strict=True))  # type: ignore[arg-type]


def series(figure: Figure | None) -> list[str]:
    gids = (str(line.get_gid()) for line in drawn(figure).axes[0].lines)
    return [gid.removeprefix("series-") for gid in gids if gid.startswith("series-")]


def words(figure: Figure | None) -> str:
    return " ".join(" ".join(text.get_text().split()) for text in drawn(figure).texts)


def names(figure: Figure | None) -> list[str]:
    """Return the names beside the lines, from the top; what is not a provider's is left out."""
    found = [text for text in drawn(figure).axes[0].texts if str(text.get_gid()).startswith("label-")]
    names = [t.get_text() for t in sorted(found, key=lambda text: -text.get_position()[1])]
    return [name for name in names if name not in ("minimum bytes", "outputs", "inputs and outputs")]


def written(
    records: Iterable[Record],
    folder: Path,
    baseline: str | None = None,
    formats: Sequence[PlotFormat] = ("svg",),
    processes: int = 1,
) -> list[Path]:
    drawings = drawings_of(rows_of(records), folder, baseline)
    return [path for files in draw(drawings, formats, processes=processes) for path in files]
