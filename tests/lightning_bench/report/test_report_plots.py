"""Plots, read off the artists: points are the rows' figures, words say what is missing, bytes repeat."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from lightning_bench.providers import BUILT_IN
from lightning_bench.record import read_records
from lightning_bench.report.plots.heat import heat_map
from lightning_bench.report.plots.line_plots import (
    memory_plot,
    per_token_plot,
    roofline_plot,
    speedup_plot,
    time_plot,
)
from lightning_bench.report.plots.plot_files import save_plot
from lightning_bench.report.plots.strokes import strokes
from lightning_bench.report.plots.style import COLUMN, WIDE, Look, length_text, number_text, ratio_text
from tests.support.paths import ROOT
from tests.support.plotted import drawn, names, points, row, series, two_lines, words, written

H200 = ROOT / "results" / "h200"


def test_points_are_the_medians_in_order_of_length() -> None:
    figure = time_plot(reversed(two_lines()))
    assert points(figure, "series-a") == {512: 1.0, 1024: 2.0, 2048: 4.0}
    assert points(figure, "series-b") == {512: 2.0, 1024: 8.0, 2048: 32.0}
    axes = drawn(figure).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "sequence length n (tokens)"
    assert axes.get_ylabel() == "median time (ms)"


def test_the_band_is_from_the_20th_to_the_80th_percentile() -> None:
    figure = time_plot(two_lines())
    bands = {c.get_gid(): c for c in drawn(figure).axes[0].collections}
    assert set(bands) == {"band-a", "band-b"}
    band = bands["band-a"]
    assert isinstance(band, PolyCollection)
    edge = {(float(x), round(float(y), 6)) for x, y in band.get_paths()[0].vertices}  # type: ignore[union-attr]
    assert {(512, 0.9), (512, 1.2), (1024, 1.8), (1024, 2.4), (2048, 3.6), (2048, 4.8)} == edge
    assert "20th to 80th percentile" in words(figure)


def test_minimum_bytes_are_a_line_only_if_all_rows_have_the_same() -> None:
    figure = time_plot(two_lines(ceiling_gbps=1000.0))
    assert points(figure, "reference").keys() == {512, 1024, 2048}
    assert "minimum number of bytes" in words(figure)
    figure = time_plot([replace(r, ceiling_gbps=1e3 if r.provider == "a" else 2e3) for r in two_lines()])
    assert "reference" not in [line.get_gid() for line in drawn(figure).axes[0].lines]
    assert "minimum number of bytes" not in words(figure)


def test_protocol_paper_has_its_mean_and_no_band() -> None:
    figure = time_plot([row("a", n, None, mean_ms=n / 512, protocol="paper") for n in (512, 1024)])
    assert points(figure, "series-a") == {512: 1.0, 1024: 2.0}
    assert not drawn(figure).axes[0].collections
    assert drawn(figure).axes[0].get_ylabel() == "mean time (ms)"
    assert "percentile" not in words(figure)


def test_time_per_token() -> None:
    figure = per_token_plot(row("a", n, n * 4 * 8e-6, floor_ms=n * 4 * 2e-6) for n in (512, 2048))
    assert points(figure, "series-a") == pytest.approx({512: 8.0, 2048: 8.0})
    assert points(figure, "reference") == pytest.approx({512: 2.0, 2048: 2.0})


def test_speedup_is_the_baselines_time_over_the_providers() -> None:
    figure = speedup_plot(two_lines(), "b")
    assert points(figure, "series-a") == {512: 2.0, 1024: 4.0, 2048: 8.0}
    assert points(figure, "series-b") == {512: 1.0, 1024: 1.0, 2048: 1.0}
    assert drawn(figure).axes[0].get_ylabel() == "speedup over b"
    assert speedup_plot(two_lines(), "nobody") is None


def test_speedup_says_where_the_baseline_has_no_time_and_where_it_is_of_another_family() -> None:
    rows = [*two_lines(), row("a", 4096, 8.0), row("b", 4096, status="oom")]
    rows = [replace(r, family="softmax") if r.provider == "b" else r for r in rows]
    figure = speedup_plot(rows, "b")
    assert 4096 not in points(figure, "series-a")
    assert "No speedup at 4096: b has no time there." in words(figure)
    assert "b computes softmax" in words(figure)
    assert "b: oom at 4096" in words(figure)
    assert "computes" not in words(speedup_plot(two_lines(), "b"))


def test_memory_and_its_ideal() -> None:
    rows = [
        row("a", n, metric="memory", extra_mib=n / 8, ideal_mib=n / 32, peak_mib=n / 2) for n in (512, 1024)
    ]
    figure = memory_plot(rows)
    assert points(figure, "series-a") == {512: 64.0, 1024: 128.0}
    assert points(figure, "reference") == {512: 16.0, 1024: 32.0}
    assert "MiB" in drawn(figure).axes[0].get_ylabel()
    paper = memory_plot(replace(r, protocol="paper") for r in rows)
    assert points(paper, "series-a") == {512: 256.0, 1024: 512.0}
    assert points(paper, "reference") == {512: 64.0, 1024: 128.0}  # q, k, v and o are 16 MiB each at 512
    assert time_plot(rows) is None
    assert memory_plot(two_lines()) is None


def test_roofline() -> None:
    rows = two_lines(tflops=100.0, ceiling_gbps=4000.0, ceiling_tflops=800.0)
    rows = [replace(r, family="softmax") if r.provider == "b" else r for r in rows]
    figure = roofline_plot(rows)
    assert points(figure, "series-a") == {64.0: 100.0}  # 4·128·128 operations for 4·128 bf16 values
    assert points(figure, "series-b") == {128.0: 100.0, 256.0: 100.0, 512.0: 100.0}
    roof = points(figure, "ceilings")
    assert roof[200.0] == 800.0
    assert all(y == pytest.approx(min(800.0, x * 4.0)) for x, y in roof.items())
    assert "4,000 GB/s, 800 TFLOP/s" in words(figure)
    assert roofline_plot(two_lines()) is None


def test_a_plot_has_no_single_x() -> None:
    one = [row(f"p{i}", 512, 1.0 + i, tflops=1.0, ceiling_gbps=4e3, ceiling_tflops=800.0) for i in range(9)]
    for draw_it in (time_plot, per_token_plot, roofline_plot, heat_map):
        assert draw_it(one) is None
    dims = [replace(r, head_dim=d, value_dim=d, floor_ms=0.1) for r in one for d in (64, 128)]
    assert heat_map(dims) is None


def test_heat_map() -> None:
    rows = [
        replace(row("a", n, ms, floor_ms=0.5), head_dim=dim, value_dim=dim)
        for n, dim, ms in ((512, 64, 1.0), (512, 128, 2.0), (1024, 64, 40.0))
    ]
    rows.append(replace(row("a", 1024, status="oom"), head_dim=128, value_dim=128))
    figure = heat_map(rows)
    axes = drawn(figure).axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "2.00", (0, 1): "4.00", (1, 0): "80.0", (1, 1): "oom"}
    hatched = [p.get_xy() for p in axes.patches if isinstance(p, Rectangle) and p.get_hatch()]
    assert hatched == [(0.5, 0.5)]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["512", "1K"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["64", "128"]
    in_ms = drawn(heat_map(rows, value="ms")).axes[0]
    assert {t.get_text() for t in in_ms.texts} == {"1.00", "2.00", "40.0", "oom"}
    assert heat_map(two_lines()) is None


@pytest.mark.parametrize("status", ["oom", "wrong", "timeout", "crashed"])
def test_a_failed_cell_is_no_point_and_has_a_note(status: str) -> None:
    failed = [row("sdpa-math", n, 3.0, status=status) for n in (8192, 16384)]
    figure = time_plot([*two_lines(), row("sdpa-math", 512, 1.0), *failed])
    assert points(figure, "series-sdpa-math") == {512: 1.0}
    assert f"sdpa-math: {status} at 8192, 16384." in words(figure)


def test_a_provider_without_any_point_is_named_and_has_no_entry() -> None:
    absent = [row(name, n, status="unsupported") for name in ("x", "y") for n in (512, 1024)]
    figure = time_plot([*two_lines(), *absent])
    assert series(figure) == ["a", "b"]
    assert names(figure) == ["b", "a"]
    assert "x, y: unsupported." in words(figure)


def test_unstable_points_are_shown_and_named() -> None:
    figure = time_plot([*two_lines(), row("a", 4096, 8.0, status="unstable")])
    assert points(figure, "series-a")[4096] == 8.0
    assert "a: unstable at 4096." in words(figure)


def test_lines_that_coincide_are_named() -> None:
    same = [replace(r, provider="c") for r in two_lines() if r.provider == "a"]
    assert "Too close to tell apart: a, c." in words(time_plot([*two_lines(), *same]))
    assert "Too close" not in words(time_plot(two_lines()))


def test_nothing_to_show_is_no_figure(tmp_path: Path) -> None:
    failed = [row("a", n, status="oom") for n in (512, 1024)]
    for rows in ([], failed, [row("a", 512, 1.0)], [row("a", 256, 1.0, heads=0), row("a", 512, 1.0)]):
        assert time_plot(rows) is None
        assert per_token_plot(rows) is None
        assert speedup_plot(rows, "a") is None
        assert memory_plot(rows) is None
        assert roofline_plot(rows) is None
        assert heat_map(rows) is None
        assert written(rows, tmp_path / "plots", "a") == []
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize(("column", "value"), [("machine_id", "m"), ("protocol", "paper"), ("head_dim", 64)])
def test_rows_of_two_tables_are_refused(column: str, value: Any) -> None:
    other = replace(row("a", 4096, 1.0), **{column: value})
    with pytest.raises(ValueError, match=f"several {column}"):
        time_plot([*two_lines(), other])


def test_no_two_providers_share_marker_and_dashes() -> None:
    families = dict.fromkeys([*BUILT_IN, *(f"other-{i}" for i in range(40))], "linear_decay")
    chosen = strokes(families)
    assert chosen.keys() == families.keys()
    assert all((a.marker, a.dashes) != (b.marker, b.dashes) for a, b in combinations(chosen.values(), 2))
    assert {strokes({name: family})[name] for name, family in families.items() if name in BUILT_IN} <= set(
        chosen.values()
    )


def test_a_providers_line_is_the_same_in_every_plot() -> None:
    def looks(figure: Figure | None, name: str) -> tuple[object, ...]:
        (line,) = (x for x in drawn(figure).axes[0].lines if x.get_gid() == f"series-{name}")
        return line.get_color(), line.get_marker(), line.get_linestyle()

    rows = [replace(r, provider={"a": "flash2", "b": "mine.py:FAST"}[r.provider]) for r in two_lines()]
    for name in ("flash2", "mine.py:FAST"):
        alone = [r for r in rows if r.provider == name]
        assert looks(time_plot(rows), name) == looks(time_plot(alone), name)
        assert looks(time_plot(rows), name) == looks(speedup_plot(rows, "flash2"), name)


@pytest.mark.parametrize(
    "name", ["$x_1$", "_hidden", "<b>&", "path/to/a/very/long/file/of/providers.py:NAME"]
)
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    figure = time_plot(replace(r, provider=name) for r in two_lines())
    (entry,) = names(figure)
    assert entry.strip("\u200a…") in name
    assert len(entry) <= 41
    save_plot(drawn(figure), tmp_path / "plot", ["svg", "png", "pdf"])


def test_ticks_are_powers_of_two_in_words() -> None:
    figure = time_plot((row("a", n, float(n)) for n in (512, 1000, 131072)), look=WIDE)
    labels = [text.get_text() for text in drawn(figure).axes[0].get_xticklabels()]
    assert labels == ["512", "1K", "2K", "4K", "8K", "16K", "32K", "64K", "128K"]
    assert [length_text(n) for n in (100, 1536, 3072, 2**20)] == ["100", "1536", "3K", "1M"]
    assert [number_text(x) for x in (0.01, 1.0, 10000.0)] == ["0.01", "1", "10,000"]
    assert [ratio_text(x) for x in (4.0, 1.0, 0.25)] == ["4×", "1×", "1/4×"]


def test_the_caption_says_where_with_what_and_how() -> None:
    text = words(time_plot([*two_lines(), row("a", 4096, 9.0, harness_commit="04a1b47950a3")]))
    assert (
        "Some GPU, torch 2.11.0. lightning-bench at a8bebb1ac722 and 04a1b47950a3, "
        "suite lightning2, protocol lbench." in text
    )


@pytest.mark.slow
@pytest.mark.parametrize("look", [COLUMN, WIDE, replace(COLUMN, labels=True), replace(WIDE, labels=True)])
@pytest.mark.parametrize("kind", ["speed", "memory"])
def test_on_recorded_results_nothing_is_cut_off_or_covered(look: Look, kind: str) -> None:
    records = [r for r in read_records(H200 / f"paper-{kind}.csv") if r.direction == "fwd"]
    figures = (
        [memory_plot(records, look=look)]
        if kind == "memory"
        else [
            time_plot(records, look=look),
            speedup_plot(records, "flash2", look=look),
            per_token_plot(records, look=look),
            roofline_plot(records, look=look),
        ]
    )
    for figure in map(drawn, figures):
        width, height = figure.get_size_inches() * figure.dpi
        assert width == pytest.approx(look.width_in * figure.dpi)
        renderer: Any = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        axes = figure.axes[0].get_tightbbox(renderer)
        assert axes is not None
        named = [
            text.get_window_extent(renderer)
            for text in figure.axes[0].texts
            if str(text.get_gid()).startswith("label-")
        ]
        assert len(named) >= 14
        assert all(a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1 for a, b in combinations(named, 2))
        parts = [axes, *(part.get_window_extent(renderer) for part in figure.texts)]
        for box in parts:
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height
        for one, other in combinations(parts, 2):
            apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
            assert apart, (one, other)
        sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}
        assert min(sizes) == 6.0  # the caption; all else
        assert sorted(sizes)[1] >= 7.0
        assert len({line.get_gid() for line in figure.findobj(Line2D) if line.get_gid()}) >= 14


def test_names_or_labels() -> None:
    rows = [replace(r, label={"a": "Kernel A", "b": ""}[r.provider]) for r in two_lines()]
    assert names(time_plot(rows)) == ["b", "a"]  # as the lines end
    assert names(time_plot(rows, look=replace(COLUMN, labels=True))) == ["b", "Kernel A"]
    same = [replace(r, label="Kernel") for r in two_lines()]
    assert names(time_plot(same, look=replace(COLUMN, labels=True))) == ["b", "a"]
