"""Reports of energy: mJ per call with their spread, µJ per token, and watts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning_bench.record import Record, ResultFile
from lightning_bench.report.document import make_report
from lightning_bench.report.tables.grid import grids, sweep_grids
from lightning_bench.report.tables.groups import group
from tests.support.report_rows import PAPER, rows_of

ENERGY = replace(
    PAPER,
    metric="energy",
    median_ms=0.3,
    call_mj=123.4567,
    token_mj=123.4567 / (4 * 512),
    rest_w=112.3,
    power_w=523.7,
    energy_spread_percent=1.26,
)
UNSTABLE = replace(ENERGY, seq_len=1024, status="unstable", energy_spread_percent=7.0)
ROWS: list[Record] = [ENERGY, UNSTABLE, replace(ENERGY, provider="flash2", family="softmax", call_mj=99.0)]


def test_tables_of_energy() -> None:
    energy, tokens, power = grids(group(rows_of(ROWS)))
    assert [grid.kind for grid in (energy, tokens, power)] == ["call_energy", "token_energy", "power"]
    assert energy.title == "lightning2-energy_fwd-batch4-head32-qk_dim128-v_dim128-dtype_bf16"
    assert [cell.text for cell in energy.cells[0]] == ["123.457 (within 1.3 %)", "99.000 (within 1.3 %)"]
    assert energy.cells[1][0].text == "123.457 (within 7.0 %)*"
    assert tokens.cells[0][0].text == "60.28"
    assert power.cells[0][0].text == "524 (112)"


def test_a_sweep_and_a_report_show_them(tmp_path: Path) -> None:
    (grid,) = sweep_grids([ENERGY])
    assert grid.cells[0][0].text == "123.457"
    with ResultFile(tmp_path / "paper-energy.csv") as file:
        for record in ROWS:
            file.append(record)
    report = make_report([tmp_path / "paper-energy.csv"], metrics=["power"])
    assert [grid.kind for grid in report.grids] == ["power"]
    assert {row.record.token_mj for row in report.rows} >= {ENERGY.token_mj}
