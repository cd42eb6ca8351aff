"""Tables as the papers print them: titles, rows, columns, and words where there is no figure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lightning_bench.record import STATUSES, Record
from lightning_bench.report.formats.plain_text import grid_text
from lightning_bench.report.tables.figures import figure_with_unit, title
from lightning_bench.report.tables.grid import Grid, sweep_grids
from tests.support.report_rows import PAPER

BASE = PAPER


def row(provider: str, seq_len: int, median_ms: float | None = None, **others: Any) -> Record:
    return replace(BASE, provider=provider, seq_len=seq_len, median_ms=median_ms, **others)


def only(records: list[Record]) -> Grid:
    (grid,) = sweep_grids(records)
    return grid


def texts(grid: Grid) -> list[list[str]]:
    return [[cell.text for cell in line] for line in grid.cells]


def names(grid: Grid) -> list[str]:
    return [column.provider for column in grid.columns]


def test_the_title_is_the_published_one() -> None:
    assert title(BASE) == "lightning2-speed_fwd-batch4-head32-qk_dim128-v_dim128-dtype_bf16"
    other = replace(BASE, suite="mine", metric="memory", direction="fwd_bwd", value_dim=64, dtype="fp16")
    assert title(other) == "mine-memory_fwd_bwd-batch4-head32-qk_dim128-v_dim64-dtype_fp16"
    assert only([BASE]).title == title(BASE)


def test_rows_by_length_and_columns_by_appearance() -> None:
    table = only([row("b", 4096, 4.0), row("a", 512, 1.0), row("c", 1024, 2.0), row("b", 512, 3.0)])
    assert [line.n for line in table.lines] == [512, 1024, 4096]
    assert names(table) == ["b", "a", "c"]
    assert texts(table) == [["3.0000", "1.0000", ""], ["", "", "2.0000"], ["4.0000", "", ""]]
    assert table.notes == []
    assert table.unit == "ms, median of cold samples"


def test_each_column_has_its_family() -> None:
    table = only([row("flash2", 512, 1.0, family="softmax"), row("lightning2", 512, 2.0)])
    assert {column.provider: column.family for column in table.columns} == {
        "flash2": "softmax",
        "lightning2": "linear_decay",
    }


@pytest.mark.parametrize("status", [s for s in STATUSES if s not in ("ok", "unstable")])
def test_a_cell_without_a_figure_has_its_status(status: str) -> None:
    # A figure in such a row, as `wrong` might carry, must not be printed.
    table = only([row("a", 512, 1.0), row("a", 1024, 2.0, status=status, reason="because")])
    assert texts(table) == [["1.0000"], [status]]
    assert table.notes == [f"a: {status} at n = 1024: because"]


def test_unstable_figures_have_a_star_and_a_note() -> None:
    table = only([row("a", 512, 1.23456, status="unstable", reason="wide"), row("a", 1024, 2.0)])
    assert texts(table) == [["1.2346*"], ["2.0000"]]
    assert table.notes == ["a: * unstable at n = 512: wide"]


def test_notes_join_the_lengths_of_one_status() -> None:
    table = only(
        [
            row("a", 2048, status="oom", reason="at 2048"),
            row("a", 1024, status="oom", reason="at 1024"),
            row("a", 512, status="crashed", reason="signal"),
            row("b", 512, 1.0),
        ]
    )
    assert table.notes == [
        "a: crashed at n = 512: signal",
        "a: oom at n = 1024, 2048: at 1024",
    ]


def test_notes_quote_the_worst_row() -> None:
    wide = {"median_ms": 1.0, "ci_low_ms": 0.5}
    table = only(
        [
            row("a", 512, status="unstable", reason="±5 %", **wide, ci_high_ms=1.1),
            row("a", 1024, status="unstable", reason="±80 %", **wide, ci_high_ms=1.9),
            row("a", 2048, status="wrong", reason="by 2", error_o=2e-2, error_budget=1e-2),
            row("a", 4096, status="wrong", reason="by 7", error_o=1e-2, error_dv=7e-2, error_budget=1e-2),
        ]
    )
    assert table.notes == [
        "a: * unstable at n = 512, 1024: worst at 1024: ±80 %",
        "a: wrong at n = 2048, 4096: worst at 4096: by 7",
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_reasons_wrap_below_a_table_and_none_is_cut(width: int) -> None:
    reason = f"no graph_ms: {'a GPU would be needed, ' * 15}and there is none here"
    (grid,) = sweep_grids([row("a", 512, 1.0), row("a", 1024, status="crashed", reason=reason)])
    lines = grid_text(grid, width).splitlines()
    assert max(map(len, lines)) <= max(width, len(grid.title))
    below = " ".join(line.strip() for line in lines[-15:])
    assert f"a: crashed at n = 1024: {reason}" in below
    assert sum(line[:4] == "    " for line in lines) >= 3, "what continues a note is indented"


@pytest.mark.parametrize("status", ["unavailable", "unsupported"])
def test_absent_providers_are_notes_and_not_columns(status: str) -> None:
    gone = [row("gone", n, status=status, reason="not installed") for n in (512, 1024)]
    table = only([*gone, row("a", 512, 1.0), row("a", 1024, 2.0)])
    assert names(table) == ["a"]
    assert texts(table) == [["1.0000"], ["2.0000"]]
    assert table.notes == [f"gone: {status}: not installed"]


def test_a_provider_that_takes_some_lengths_stays_a_column() -> None:
    table = only([row("a", 512, 1.0), row("a", 1024, status="unsupported", reason="too long")])
    assert names(table) == ["a"]
    assert texts(table) == [["1.0000"], ["unsupported"]]


def test_all_absent_leaves_a_table_of_notes() -> None:
    table = only([row("a", 512, status="unavailable", reason="no GPU")])
    assert (table.texts, names(table), texts(table)) == ([["512"]], [], [[]])
    assert table.notes == ["a: unavailable: no GPU"]


@pytest.mark.parametrize(
    "changed",
    [
        {"dtype": "fp16"},
        {"direction": "bwd"},
        {"metric": "memory"},
        {"protocol": "paper"},
        {"device": "cpu"},
        {"batch": 8},
        {"heads": 16},
        {"head_dim": 64},
        {"value_dim": 64},
        {"kv_heads": 4},
        {"suite": "other"},
        {"machine_id": "another"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_differs_never_shares_a_table(changed: dict[str, Any]) -> None:
    first = row("a", 512, 1.0, mean_ms=1.0, extra_mib=1.0, peak_mib=1.0)
    tables = sweep_grids([first, replace(first, **changed), replace(first, seq_len=1024)])
    assert [[line.n for line in table.lines] for table in tables] == [[512, 1024], [512]]


@pytest.mark.parametrize(
    ("metric", "protocol", "cell", "unit"),
    [
        ("speed", "lbench", "0.1235", "ms, median of cold samples"),
        ("speed", "paper", "0.351782", "ms, mean as the papers took it"),
        ("memory", "lbench", "48.50", "MiB that the call adds"),
        ("memory", "paper", "64.000488", "MiB, mean peak, inputs included"),
    ],
)
def test_each_metric_and_protocol_has_its_figure(metric: str, protocol: str, cell: str, unit: str) -> None:
    figures = {"median_ms": 0.12345, "mean_ms": 0.3517819, "extra_mib": 48.5, "peak_mib": 64.00048828125}
    record = replace(BASE, metric=metric, protocol=protocol, **figures)
    table = only([record])
    assert texts(table) == [[cell]]
    assert table.unit == unit
    assert figure_with_unit(record) == f"{cell} {'ms' if metric == 'speed' else 'MiB'}"


def test_checks_show_the_worst_error() -> None:
    record = replace(BASE, metric="check", error_o=1.5e-3, error_dq=2e-3, error_dk=8.21e-3, error_dv=3e-3)
    table = only([record, replace(record, seq_len=1024, error_dq=None, error_dk=None, error_dv=None)])
    assert texts(table) == [["8.2e-03"], ["1.5e-03"]]
    assert table.unit == "worst relative L2 error against fp64"
    assert figure_with_unit(record) == "error 8.2e-03"


@pytest.mark.parametrize("metric", ["speed", "memory", "check"])
def test_a_row_without_a_figure_has_no_text_for_it(metric: str) -> None:
    assert figure_with_unit(replace(BASE, metric=metric, status="oom")) == ""


def test_the_last_row_of_a_case_counts() -> None:
    assert texts(only([row("a", 512, 1.0), row("a", 512, 2.0)])) == [["2.0000"]]


def test_no_records_are_no_tables() -> None:
    assert sweep_grids([]) == []


def test_a_check_without_errors_has_no_figure() -> None:
    record = replace(BASE, metric="check")
    assert texts(only([record])) == [["ok"]]
    assert figure_with_unit(record) == ""


def test_a_shape_that_was_not_stated_is_not_in_the_title() -> None:
    assert title(replace(BASE, heads=0, head_dim=0, value_dim=0)) == "lightning2-speed_fwd-batch4"
