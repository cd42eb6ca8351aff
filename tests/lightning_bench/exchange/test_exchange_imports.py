"""Files that other tools wrote, as sides of a comparison."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.comparison.judge import compare_sides
from lightning_bench.comparison.noise import Noises
from lightning_bench.comparison.result import Comparison
from lightning_bench.errors import UsageError
from lightning_bench.exchange.imports import read_any_side

DATA = Path(__file__).parent / "data"


def compared(base: Path, head: Path, **options: Any) -> Comparison:
    sides = read_any_side(base), read_any_side(head)
    return compare_sides(*sides, threshold=0.03, noises=Noises([]), **options)


class TestNvbench:
    def test_every_state_that_ran_is_a_run(self) -> None:
        data = json.loads((DATA / "nvbench-ref.json").read_text())
        ran = [state for bench in data["benchmarks"] for state in bench["states"] if not state["is_skipped"]]
        side = read_any_side(DATA / "nvbench-ref.json")
        assert len(side.runs) == len(ran) > 12
        first = side.runs[0]
        assert first.record.case_id == "simple/device0"
        assert (first.record.device, first.record.device_name) == ("cuda", "Quadro GV100")
        assert first.record.median_ms == pytest.approx(1.0034715849794225)
        assert first.df == 498
        assert math.sqrt(first.variance) == pytest.approx(0.0005782350585973689 / math.sqrt(499))
        assert {run.record.case_id for run in side.runs} >= {"copy_type_sweep/T=U8/device0"}

    def test_two_runs_are_compared(self) -> None:
        found = compared(DATA / "nvbench-ref.json", DATA / "nvbench-cmp.json")
        assert len(found.cells) == len(read_any_side(DATA / "nvbench-ref.json").runs)
        assert not {cell.verdict for cell in found.cells} & {"INCOMPARABLE", "MISSING", "NEW"}

    def test_a_slower_benchmark_is_found(self, tmp_path: Path) -> None:
        data = json.loads((DATA / "nvbench-cmp.json").read_text())
        for summary in data["benchmarks"][0]["states"][0]["summaries"]:
            if summary["tag"] == "nv/cold/time/gpu/mean":
                summary["data"][0]["value"] = "0.0030"
        (tmp_path / "slow.json").write_text(json.dumps(data))
        found = compared(DATA / "nvbench-ref.json", tmp_path / "slow.json")
        assert {cell.case_id: cell.verdict for cell in found.cells}["simple/device0"] == "SLOWER"

    def test_a_benchmark_of_the_cpu_has_no_device(self, tmp_path: Path) -> None:
        data = json.loads((DATA / "nvbench-ref.json").read_text())
        data["benchmarks"][0]["states"][0]["device"] = None
        (tmp_path / "cpu.json").write_text(json.dumps(data))
        first = read_any_side(tmp_path / "cpu.json").runs[0].record
        assert (first.case_id, first.device) == ("simple", "cpu")

    def test_a_median_counts_before_a_mean(self, tmp_path: Path) -> None:
        data = json.loads((DATA / "nvbench-ref.json").read_text())
        median = {
            "tag": "nv/cold/time/gpu/median",
            "data": [{"name": "value", "type": "float64", "value": "2e-3"}],
        }
        data["benchmarks"][0]["states"][0]["summaries"].append(median)
        (tmp_path / "new.json").write_text(json.dumps(data))
        assert read_any_side(tmp_path / "new.json").runs[0].record.median_ms == pytest.approx(2.0)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda data: data["meta"]["version"]["json"].update(major=2),
                "version 2 of nvbench's JSON; allowed: 1",
            ),
            (lambda data: data["benchmarks"][0].pop("states"), "it lacks 'states'"),
            (lambda data: data.update(benchmarks=[7]), "is damaged"),
        ],
    )
    def test_what_is_not_as_nvbench_writes_it(self, tmp_path: Path, change: Any, said: str) -> None:
        data = json.loads((DATA / "nvbench-ref.json").read_text())
        change(data)
        (tmp_path / "x.json").write_text(json.dumps(data))
        with pytest.raises(UsageError, match=said):
            read_any_side(tmp_path / "x.json")


class TestPytestBenchmark:
    def test_every_test_is_a_run(self) -> None:
        side = read_any_side(DATA / "pytest-benchmark-base.json")
        data = json.loads((DATA / "pytest-benchmark-base.json").read_text())
        assert [run.record.case_id for run in side.runs] == [each["fullname"] for each in data["benchmarks"]]
        for run, each in zip(side.runs, data["benchmarks"], strict=True):
            assert run.record.median_ms == pytest.approx(1e3 * each["stats"]["median"])
            assert run.record.samples == each["stats"]["rounds"]
            assert run.record.device == "cpu"

    def test_three_times_the_work_is_slower(self) -> None:
        found = compared(DATA / "pytest-benchmark-base.json", DATA / "pytest-benchmark-head.json")
        verdicts = {cell.case_id: cell.verdict for cell in found.cells}
        assert verdicts["bench_sum.py::test_sort"] == "SLOWER"

    def test_the_command_reads_both(self, lbench: Any) -> None:
        ran = lbench("compare", DATA / "pytest-benchmark-base.json", DATA / "pytest-benchmark-head.json")
        assert ran.code == 1
        assert "bench_sum.py::test_sort" in ran.out


@pytest.fixture
def report(tmp_path: Path) -> Any:
    """Let triton's perf_report write a CSV of figures that a function gives."""
    testing = pytest.importorskip("triton.testing", reason="triton is not installed")

    def write(name: str, figures: Any, unit: str = "ms") -> Path:
        benchmark = testing.Benchmark(
            x_names=["M", "N"],
            x_vals=[(128, 256), (512, 1024)],
            line_arg="provider",
            line_vals=["ours", "theirs"],
            line_names=["Ours", "Theirs, old"],
            ylabel=unit,
            plot_name=name,
            args={},
        )

        def measure(M: int, N: int, provider: str) -> Any:
            return figures(M, provider)

        testing.perf_report(benchmark)(measure).run(save_path=str(tmp_path), print_data=False)
        return tmp_path / f"{name}.csv"

    return write


