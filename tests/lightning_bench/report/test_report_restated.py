"""Floors and rates of rows that another version wrote: computed anew, or left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lightning_bench.families.work import Work
from lightning_bench.record import Record
from lightning_bench.report.restated import restated


def row(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "metric": "speed",
        "protocol": "lbench",
        "status": "ok",
        "case_id": "flash4/bwd/b4-h32-n8192-d128-e128-bf16-cuda",
        "provider": "flash4",
        "family": "softmax",
        "direction": "bwd",
        "dtype": "bf16",
        "batch": 4,
        "heads": 32,
        "seq_len": 8192,
        "head_dim": 128,
        "value_dim": 128,
        "device": "cuda",
        "median_ms": 10.0,
        "ceiling_gbps": 4200.0,
        "ceiling_tflops": 730.0,
    }
    return Record(**(values | changes))


def test_a_floor_of_bytes_alone_is_computed_anew() -> None:
    of_bytes = row(model_bytes=7 * 2**28, floor_ms=7 * 2**28 / 4200e6, floor_ratio=22.0)
    got = restated(of_bytes)
    work = Work.of("softmax", got.shape, "bwd")
    assert (got.model_flops, got.model_bytes) == (work.min_flops, work.min_bytes)
    assert got.floor_ms == pytest.approx(work.min_flops / 730e9)
    assert got.floor_ratio == pytest.approx(10.0 / got.floor_ms)
    assert got.tflops == pytest.approx(work.min_flops / 10.0 / 1e9)
    assert got.gbps == pytest.approx(work.min_bytes / 10.0 / 1e6)
    assert restated(got) is got


def test_a_row_of_today_stays_as_it_is() -> None:
    work = Work.of("softmax", row().shape, "bwd")
    floor = work.floor_at(4200.0, 730.0)
    today = row(model_flops=work.min_flops, model_bytes=float(work.min_bytes), floor_ms=floor)
    assert restated(today) is today


@pytest.mark.parametrize("missing", ["ceiling_gbps", "ceiling_tflops"])
def test_without_the_ceilings_of_its_run_a_row_has_no_floor(missing: str) -> None:
    got = restated(row(floor_ms=0.2, floor_ratio=50.0, **{missing: None}))
    assert (got.floor_ms, got.floor_ratio) == (None, None)
    assert got.tflops is not None


def test_a_family_that_is_gone_has_no_floor_and_other_metrics_are_left_alone() -> None:
    gone = restated(row(family="forgotten", floor_ms=0.2, floor_ratio=50.0, tflops=3.0))
    assert (gone.floor_ms, gone.floor_ratio, gone.tflops) == (None, None, 3.0)
    memory = replace(row(), metric="memory", median_ms=None, extra_mib=3.0)
    failed = replace(row(), status="crashed", median_ms=None)
    assert restated(memory) is memory
    assert restated(failed) is failed
    without = row()
    assert restated(without) is without
