"""CUPTI's timer on a real GPU: it agrees with events, sees all streams and threads, and counts no flush."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_bench.measure.device.call_watch import NoCallWatch
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

ONE_CELL = """
import sys
sys.path.insert(0, "benchmarks")
import timer_agreement as script
script.PROVIDERS = ("lightning2",)
script.CELLS = [script.Cell("lightning2", "bwd", 512)]
sys.argv = ["timer_agreement.py", sys.argv[1]]
raise SystemExit(script.main())
"""


@pytest.fixture
def cupti() -> Iterator[Any]:
    pytest.importorskip("cupti")
    from lightning_bench.measure.device.cupti_timer import CuptiTimer

    timer = CuptiTimer()
    yield timer
    timer.release()


def taken(timer: Any, fn: Callable[[], Any], count: int = 5) -> list[Any]:
    """Sample twice and return the calls of the second time."""
    timer.sample(fn, count, NoCallWatch())
    spans = timer.sample(fn, count, NoCallWatch())
    calls = timer.calls[-count:]
    assert [call.span_ms for call in calls] == spans
    return list(calls)


def copy_call() -> Callable[[], Any]:
    source = torch.randn(2**26, device="cuda")
    target = torch.empty_like(source)
    return lambda: torch.mul(source, 2.0, out=target)


def matmul_call() -> Callable[[], Any]:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return lambda: a @ b


@pytest.mark.parametrize("make", [copy_call, matmul_call])
def test_a_known_kernel_takes_as_long_as_by_events(cupti: Any, make: Callable[[], Any]) -> None:
    from lightning_bench.measure.device.timer import CudaTimer

    fn = make()
    calls = taken(cupti, fn, 20)
    cupti.release()  # what follows is not traced
    events = CudaTimer()
    events.sample(fn, 20, NoCallWatch())
    untraced = float(np.median(events.sample(fn, 20, NoCallWatch())))
    span, traced = (float(np.median([getattr(c, name) for c in calls])) for name in ("span_ms", "events_ms"))
    for other in (traced, untraced):
        assert abs(span - other) <= max(0.02 * other, 0.005)
    assert span <= traced, "the events lie around the kernels"
    # cuBLAS may take several kernels for one product.
    (activities,) = {call.activities for call in calls}
    assert activities >= 1


def test_the_flush_is_not_counted(cupti: Any) -> None:
    small = torch.ones(64, device="cuda")
    calls = taken(cupti, lambda: small.add_(1))
    assert {call.activities for call in calls} == {1}
    assert max(call.span_ms for call in calls) < 0.015, "128 MiB alone take longer"
    assert all(call.busy_ms == call.span_ms for call in calls)


def test_work_on_a_second_stream_that_nobody_waits_for_is_seen(cupti: Any) -> None:
    small, side = torch.ones(64, device="cuda"), torch.cuda.Stream()

    def fn() -> None:
        small.add_(1)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(4_000_000)  # about 2 ms

    for call in taken(cupti, fn, 1):
        assert call.activities == 2
        assert call.span_ms > 1.0
        assert call.events_ms < 0.5 * call.span_ms


def test_a_backward_pass_which_another_thread_launches_is_seen(cupti: Any) -> None:
    x = torch.randn(2**24, device="cuda", requires_grad=True)
    loss = (x * x).sum()
    grad = torch.ones_like(loss)
    calls = taken(cupti, lambda: torch.autograd.grad(loss, x, grad, retain_graph=True))
    assert min(call.activities for call in calls) >= 1
    # 64 MiB are written at least.
    assert min(call.span_ms for call in calls) > 2**26 / 8e12 * 1e3


def test_every_kernel_of_a_graph_is_of_its_replay(cupti: Any) -> None:
    small = torch.ones(64, device="cuda")
    small.add_(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(3):
            small.add_(1)
    assert {call.activities for call in taken(cupti, graph.replay)} == {3}


def test_copies_and_fills_count(cupti: Any) -> None:
    source = torch.ones(2**20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    assert {call.activities for call in taken(cupti, lambda: target.copy_(source))} == {1}


def test_an_empty_call_begins_and_ends_with_launches_of_the_same_size(cupti: Any, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from empty_kernel import empty_like

    from lightning_bench.measure.device.cupti_timer import TracedCall
    from lightning_bench.measure.device.cupti_trace import LaunchSize

    large, small = LaunchSize((4, 32, 1), (128, 1, 1), 163840), LaunchSize((1, 1, 1), (32, 1, 1), 0)
    for activities, first, last in ((1, large, large), (4, None, small), (2, small, large), (1, None, None)):
        calls = taken(cupti, empty_like(TracedCall(1.0, 1.0, activities, 1.0, first, last)))
        expected = {(min(activities, 2), first, last)}
        assert {(call.activities, call.first, call.last) for call in calls} == expected


def test_it_traces_again_after_a_release(cupti: Any) -> None:
    small = torch.ones(64, device="cuda")
    for _ in range(3):
        assert len(taken(cupti, lambda: small.add_(1))) == 5
        cupti.release()
        assert cupti.calls == []


def test_the_agreement_script_writes_a_row_and_resumes(tmp_path: Path) -> None:
    for package in ("cupti", "cuda.bench"):
        pytest.importorskip(package)
    out = tmp_path / "a.csv"
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", ONE_CELL, str(out)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=PATIENCE_S,
        )
        assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    (row,) = csv.DictReader(out.read_text().splitlines())
    figures = {
        name: float(row[name]) for name in row if name.endswith(("_ms", "_us", "_mhz", "_cycles", "_ratio"))
    }
    signed = {name for name in figures if name.endswith(("difference_us", "remainder_us", "untraced_us"))}
    assert min(figures[name] for name in figures.keys() - signed - {"cupti_gaps_us"}) > 0, row
    parts = ("kernel_overhead_us", "untraced_us", "cupti_remainder_us")
    assert sum(figures[name] for name in parts) == pytest.approx(figures["cupti_difference_us"], abs=0.005)
    assert int(row["nvbench_samples"]) >= 10
    assert int(row["lbench_samples"]) + int(row["lbench_dropped"]) == (
        int(row["nvbench_samples"]) + int(row["nvbench_dropped"])
    ), "one sample each in turn"
    assert float(row["cupti_busy_ms"]) <= float(row["cupti_median_ms"])
    assert "Wrote" not in ran.stdout, "the second time nothing was left"
