"""What the published tables measured: each figure of a finding follows from rows or is reported missing."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.record import ResultFile, Row
from lightning_bench.report.collect import collect, published_folder
from lightning_bench.report.document import make_comparison
from lightning_bench.report.formats.markdown import findings_markdown
from lightning_bench.report.published.evidence import (
    FAULTS_COMMAND,
    FAULTS_CSV,
    faults_in,
    main_machine,
)
from lightning_bench.report.published.findings import findings
from lightning_bench.report.published.prose import Finding
from tests.support.paths import ROOT

H200 = ROOT / "results" / "h200"
PUBLISHED = collect([published_folder()]).rows
MEASURED = collect([H200]).rows


def finding_at(measured: list[Row], at: int, faults: list[Path] | None = None) -> Finding:
    return findings(PUBLISHED, measured, faults or [])[at]


def test_without_measured_rows_every_finding_says_what_is_missing() -> None:
    for finding in findings(PUBLISHED, []):
        assert all("/published/" in source for source in finding.sources)
    assert "No provider here was measured by both protocols" in finding_at([], 0).paragraphs[2]
    assert FAULTS_COMMAND in finding_at([], 0).paragraphs[3]
    assert "`lbench memory paper --protocol paper` does" in finding_at([], 2).paragraphs[0]
    assert "`lbench speed fla-readme` does" in finding_at([], 3).paragraphs[1]
    assert finding_at([], 4).listings[0].lines[0][2] == "not measured"


def test_accumulation_is_the_difference_of_the_protocols_for_one_version() -> None:
    cells = [r for r in MEASURED if r.record.provider == "flash2" and r.record.metric == "speed"]
    finding = finding_at(cells, 0)
    line = next(line for line in finding.listings[0].lines if line[1] == "512")
    by_key = {
        (r.record.protocol, r.record.direction): r.record for r in cells if r.record.case_id.find("n512-") > 0
    }
    paper, ours = by_key["paper", "bwd"].mean_ms, by_key["lbench", "bwd"].median_ms
    assert paper
    assert ours
    assert line[:5] == ["flash2", "512", f"{paper:.4f}", f"{ours:.4f}", f"{paper - ours:.4f}"]
    # 9 U to add up three tensors, where the backward pass must move 7 U
    assert line[5] == f"{9 / 7 * (by_key['lbench', 'bwd'].floor_ms or 0):.4f}"
    other = [
        Row(replace(r.record, provider_version="another"), r.source) if r.record.protocol == "paper" else r
        for r in cells
    ]
    assert finding_at(other, 0).listings == []


def test_columns_that_ran_xformers_are_found_by_their_figures() -> None:
    finding = finding_at(MEASURED, 1)
    assert "`lightning2` and `flash2` equal the column of xFormers in all 14 cells" in finding.paragraphs[0]
    assert "(0 of 14 cells are equal)" in finding.paragraphs[0]
    assert finding.listings[0].lines[0][2:] == [
        *["64.250488", "64.000488"],
        *["64.250488"] * 2,
        *["64.000488"] * 2,
    ]
    mended = [
        Row(replace(r.record, peak_mib=1.0), r.source)
        if r.record.suite == "lightning2-benchmarks" and r.record.provider == "flash2"
        else r
        for r in PUBLISHED
    ]
    assert "the columns `lightning2` equal" in findings(mended, [])[1].paragraphs[0]


def test_memory_that_is_titled_speed_is_reproduced_as_memory() -> None:
    finding = finding_at(MEASURED, 2)
    assert "`lightning2-speed_fwd-batch4-head32-qk_dim128-v_dim128-dtype_bf16`" in finding.paragraphs[0]
    assert "of the 42 cells of the two memory tables" in finding.paragraphs[0]
    assert "35 come out again to all six decimals" in finding.paragraphs[0]
    assert "those that do not are 7 of xformers bwd" in finding.paragraphs[0]


def test_the_mask_is_a_factor_of_two_in_the_arithmetic() -> None:
    finding = finding_at(MEASURED, 3)
    assert "193 TFLOP/s if it is of all pairs" in finding.paragraphs[0]
    assert "191 TFLOP/s there, of half the pairs" in finding.paragraphs[0]
    for line in finding.listings[0].lines:
        assert float(line[4]) == pytest.approx(2 * float(line[5]), abs=1.01)
    assert len(finding.listings[0].lines) == 8


def test_rows_of_fla_readme_are_beside_the_published_ones() -> None:
    base = next(r.record for r in MEASURED if r.record.provider == "flash2" and r.record.protocol == "lbench")
    here = [
        Row(
            replace(base, provider=p, metric="speed", direction="fwd_bwd", batch=8, seq_len=128, median_ms=x),
            "h.csv",
        )
        for p, x in (("flash2", 0.5), ("fla-chunk", 0.25))
    ]
    finding = finding_at(here, 3)
    assert finding.listings[0].lines[0][6:] == ["0.5000", "0.2500", "2.00"]
    assert not any("not measured here yet" in paragraph for paragraph in finding.paragraphs)
    assert "h.csv" in finding.sources


def test_173_600488_is_computed() -> None:
    finding = finding_at(MEASURED, 5)
    assert finding.title == "Where 173.600488 comes from"
    assert "(128 + 19 · 176) / 20 = 173.6" in finding.paragraphs[0]
    for line in finding.listings[0].lines:
        assert line[3] == line[4] == line[5]
        assert float(line[6]) == pytest.approx(float(line[1]), abs=0.001)


def test_findings_are_on_the_machine_with_most_rows(tmp_path: Path) -> None:
    few = [Row(replace(row.record, machine_id="m2"), "other.csv") for row in MEASURED[:3]]
    assert main_machine([*few, *MEASURED]) == MEASURED
    assert main_machine([]) == []
    with ResultFile(tmp_path / "two.csv") as file:
        for row in (*few, *MEASURED[:9]):
            file.append(row.record)
    remarks = make_comparison([tmp_path]).remarks
    assert f"which has most: NVIDIA H200 {MEASURED[0].record.machine_id}." in remarks[-1]


def test_a_measured_fault_replaces_the_command(tmp_path: Path) -> None:
    path = tmp_path / "h200" / FAULTS_CSV
    path.parent.mkdir()
    columns = ["fault", "provider", "direction", "seq_len", "with_ms", "without_ms", "device_name"]
    lines = [
        ["gradient accumulation", "flash2", "bwd", "512", "0.2", "0.16", "NVIDIA H200"],
        ["no causal mask", "flash2", "fwd_bwd", "16384", "357.0", "178.5", "NVIDIA H200"],
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *lines])
    assert faults_in([tmp_path]) == [path]
    accumulation, mask = (finding_at([], at, [path]) for at in (0, 3))
    assert accumulation.listings[0].lines == [
        ["flash2", "bwd", "512", "0.2000", "0.1600", "0.0400", "1.250", "NVIDIA H200"]
    ]
    assert mask.listings[0].lines[0][-2] == "2.000"
    assert not any(FAULTS_COMMAND in p for p in (*accumulation.paragraphs, *mask.paragraphs))
    assert path.as_posix() in accumulation.sources
    path.write_text(path.read_text().replace("0.16", "soon"))
    with pytest.raises(UsageError, match="run it again"):
        findings(PUBLISHED, [], [path])


def test_as_markdown() -> None:
    text = findings_markdown(findings(PUBLISHED, MEASURED))
    assert text.startswith("# What the published tables measured\n\n## Gradients are accumulated")
    assert text.count("\n## ") == 6
    assert "Source: results/h200/paper-memory-published.csv, " in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
