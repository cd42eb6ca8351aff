"""Layers, ranks and documents in reports: lines of tables, words of plots, and the page."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from lightning_bench.record import Record, Row
from lightning_bench.report.formats.export import table_csv
from lightning_bench.report.formats.latex import latex
from lightning_bench.report.formats.markdown import markdown
from lightning_bench.report.formats.plain_text import grid_text
from lightning_bench.report.page.page_data import axis_texts
from lightning_bench.report.page.plot_choices import plot_choices
from lightning_bench.report.page.summary import standings
from lightning_bench.report.page.views import views_of
from lightning_bench.report.plots.dot_plot import dot_plot
from lightning_bench.report.plots.line_plots import time_plot
from lightning_bench.report.plots.plot_files import drawings_of
from lightning_bench.report.tables.grid import Grid, grids
from lightning_bench.report.tables.groups import group
from lightning_bench.report.tables.kinds import chosen_kinds
from lightning_bench.variant import read_packing
from tests.support.report_rows import PAPER

MIXED = "32k+24001+17000+13333+10007+8k+300"
PACKINGS = ("8x16k", MIXED, "96k+31x1k")
LAYERS = ("0 of 80", "79 of 80")


def row(provider: str, ms: float, **changes: object) -> Record:
    base = replace(PAPER, suite="own", provider=provider, heads=8, batch=1, median_ms=ms, floor_ms=0.1)
    made = replace(base, **changes)  # type: ignore[arg-type]
    return replace(made, case_id=f"{provider}/fwd/{made.shape}")


def layers() -> list[Record]:
    """Two providers in two layers and ranks at two lengths, each cell with its own time."""
    return [
        row(provider, 1.0 + at + 0.01 * index, layer=layer, rank=rank, seq_len=n)
        for at, provider in enumerate(("lightning2", "fla-chunk", "fla-recurrent"))
        for index, (layer, rank, n) in enumerate(
            (layer, rank, n) for layer in LAYERS for rank in ("0 of 8", "7 of 8") for n in (512, 1024)
        )
    ]


def packed(heads: tuple[int, ...] = (8,)) -> list[Record]:
    return [
        row(provider, 1.0 + at + 0.1 * index, packing=packing, seq_len=sum(read_packing(packing)), heads=h)
        for at, provider in enumerate(("lightning2", "fla-chunk", "fla-recurrent"))
        for index, packing in enumerate(PACKINGS)
        for h in heads
    ]


def grids_of(records: list[Record]) -> list[Grid]:
    return grids(group(Row(record, "own.csv") for record in records), chosen_kinds(["ms"]))


def test_layers_and_ranks_are_lines_of_one_table() -> None:
    (grid,) = grids_of(layers())
    assert grid.heads == ["layer", "rank", "n"]
    assert grid.texts == [
        [layer, rank, n] for layer in LAYERS for rank in ("0 of 8", "7 of 8") for n in ("512", "1024")
    ]
    assert [line[0].text for line in grid.cells] == [f"{1.0 + 0.01 * index:.4f}" for index in range(8)]
    assert grid.title == "own-speed_fwd-batch1-head8-qk_dim128-v_dim128-dtype_bf16"


def test_what_all_lines_share_is_in_the_title() -> None:
    (grid,) = grids_of([record for record in layers() if record.layer == "79 of 80"])
    assert grid.heads == ["rank", "n"]
    assert grid.title.endswith("-dtype_bf16-layer79of80")


def test_documents_are_lines_and_long_packings_are_short_there() -> None:
    (grid,) = grids_of(packed())
    assert grid.heads == ["documents", "n"]
    assert [texts[0] for texts in grid.texts] == ["8x16k", "7 of 300…32k", "96k+31x1k"]
    assert len(grids_of(packed(heads=(8, 64)))) == 2


def test_rows_of_a_plain_length_share_the_table() -> None:
    (grid,) = grids_of([*packed(), row("lightning2", 0.5, seq_len=131072)])
    assert grid.texts[0] == ["", "131072"]


def test_a_table_of_layers_fits_80_columns() -> None:
    (grid,) = grids_of(layers())
    table = grid_text(replace(grid, origin=[], title="t", unit="ms"), 80).splitlines()
    assert max(map(len, table)) <= 80
    assert table[1].split() == ["layer", "rank", "n", "lightning2", "fla-chunk", "fla-recurrent"]


def test_every_format_has_the_columns() -> None:
    (grid,) = grids_of(layers())
    assert "| layer | rank | n | `lightning2`" in markdown([grid], heading="h")
    assert r"\begin{tabular}{rrrrrr}" in latex([grid], heading="h")
    assert r"79 of 80 & 7 of 8 & 1024 & \textbf{1.0700}" in latex([grid], heading="h")
    lines = list(csv.DictReader(io.StringIO(table_csv([grid]))))
    assert {(line["layer"], line["rank"], line["packing"]) for line in lines} == {
        (layer, rank, "") for layer in LAYERS for rank in ("0 of 8", "7 of 8")
    }


def test_a_note_names_the_line() -> None:
    odd = replace(layers()[3], status="unstable", reason="odd")
    (grid,) = grids_of([*layers()[:3], odd, *layers()[4:]])
    assert "lightning2: * unstable at n = 1024 (layer 0 of 80, rank 7 of 8): odd" in grid.notes


def test_plots_over_n_are_of_one_layer_and_say_which() -> None:
    records = [record for record in layers() if (record.layer, record.rank) == ("79 of 80", "7 of 8")]
    figure = time_plot(records)
    assert figure is not None
    texts = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert "layer 79 of 80, rank 7 of 8" in texts
    with pytest.raises(ValueError, match="rows of several layer"):
        time_plot(layers())


def test_documents_are_the_markers_of_a_dot_plot() -> None:
    figure = dot_plot(packed())
    assert figure is not None
    texts = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert "● documents 7 of 300…32k, ■ documents 96k+31x1k, ▲ documents 8x16k" in texts


def test_plot_files_tell_layers_and_heads_apart() -> None:
    rows = [Row(record, "own.csv") for record in (*layers(), *packed(heads=(8, 64)))]
    stems = [str(drawing.stem) for drawing in drawings_of(rows, "plots")]
    assert len(set(stems)) == len(stems)
    assert sum("layer79of80-rank7of8-time" in stem for stem in stems) == 2
    assert [stem for stem in stems if "dots" in stem and "wide" not in stem] == [
        "plots/own-speed_fwd-head8-dtype_bf16-dots",
        "plots/own-speed_fwd-head64-dtype_bf16-dots",
    ]


def test_the_page_has_the_axes_as_columns_and_plots_of_one_layer() -> None:
    (view,), _ = views_of(grids_of(layers()))
    assert view.axes == ["layer", "rank", "seq_len"]
    assert len({line.key for line in view.lines}) == 8
    assert {choice.label for choice in plot_choices(view)} == {
        f"Over n: layer {layer}, rank {rank}" for layer in LAYERS for rank in ("0 of 8", "7 of 8")
    }
    (view,), _ = views_of(grids_of(packed()))
    assert [axis_texts(view, line)[0] for line in view.lines] == ["8x16k", "7 of 300…32k", "96k+31x1k"]


def test_the_summary_counts_each_layer_as_a_cell() -> None:
    (standing,) = standings(Row(record, "own.csv") for record in layers())
    assert (standing.winner, standing.won, standing.cells) == ("lightning2", 8, 8)


def ranked() -> list[Record]:
    """One provider on one rank, another on two and four, at two lengths."""
    return [
        row(provider, ms + n / 512, seq_len=n, ranks=ranks)
        for provider, ranks, ms in (
            ("lightning2", None, 4.0),
            ("context-parallel", 2, 2.0),
            ("context-parallel", 4, 1.0),
        )
        for n in (512, 1024)
    ]


def test_ranks_are_lines_of_one_table_and_plots_of_their_own() -> None:
    records = ranked()
    (grid,) = grids_of(records)
    assert grid.heads == ["ranks", "n"]
    assert grid.texts == [[ranks, n] for n in ("512", "1024") for ranks in ("1", "2", "4")]
    assert [[cell.text for cell in line] for line in grid.cells[:3]] == [
        ["5.0000", "no row"],
        ["no row", "3.0000"],
        ["no row", "2.0000"],
    ]
    assert "ranks" not in grid.title
    (alone,) = grids_of([record for record in records if record.ranks == 2])
    assert alone.title.endswith("-dtype_bf16-ranks2")
    lines = list(csv.DictReader(io.StringIO(table_csv([grid]))))
    assert {line["ranks"] for line in lines} == {"", "2", "4"}
    stems = [str(drawing.stem) for drawing in drawings_of([Row(r, "own.csv") for r in records], "plots")]
    assert len(set(stems)) == len(stems)
    assert {"ranks2" in stem for stem in stems} == {True, False}
    figure = time_plot([record for record in records if record.ranks == 2])
    assert figure is not None
    assert any("2 ranks" in text.get_text() for text in figure.texts)
    (view,), _ = views_of([grid])
    assert view.axes == ["ranks", "seq_len"]
    assert [axis_texts(view, line) for line in view.lines[:3]] == [["", "512"], ["2", "512"], ["4", "512"]]


def test_kv_heads_are_tables_of_their_own_and_a_column_of_the_page() -> None:
    records = [
        row(provider, ms + n / 512, kv_heads=kv_heads, seq_len=n)
        for provider, ms in (("lightning2", 1.0), ("fla-chunk", 2.0))
        for kv_heads in (None, 2)
        for n in (512, 1024)
    ]
    assert [grid.title.endswith("-kv2") for grid in grids_of(records)] == [False, True]
    (view,), _ = views_of(grids_of(records))
    assert view.axes == ["kv_heads", "seq_len"]
    assert [axis_texts(view, line) for line in view.lines] == [
        ["8", "512"],
        ["8", "1024"],
        ["2", "512"],
        ["2", "1024"],
    ]


def test_columns_with_heads_of_their_own_still_share_the_lines_of_the_page() -> None:
    records = [row("lightning2", 1.0, heads=8), row("fla-chunk", 2.0, heads=16), row("flash2", 3.0, heads=8)]
    (view,), _ = views_of(grids_of(records))
    assert len(view.lines) == 1
    (with_16,) = [note for note in view.column_notes if "16 heads" in note]
    assert with_16.startswith("linear_decay, 16 heads")


def test_replays_of_graphs_are_a_table_where_rows_have_them() -> None:
    timed = [row("lightning2", 1.0, graph_ms=0.5), row("fla-chunk", 2.0)]
    rows = [Row(record, "own.csv") for record in timed]
    found = {grid.kind: [cell.text for cell in grid.cells[0]] for grid in grids(group(rows))}
    assert found["graph"] == ["0.5000", "no figure"]
    assert "graph" not in {grid.kind for grid in grids(group(rows[1:]))}