class TestTriton:
    def test_every_line_and_row_is_a_run(self, report: Any) -> None:
        path = report("base", lambda m, provider: m / 1000 if provider == "ours" else 3.5)
        times = {run.record.case_id: run.record.median_ms for run in read_any_side(path).runs}
        assert times == pytest.approx(
            {
                "Ours/M=128 N=256": 0.128,
                "Theirs, old/M=128 N=256": 3.5,
                "Ours/M=512 N=1024": 0.512,
                "Theirs, old/M=512 N=1024": 3.5,
            }
        )

    def test_two_reports_are_compared(self, report: Any) -> None:
        base = report("base", lambda m, provider: (1.0, 0.9, 1.1))
        head = report("head", lambda m, provider: (2.0 if provider == "ours" else 1.0, 0.9, 2.1))
        found = compared(base, head)
        verdicts = {cell.case_id: cell.verdict for cell in found.cells}
        assert {name for name, verdict in verdicts.items() if verdict == "SLOWER"} == {
            "Ours/M=128 N=256",
            "Ours/M=512 N=1024",
        }

    def test_microseconds(self, report: Any) -> None:
        path = report("us", lambda m, provider: 250.0, "us")
        assert {run.record.median_ms for run in read_any_side(path).runs} == {0.25}

    def test_a_rate_is_refused(self, report: Any) -> None:
        path = report("rate", lambda m, provider: 250.0, "GB/s")
        with pytest.raises(UsageError, match=r"GB/s.*which are no times"):
            read_any_side(path)

    def test_what_was_not_measured_is_left_out(self, report: Any) -> None:
        path = report("gap", lambda m, provider: math.nan if provider == "ours" else 1.0)
        assert {run.record.provider for run in read_any_side(path).runs} == {"Theirs, old"}

    @pytest.mark.parametrize(("cell", "said"), [("fast", "could not convert"), ("-1", "not above 0")])
    def test_a_damaged_cell_is_named(self, tmp_path: Path, cell: str, said: str) -> None:
        path = tmp_path / "x.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["M", "Ours (ms)"], ["1", cell]])
        with pytest.raises(UsageError, match=f"line 2: .*{said}"):
            read_any_side(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is of no tool that is read here"),
        ('{"benchmarks": []}', "is of no tool that is read here"),
        ('{"benchmarks": 3, "machine_info": {}, "version": "5"}', "is damaged"),
        ('{"benchmarks": [{"stats": {"mean": 0}}], "machine_info": {}, "version": "5"}', "is damaged"),
        ('{"meta": 1, "benchmarks": []}', "is of no tool that is read here"),
    ],
)
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        read_any_side(tmp_path / "x.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("x.json", "x.csv"):
        with pytest.raises(UsageError, match=name):
            read_any_side(tmp_path / name)
