"""The published tables as rows, and what stands beside each of their cells."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from lightning_bench.record import Record, Row
from lightning_bench.report.collect import collect, published_folder
from lightning_bench.report.published.against import against
from lightning_bench.report.tables.figures import title
from lightning_bench.report.tables.grid import Grid

ROWS = collect([published_folder()]).rows
RECORDS = [row.record for row in ROWS]
MEMORY = "lightning2-memory_bwd-batch4-head32-qk_dim128-v_dim128-dtype_bf16"
SPEED = "lightning2-speed_bwd-batch4-head32-qk_dim128-v_dim128-dtype_bf16"


def pick(
    suite: str, provider: str, seq_len: int, metric: str = "speed", direction: str = "fwd_bwd"
) -> Record:
    (found,) = (
        r
        for r in RECORDS
        if (r.suite, r.provider, r.seq_len, r.metric, r.direction)
        == (suite, provider, seq_len, metric, direction)
    )
    return found


def measured(record: Record, provider: str, **changes: Any) -> Row:
    """Return a row of ours for the cell of a published row."""
    case_id = record.case_id.replace(f"{record.provider}/", f"{provider}/")
    named = {"provider": provider, "case_id": case_id, "suite": "paper", "provider_config": "", "reason": ""}
    return Row(
        replace(record, **{**named, "device_name": "NVIDIA H200", "machine_id": "m1", **changes}), "h.csv"
    )


def table(rows: list[Row], name: str) -> Grid:
    (grid,) = (each for each in against(rows, ROWS) if each.title == name)
    return grid


def column(grid: Grid, provider: str, over: str) -> list[str]:
    (index,) = (i for i, c in enumerate(grid.columns) if (c.provider, c.over) == (provider, over))
    return [line[index].text for line in grid.cells]


def test_every_published_figure_has_its_source_and_device() -> None:
    assert Counter(r.suite for r in RECORDS) == {
        "lightning2": 84,
        "lightning2-benchmarks": 56,
        "fla-performance": 24,
        "tnl-train-0.4B": 27,
        "tnl-train-1B": 27,
        "tnl-train-3B": 27,
    }
    assert Counter(r.status for r in RECORDS) == {"ok": 233, "oom": 12}
    assert {r.device_name for r in RECORDS} == {"not stated", "A100-PCIe-40G", "2 x A100-80G"}
    assert {r.protocol for r in RECORDS} == {"paper"}
    cited = (
        "lightning-attention README, table ",
        "lightning-attention benchmarks/README.md at 0ae41be8808e, table ",
        "flash-linear-attention README, ",
        "arXiv 2401.04658 Table 1",
    )
    assert all(any(source in r.reason for source in cited) for r in RECORDS)


def test_each_published_table_is_its_own_machine() -> None:
    tables = {(r.suite, title(r)) for r in RECORDS}
    assert len(tables) == 10
    assert len({(r.machine_id, title(r)) for r in RECORDS}) == len({r.machine_id for r in RECORDS}) == 10


@pytest.mark.parametrize(
    ("record", "figure"),
    [
        (pick("lightning2", "lightning2", 512, "memory", "bwd").peak_mib, 173.600488),
        (pick("lightning2", "xformers", 32768, "speed", "bwd").mean_ms, 1078.135376),
        (pick("lightning2", "flash2", 8192, "speed", "fwd").mean_ms, 10.487619),
        (pick("fla-performance", "based", 16384).median_ms, 563.009949),
    ],
)
def test_figures_are_the_published_ones(record: float, figure: float) -> None:
    assert record == figure


def test_titles_are_the_published_ones() -> None:
    assert title(pick("lightning2", "flash2", 512, "memory", "bwd")) == MEMORY


def test_tokens_per_second_are_reproduced() -> None:
    for r in RECORDS:
        if r.suite.startswith("tnl") and r.status == "ok":
            assert r.mean_ms is not None
            stated = int(r.provider_config.rsplit("tokens_per_gpu_s=", 1)[1])
            assert r.seq_len / r.mean_ms * 1e3 == pytest.approx(stated, rel=1e-10)
    assert "tokens_per_gpu_s=38596" in pick("tnl-train-0.4B", "tnl-la2", 94208).provider_config


def test_published_and_measured_figures_are_side_by_side() -> None:
    cell = pick("lightning2", "xformers", 512, "memory", "bwd")
    grid = table([measured(cell, "xformers", peak_mib=222.358301)], MEMORY)
    assert column(grid, "xformers", "published")[0] == "270.100977"
    assert column(grid, "xformers", "here") == ["222.358301", *["no row"] * 6]
    assert column(grid, "xformers", "ratio") == ["0.823", *["no ratio"] * 6]
    assert len(grid.lines) == 7
    assert "not measured here: lightning-official, lightning2, flash2" in grid.notes


def test_the_authors_kernel_and_ours_are_both_beside_the_published_one() -> None:
    cell = pick("lightning2", "lightning2", 512, "speed", "bwd")
    rows = [measured(cell, name, mean_ms=x) for name, x in (("lightning2", 0.1), ("lightning-official", 1.0))]
    columns = [(c.provider, c.over) for c in table(rows, SPEED).columns]
    assert columns[:5] == [
        ("lightning2", "published"),
        ("lightning-official", "here"),
        ("lightning-official", "ratio"),
        ("lightning2", "here"),
        ("lightning2", "ratio"),
    ]


def test_memory_is_compared_as_a_peak_under_either_protocol() -> None:
    cell = pick("lightning2", "flash2", 512, "memory", "bwd")
    grid = table([measured(cell, "flash2", protocol="lbench", peak_mib=160.5, extra_mib=48.0)], MEMORY)
    assert column(grid, "flash2", "here")[0] == "160.500000"
    assert any(".grad that earlier ones left" in note for note in grid.notes)


def test_machines_and_protocols_have_their_own_tables_paper_first() -> None:
    cell = pick("lightning2", "flash2", 512, "speed", "bwd")
    rows = [
        measured(cell, "flash2", protocol="lbench", median_ms=0.1, mean_ms=None),
        measured(cell, "flash2", mean_ms=0.2),
        measured(cell, "flash2", mean_ms=0.3, machine_id="m2"),
    ]
    found = [grid for grid in against(rows, ROWS) if grid.title == SPEED]
    assert [column(grid, "flash2", "here")[0] for grid in found] == ["0.200000", "0.300000", "0.100000"]
    assert any("no gradient is added up" in note for note in found[2].notes)
    assert not any("no gradient is added up" in note for note in found[0].notes)


def test_a_failed_row_of_ours_says_why_and_unstable_is_marked() -> None:
    cell, other = (pick("lightning2", "flash2", n, "speed", "bwd") for n in (512, 1024))
    rows = [
        measured(cell, "flash2", status="oom", mean_ms=None),
        measured(other, "flash2", status="unstable", mean_ms=0.955281),
    ]
    grid = table(rows, SPEED)
    assert column(grid, "flash2", "here")[:2] == ["OOM", "0.955281*"]
    assert column(grid, "flash2", "ratio")[:2] == ["no ratio", "1.000*"]


def test_the_mask_that_the_fla_table_left_out_is_named() -> None:
    cell = pick("fla-performance", "flash2", 512)
    rows = [measured(cell, "flash2", protocol="lbench", median_ms=0.5)]
    rows.append(measured(cell, "fla-chunk", protocol="lbench", median_ms=0.7))
    name = "fla-performance-speed_fwd_bwd-batch8-head32-qk_dim128-v_dim128-dtype_bf16"
    grid = table(rows, name)
    assert (
        "flash2: published without the causal mask, measured here with it: about half the work" in grid.notes
    )
    assert column(grid, "fla-chunk", "here")[2] == "0.700000"
    bare = measured(cell, "flash2-full", protocol="lbench", median_ms=0.9, family="softmax_full")
    without_mask = "flash2: published without the causal mask, as flash2-full is here"
    assert f"{without_mask}; flash2 has it: about half the work" in table([*rows, bare], name).notes
    assert without_mask in table([bare], name).notes
    alone = table([], name)
    assert "no row here measures this table: `lbench speed fla-readme` does" in alone.notes
    assert [c.over for c in alone.columns] == ["published"] * 3


def test_whole_models_are_compared_with_nothing() -> None:
    assert len(against([], ROWS)) == 7


def test_columns_that_were_published_with_equal_figures_are_named() -> None:
    notes = [
        note for grid in against([], ROWS) for note in grid.notes if "same figure at every length" in note
    ]
    assert len(notes) == 2
    assert all(note.startswith("lightning2, flash2, xformers: published") for note in notes)
