"""Which plots are made, of what and in which files; their colors, names and text."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.report.plots import PlotFormat
from lightning_bench.report.plots.dot_plot import dot_plot
from lightning_bench.report.plots.line_ends import spread
from lightning_bench.report.plots.line_plots import (
    speedup_plot,
    time_plot,
)
from lightning_bench.report.plots.plot_files import save_plot
from lightning_bench.report.plots.strokes import muted, strokes
from lightning_bench.report.plots.style import WIDE
from tests.support.paths import ROOT
from tests.support.plotted import TITLE, drawn, points, row, two_lines, words, written

H200 = ROOT / "results" / "h200"


def test_over_the_batch_where_each_has_one_length(tmp_path: Path) -> None:
    rows = [row("a", 4096 // batch, 1.0 * batch, batch=batch) for batch in (1, 2, 4)]
    figure = time_plot(rows, over="batch")
    assert points(figure, "series-a") == {1: 1.0, 2: 2.0, 4: 4.0}
    assert drawn(figure).axes[0].get_xlabel() == "batch (4096 tokens in all)"
    assert "Forward, 32 heads, head dim 128, bf16" in words(figure)
    failed = time_plot([*rows, row("a", 512, status="oom", batch=8)], over="batch")
    assert "a: oom at batch 8." in words(failed)
    names_of_files = [path.name for path in written(rows, tmp_path)]
    assert names_of_files == [f"{TITLE.replace('-batch4', '')}-time{width}.svg" for width in ("", "-wide")]


def test_single_lengths_are_dots_with_their_floors_families_together(tmp_path: Path) -> None:
    times = {"slow": ("gla", 9.0), "b": ("linear", 2.0), "a": ("linear", 1.0), "s": ("softmax", 0.5)}
    rows = [
        row(name, n, ms * n / 512, family=family, batch=batch, floor_ms=0.25)
        for name, (family, ms) in times.items()
        for batch, n in ((8, 512), (1, 4096))
    ]
    figure = dot_plot(rows, look=WIDE)
    axes = drawn(figure).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["s", "a", "b", "slow"]
    dots = [line for line in axes.lines if str(line.get_gid()).startswith("dot-")]
    assert sorted(float(line.get_xdata()[0]) for line in dots) == [0.5, 1, 2, 4, 8, 9, 16, 72]  # type: ignore[index]
    assert [text.get_text() for text in axes.texts] == ["softmax", "linear", "gla"]
    assert "● batch 8, n = 512, ■ batch 1, n = 4096" in words(figure)
    assert dot_plot(rows[:4]) is None  # two providers are a comparison, not a picture
    with pytest.raises(ValueError, match="5 shapes; allowed: up to 4"):
        dot_plot([*rows, *(row("a", n, 1.0, batch=16) for n in (1, 2, 4))])
    assert [path.name for path in written(rows, tmp_path)] == [
        f"lightning2-speed_fwd-dtype_bf16-dots{width}.svg" for width in ("", "-wide")
    ]


def test_at_most_eight_lines_have_a_color_and_each_family_has_one() -> None:
    rows = [row(f"p{i:02}", n, 1.0 + i, family="linear") for i in range(12) for n in (512, 1024)]
    rows += [row("lone", n, 99.0, family="softmax") for n in (512, 1024)]
    for figure in (time_plot(rows), time_plot(rows, look=WIDE)):
        colors = {
            str(line.get_gid()).removeprefix("series-"): line.get_color()
            for line in drawn(figure).axes[0].lines
            if str(line.get_gid()).startswith("series-")
        }
        grey = muted(strokes({"p00": "linear"})["p00"]).color
        assert sorted(name for name, color in colors.items() if color != grey) == [
            "lone",
            *(f"p{i:02}" for i in range(7)),
        ]
    base = speedup_plot(rows, "p11")
    (line,) = (x for x in drawn(base).axes[0].lines if x.get_gid() == "series-p11")
    assert line.get_color() != grey


def test_text_is_text(tmp_path: Path) -> None:
    (path,) = save_plot(drawn(time_plot(two_lines())), tmp_path / "plot", ["svg"])
    found = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
    assert {"a", "b", "Forward, batch 4, 32 heads, head dim 128, bf16"} <= set(found)
    assert (
        "lightning2" not in drawn(time_plot(two_lines())).texts[0].get_text()
    )  # the suite is in the caption


def test_clip_paths_are_named_after_what_is_drawn(tmp_path: Path) -> None:
    figure = drawn(time_plot(two_lines()))
    (first,) = save_plot(figure, tmp_path / "first", ["svg"])
    figure.set_layout_engine("none")
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position((box.x0, box.y0, np.nextafter(box.width, 1), box.height))
    (second,) = save_plot(figure, tmp_path / "second", ["svg"])
    assert first.read_bytes() == second.read_bytes()
    clips = set(re.findall(r'<clipPath id="(.+?)"', first.read_text()))
    assert clips == set(re.findall(r"url\(#(.+?)\)", first.read_text())) != set()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_names_are_apart_in_order_and_within_the_axes(wanted: list[float]) -> None:
    wanted, apart = sorted(wanted), 1 / 12
    places = spread(wanted, apart)
    assert all(b - a >= apart - 1e-9 for a, b in pairwise(places))
    assert apart / 2 - 1e-9 <= places[0]
    assert places[-1] <= 1 - apart / 2 + 1e-9
    if all(b - a >= apart for a, b in pairwise([-apart / 2, *wanted, 1 + apart / 2])):
        assert places == pytest.approx(wanted)


@pytest.mark.slow
def test_a_set_is_named_after_the_table_and_repeats_to_the_byte(tmp_path: Path) -> None:
    rows = two_lines(tflops=100.0, ceiling_gbps=4000.0, ceiling_tflops=800.0)
    rows += [replace(r, metric="memory", median_ms=None, extra_mib=5.0) for r in rows]
    rows += [replace(r, head_dim=64, value_dim=64) for r in rows if r.metric == "speed" and r.seq_len < 2048]
    rows = [replace(r, floor_ms=0.1) for r in rows]
    first = written(rows, tmp_path / "first", "b", ["svg"], processes=1)
    second = written(rows, tmp_path / "second", "b", ["svg"], processes=2)
    kinds = ["time", "time-wide", "speedup", "speedup-wide", "per_token", "roofline"]
    tables = [f"{title}-{kind}" for title in (TITLE, TITLE.replace("128", "64")) for kind in kinds]
    memory = [f"{TITLE.replace('speed', 'memory')}-memory{width}" for width in ("", "-wide")]
    heat = [f"lightning2-speed_fwd-batch4-head32-dtype_bf16-heat_{value}" for value in ("floor", "ms")]
    assert [path.name for path in first] == [
        f"{stem}.svg" for stem in (*tables[:6], *memory, *tables[6:], *heat)
    ]
    other_formats: list[PlotFormat] = ["png", "pdf"]
    of_memory = [r for r in rows if r.metric == "memory"]
    first += written(of_memory, tmp_path / "first", "b", other_formats, processes=1)
    second += written(of_memory, tmp_path / "second", "b", other_formats, processes=2)
    assert len(first) == 16 + 2 * 2
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()
    assert b'id="series-a"' in first[0].read_bytes()


def test_a_set_of_two_machines_is_refused_and_a_suite_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="machine_id"):
        written([*two_lines(), row("a", 512, 1.0, machine_id="other")], tmp_path)
    paths = written(two_lines(suite="../up"), tmp_path)
    assert {path.parent for path in paths} == {tmp_path}
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_settings_of_the_user_stay_and_do_not_show(tmp_path: Path) -> None:
    (plain,) = save_plot(drawn(time_plot(two_lines())), tmp_path / "plain", ["svg"])
    with matplotlib.rc_context({"font.size": 20.0, "axes.facecolor": "pink", "svg.hashsalt": "other"}):
        before = dict(matplotlib.rcParams)
        (other,) = save_plot(drawn(time_plot(two_lines())), tmp_path / "other", ["svg"])
        assert dict(matplotlib.rcParams) == before
    assert plain.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_plots_need_neither_torch_nor_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from lightning_bench.record import read_rows\n"
        "from lightning_bench.report.plots.plot_files import draw, drawings_of\n"
        f"rows = read_rows([{str(H200 / 'parallelism-speed.csv')!r}]).rows\n"
        f"print(sum(map(len, draw(drawings_of(rows, {str(tmp_path)!r}), ['svg'], processes=1))))\n"
        "print([name for name in ('torch', 'triton', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["4", "[]"]
