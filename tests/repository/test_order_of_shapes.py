"""Whether what a process measured before changes a time: real sweeps of small shapes on a CPU."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lightning_bench.providers import get_provider
from lightning_bench.record import read_records
from lightning_bench.record.codec import read_cells
from tests.support.forked_workers import FORKING_LBENCH
from tests.support.paths import ROOT

SUITE = """
title = "Small"
description = "Two lengths that take no time."
device = "cpu"
[limits]
sample_limit_s = 0.05
min_samples = 6
max_samples = 12
ci_percent = 50.0
[[group]]
providers = ["sdpa-math"]
direction = ["fwd", "bwd"]
dtype = "fp32"
batch = 1
heads = 1
seq_len = [16, 32]
head_dim = 16
"""
ORDERS = ["ascending", "descending", "alone", "again", "ascending-beside", "descending-beside"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as where it runs as a script
    return importlib.import_module("order_of_shapes")


def test_each_order_has_every_length_once(script: ModuleType) -> None:
    orders = script.orders((64, 16, 32), beside=True)
    assert [order.name for order in orders] == ORDERS
    assert {order.name: order.sweeps for order in orders if not order.beside} == {
        "ascending": ((16, 32, 64),),
        "descending": ((64, 32, 16),),
        "alone": ((16,), (32,), (64,)),
        "again": ((16, 32, 64),),
    }
    assert script.orders((16,), beside=False) == script.orders((16,), beside=True)[:4]


def test_without_another_gpu_there_is_no_neighbour(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "visible_gpus", lambda: 2)
    assert script.neighbour("cuda") == "cuda:1"
    monkeypatch.setattr(script, "visible_gpus", lambda: 1)
    assert script.neighbour("cuda") is None
    assert "there is no other GPU" in capsys.readouterr().out


def test_a_sweep_is_kept_for_its_options_and_versions_only(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path(*more: str) -> Path:
        words = ["out.csv", "--work", "work", "--device", "cpu", "--providers", "lightning2-torch", *more]
        bench = script.Bench(script.parser().parse_args(words))
        return bench.path(bench.orders[0], (16, 32))

    own = path()
    assert path() == own
    others = {path("--processes", "2"), path("--direction", "fwd"), path("--suite", "dims")}
    monkeypatch.setattr(type(get_provider("lightning2-torch")), "version", lambda _: "another")
    assert len({own, path(), *others}) == 5


def test_the_summary_says_how_far_each_process_is_off(script: ModuleType) -> None:
    def row(order: str, change: float | str, medians: str) -> dict[str, object]:
        median = 2.0 * (1 + float(change or 0) / 100)
        inside = "" if change == "" else int(abs(float(change)) < 1)
        return {
            "provider": "p", "direction": "bwd", "order": order, "median_ms": median,
            "process_medians_ms": medians, "change_percent": change, "inside": inside,
        }  # fmt: skip

    rows = [
        row("ascending", "", "2;2"),
        row("descending", 2.0, "2.04;2.06"),
        row("descending", 0.5, "2.01;2.1"),
        row("descending", 1.0, "2.02"),
        row("alone", "", ""),
    ]
    descending, alone = script.summary(rows)
    assert descending == (
        "p bwd descending: 1 of 3 inside; median change +1.00 %, from +0.50 to +2.00 %; "
        "processes +1.25, +4.00 %"
    )
    assert alone == "p bwd alone: 0 of 1 inside"


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_every_order_is_measured_once_and_compared_with_the_first(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "LBENCH", FORKING_LBENCH)
    monkeypatch.chdir(ROOT)
    suite, out, work = tmp_path / "small.toml", tmp_path / "order.csv", tmp_path / "work"
    suite.write_text(SUITE)

    def run(*more: str) -> str:
        words = [str(out), "--work", str(work), "--suite", str(suite), "--device", "cpu", "--processes", "2"]
        providers = ["--providers", "sdpa-math"]
        monkeypatch.setattr(sys, "argv", ["order_of_shapes.py", *words, *providers, *more])
        assert script.main() == 0
        return capsys.readouterr().out

    lengths = ["--seq-len", "32", "16"]
    printed = run(*lengths, "--beside")
    rows = read_cells(out)
    cases = 2
    assert [row["order"] for row in rows] == [order for order in ORDERS for _ in range(cases)]
    for row in rows:
        assert row["direction"] == "bwd"
        medians = [float(text) for text in row["process_medians_ms"].split(";")]
        assert len(medians) == 2
        assert min(abs(median / float(row["median_ms"]) - 1) for median in medians) < 1e-4
        assert row["harness_commit"]
    first = {(row["provider"], row["seq_len"]): row for row in rows[:cases]}
    for row in rows[:cases]:
        assert row["change_percent"] == row["inside"] == ""
    for row in rows[cases:]:
        then, median = first[row["provider"], row["seq_len"]], float(row["median_ms"])
        assert float(row["change_percent"]) == pytest.approx(
            100 * (median / float(then["median_ms"]) - 1), abs=1e-3
        )
        inside = float(then["ci_low_ms"]) <= median <= float(then["ci_high_ms"])
        assert row["inside"] == str(int(inside))
    assert printed.count("sdpa-math bwd ") == len(ORDERS) - 1
    kept = {path.name.partition("-")[0]: path for path in work.glob("*-2x*.csv") if "beside" not in path.name}
    measured = {name: [row.seq_len for row in read_records(path)] for name, path in kept.items()}
    assert measured == {
        "ascending": [16, 32],
        "descending": [32, 16],
        "again": [16, 32],
    }

    kept["descending"].unlink()
    printed = run(*lengths)
    assert printed.startswith("warm-up\ndescending: 32, 16\nsdpa-math bwd descending: ")
    assert [row["time_utc"] for row in read_cells(out)[:cases]] == [row["time_utc"] for row in rows[:cases]]
    assert run(*lengths).startswith("sdpa-math bwd descending: ")  # nothing is left to measure
