"""What the cells of each kind of table show, and what stands under a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bench.cli.shared.sink import Sink
from lightning_bench.errors import UsageError
from lightning_bench.record import STATUSES, Record, Row
from lightning_bench.report.tables.grid import Grid, grids
from lightning_bench.report.tables.groups import group
from lightning_bench.report.tables.kinds import KIND_NAMES, chosen_kinds
from tests.support.report_rows import PAPER

BASE = replace(PAPER, device_name="NVIDIA H200")


def row(provider: str, seq_len: int, median_ms: float | None = None, **others: Any) -> Record:
    family = "softmax" if provider.startswith("flash") else "linear_decay"
    values = {"median_ms": median_ms, "family": family, **others}
    return replace(BASE, provider=provider, seq_len=seq_len, **values)


def grids_of(
    *records: Record, kind: str | None = None, baseline: str | None = None, mix: bool = False
) -> list[Grid]:
    rows = [Row(record, "results/x.csv") for record in records]
    return grids(group(rows, mix=mix), chosen_kinds([kind] if kind else []), baseline)


def grid_of(*records: Record, **options: Any) -> Grid:
    (grid,) = grids_of(*records, **options)
    return grid


def texts(grid: Grid) -> list[list[str]]:
    return [[cell.text for cell in line] for line in grid.cells]


def test_the_published_shape() -> None:
    grid = grid_of(row("b", 1024, 2.0), row("flash2", 512, 1.5), row("b", 512, 1.0), kind="ms")
    assert grid.title == "lightning2-speed_fwd-batch4-head32-qk_dim128-v_dim128-dtype_bf16"
    assert (grid.texts, [c.provider for c in grid.columns]) == ([["512"], ["1024"]], ["b", "flash2"])
    assert [c.family for c in grid.columns] == ["linear_decay", "softmax"]
    assert texts(grid) == [["1.0000", "1.5000"], ["2.0000", "no row"]]
    assert not any(cell.best for line in grid.cells for cell in line)


def test_the_best_is_of_its_family() -> None:
    rivals = (row("flash2", 512, 1.5), row("sdpa-flash", 512, 1.2, family="softmax"))
    lone = row("lone", 512, 0.1, family="gla")
    grid = grid_of(row("a", 512, 1.0), row("b", 512, 2.0), *rivals, lone, kind="ms")
    assert [cell.best for cell in grid.cells[0]] == [True, False, False, True, False]


@pytest.mark.parametrize("status", [s for s in STATUSES if s not in ("ok", "unstable")])
def test_a_cell_without_a_figure_says_why(status: str) -> None:
    # A figure in such a row, as `wrong` might carry, must not be printed.
    grid = grid_of(row("a", 512, 1.0), row("a", 1024, 2.0, status=status, reason="because"), kind="ms")
    assert texts(grid) == [["1.0000"], ["OOM" if status == "oom" else status]]
    assert f"a: {status} at n = 1024: because" in grid.notes


def test_a_row_of_older_columns_that_lacks_the_figure_says_so() -> None:
    grid = grid_of(row("a", 512, 1.0), row("a", 1024), kind="ms")
    assert texts(grid) == [["1.0000"], ["no figure"]]
    assert grid.notes == ["a: ok at n = 1024, but its row lacks this figure"]


def test_unstable_is_marked() -> None:
    records = (row("a", 512, 1.0, status="unstable", reason="wide"), row("flash2", 512, 3.0))
    assert texts(grid_of(*records, kind="ms")) == [["1.0000*", "3.0000"]]
    assert texts(grid_of(*records, kind="speedup")) == [["3.00×*", "1.00×"]]
    assert texts(grid_of(*records, kind="speedup", baseline="a")) == [["1.00×*", "0.33×*"]]
    assert "a: * unstable at n = 512: wide" in grid_of(*records, kind="ms").notes


@pytest.mark.parametrize("names", ["pytest (pid 7) 0.9", ", ".join(["a-long-name (pid 12345) 0.3"] * 9)])
def test_the_names_of_processes_do_not_hide_the_interval(names: str) -> None:
    load = f"other processes used 1.01 of 2 processors beside its samples ({names}), and of the GPU, too"
    reason = f"{load}; the median is known only to ±5.0 % after 60 samples; and so on"
    (note,) = grid_of(row("a", 512, 1.0, status="unstable", reason=reason), kind="ms").notes
    assert note == (
        "a: * unstable at n = 512: other processes used 1.01 of 2 processors beside its samples, and of the "
        "GPU, too; the median is known only to ±5.0 % after 60 samples; and so on"
    )


def test_a_short_reason_keeps_its_parentheses() -> None:
    reason = "other processes used 1.01 of 2 processors beside its samples (pytest (pid 7) 0.9)"
    assert grid_of(row("a", 512, status="unstable", median_ms=1.0, reason=reason), kind="ms").notes == [
        f"a: * unstable at n = 512: {reason}"
    ]


def test_speedup_is_the_baseline_over_the_provider() -> None:
    records = (row("flash2", 512, 3.0), row("a", 512, 1.5), row("flash2", 1024, status="oom"))
    grid = grid_of(*records, row("a", 1024, 2.0), kind="speedup")
    assert grid.unit == "speedup: the time of flash2 over the provider's"
    assert texts(grid) == [["1.00×", "2.00×"], ["OOM", "no baseline"]]
    assert texts(grid_of(*records, kind="speedup", baseline="a"))[0] == ["0.50×", "1.00×"]


def test_a_speedup_between_families_says_what_it_compares() -> None:
    across = grid_of(row("flash2", 512, 3.0), row("a", 512, 1.0), kind="speedup")
    assert across.notes == [
        "a: of another family than flash2 (softmax); such a speedup compares mechanisms, not implementations."
    ]
    assert grid_of(row("b", 512, 3.0), row("a", 512, 1.0), kind="speedup", baseline="b").notes == []


def test_without_the_baseline_there_is_no_speedup_table() -> None:
    assert grids_of(row("a", 512, 1.0), kind="speedup") == []
    assert grids_of(row("a", 512, 1.0), row("flash2", 512, status="unavailable"), kind="speedup") == []


def test_a_table_says_by_which_bandwidth_its_floors_are_defined() -> None:
    older = row("a", 512, 2.0, floor_ms=0.5)
    copied, mixed = row("b", 512, 1.0, floor_ms=0.5, ceiling_of="copy"), row("c", 512, 1.0, floor_ms=0.5)
    mixed = replace(mixed, ceiling_of="4:3")
    assert "bytes take at copy bandwidth and" in grid_of(older, copied, kind="floor").unit
    assert "bytes take at the bandwidth of 4:3 reads and writes and" in grid_of(mixed, kind="floor").unit
    both = grid_of(older, mixed, kind="floor").unit
    assert "copy bandwidth" in both
    assert "; or " in both
    assert "of 4:3" in both


def test_rates_and_the_share_of_the_floor() -> None:
    records = (
        row("a", 512, 2.0, floor_ms=0.5, tflops=123.44, gbps=1234.5),
        row("b", 512, 1.0, floor_ms=0.5, tflops=246.88, gbps=2469.0),
    )
    assert texts(grid_of(*records, kind="floor")) == [["4.00 (25 %)", "2.00 (50 %)"]]
    assert texts(grid_of(*records, kind="tflops")) == [["123.4", "246.9"]]
    assert texts(grid_of(*records, kind="gbps")) == [["1234", "2469"]]
    for kind in ("floor", "tflops", "gbps"):
        assert [cell.best for cell in grid_of(*records, kind=kind).cells[0]] == [False, True]


def test_tables_that_no_row_can_fill_are_left_out() -> None:
    assert [grid.kind for grid in grids_of(row("a", 512, 1.0))] == ["ms"]
    full = row("flash2", 512, 1.0, floor_ms=0.5, tflops=1.0, gbps=1.0)
    assert [grid.kind for grid in grids_of(full)] == ["ms", "speedup", "tflops", "gbps", "floor"]


def test_memory_has_the_ratio_to_ideal() -> None:
    record = replace(BASE, metric="memory", extra_mib=48.0, ideal_mib=16.0)
    assert texts(grid_of(record)) == [["48.00 (3.00×)"]]
    assert texts(grid_of(replace(record, ideal_mib=None))) == [["48.00"]]
    paper = replace(record, protocol="paper", peak_mib=64.00048828125)
    assert texts(grid_of(paper)) == [["64.000488"]]
    assert grid_of(paper).unit == "MiB, mean peak, inputs included"


def test_figures_of_whole_models_are_tokens_per_second() -> None:
    record = replace(BASE, protocol="paper", batch=1, heads=0, seq_len=1000, mean_ms=500.0)
    assert [grid.kind for grid in grids_of(record)] == ["tokens", "ms"]
    assert texts(grids_of(record)[0]) == [["2000"]]
    assert grids_of(record)[0].title == "lightning2-speed_fwd-batch1"


def test_the_unit_says_that_a_script_took_a_median() -> None:
    grid = grid_of(row("a", 512, 1.0, protocol="paper"), kind="ms")
    assert (grid.unit, texts(grid)) == ("ms, median as the script took it", [["1.000000"]])


def test_only_failed_rows_are_a_table_that_says_so() -> None:
    grid = grid_of(
        row("a", 512, status="oom", reason="full"), row("b", 512, status="unavailable", reason="no")
    )
    assert texts(grid) == [["OOM"]]
    assert grid.notes == ["a: oom at n = 512: full", "b: unavailable: no"]
    assert grid_of(row("b", 512, status="unavailable", reason="no")).columns == []


def test_mixed_columns_have_distinct_names_and_the_table_says_so() -> None:
    a100 = {"machine_id": "m2", "device_name": "A100"}
    records = (row("a", 512, 1.0), row("a", 512, 2.0, **a100), row("flash2", 512, 3.0, **a100))
    assert len(grids_of(*records, kind="ms")) == 2
    grid = grid_of(*records, kind="ms", mix=True)
    assert [(c.provider, c.over) for c in grid.columns] == [
        ("a", "NVIDIA H200"),
        ("a", "A100"),
        ("flash2", "A100"),
    ]
    assert grid.notes[0].startswith("Columns of different suites, machines or protocols stand side by side")
    assert grid.title.startswith("mixed-speed_fwd")
    speedup = grid_of(*records, kind="speedup", mix=True)
    assert texts(speedup) == [["no baseline", "1.50×", "1.00×"]]
    same_name = grid_of(row("a", 512, 1.0), row("a", 512, 2.0, machine_id="m2"), kind="ms", mix=True)
    assert [c.over for c in same_name.columns] == ["NVIDIA H200 []", "NVIDIA H200 [m2]"]


def test_the_origin_is_under_a_table() -> None:
    record = row(
        "a",
        512,
        1.0,
        label="A of ours",
        provider_version="1.2",
        capability="9.0",
        driver="580",
        cuda="13.0",
        torch="2.11.0",
        triton="3.6.0",
        python="3.12.3",
        harness_version="0.1.0",
        harness_commit="abcdef",
        machine_id="m1",
    )
    other = replace(record, seq_len=1024, harness_commit="fedcba", reason="waited for launches")
    assert grid_of(record, other, kind="ms").origin == [
        "NVIDIA H200 (capability 9.0), driver 580, CUDA 13.0, torch 2.11.0, triton 3.6.0, Python 3.12.3; "
        "lightning-bench 0.1.0 at abcdef and fedcba; protocol lbench; machine m1",
        "providers: a = A of ours, linear_decay, 1.2",
        "a at n = 1024: waited for launches",
        "source: results/x.csv",
    ]


def test_a_table_of_two_gpus_says_so() -> None:
    records = [row("a", 512, 1.0, gpu_uuid="g1"), row("a", 1024, 1.0, gpu_uuid="g2")]
    records.append(row("b", 512, 1.0, gpu_uuid="g1"))
    differ = "gpu_uuid differs: g1 (a, b), g2 (a)"
    apart = f"Each shape was measured on one device, not all shapes on the same: {differ}"
    assert grid_of(*records, kind="ms").notes[0] == apart
    records.append(row("b", 1024, 1.0, gpu_uuid="g1"))  # a ratio to what another device took
    assert grid_of(*records, kind="ms").notes[0] == f"Not all times are of one device: {differ}"
    assert grid_of(*[replace(record, gpu_uuid="g1") for record in records], kind="ms").notes == []


def test_the_terminal_prints_all_of_a_grid(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    grid = grid_of(row("a", 512, 1.0), kind="ms")
    Sink().paper_table(grid)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"{grid.title}  ({grid.unit})"
    assert [line.split() for line in lines[1:4]] == [["n", "a"], ["linear_decay"], ["512", "1.0000"]]
    assert lines[4:] == [*grid.origin, ""]


def test_a_long_table_looks_at_its_lines_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, asked = grid_of(*(row("a", n, 1.0) for n in range(1, 50)), kind="ms"), Mock(return_value=["n"])
    monkeypatch.setattr("lightning_bench.report.tables.grid.line_heads", asked)
    assert grid.texts == [[str(n)] for n in range(1, 50)]
    asked.assert_called_once()


def test_kinds_by_name() -> None:
    names = [kind.name for kind in chosen_kinds(["memory,ms", "speed"]) or ()]
    assert names == ["memory", "ms", "speedup", "tflops", "gbps", "floor"]
    assert [kind.name for kind in chosen_kinds(["train"]) or ()] == [
        "tgs",
        "mfu",
        "peak",
        "phases",
        "train_energy",
    ]
    assert chosen_kinds([]) is None
    assert [kind.name for kind in chosen_kinds([",".join(KIND_NAMES)]) or ()] == list(KIND_NAMES)
    with pytest.raises(
        UsageError, match="--metric 'sped' is not known; allowed: speed, train, generate, energy, ms"
    ):
        chosen_kinds(["ms,sped"])


RECORDS = st.builds(
    lambda provider, n, time, status, machine: row(
        provider, n, time, status=status, machine_id=machine, floor_ms=0.5, tflops=time, gbps=time
    ),
    st.sampled_from(["a", "b", "flash2"]),
    st.sampled_from([512, 1024]),
    st.none() | st.floats(1e-3, 1e6),
    st.sampled_from(STATUSES),
    st.sampled_from(["m1", "m2"]),
)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(RECORDS, min_size=1, max_size=12), st.booleans())
def test_every_table_is_whole_and_of_one_origin_unless_mixed(records: list[Record], mix: bool) -> None:
    for grid in grids_of(*records, mix=mix):
        assert [len(line) for line in grid.cells] == [len(grid.columns)] * len(grid.lines)
        assert len({(c.provider, c.over) for c in grid.columns}) == len(grid.columns)
        machines = {c.row.record.machine_id for line in grid.cells for c in line if c.row}
        assert len(machines) <= 1 or (mix and "side by side" in grid.notes[0])
        for line in grid.cells:
            have = Counter(
                c.family for c, cell in zip(grid.columns, line, strict=True) if cell.value is not None
            )
            for cell in line:
                assert cell.text
                assert (cell.value is None) == (not cell.text[0].isdigit())
                assert not cell.best or cell.value is not None
            assert any(cell.best for cell in line) == any(count > 1 for count in have.values())
