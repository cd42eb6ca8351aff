"""Cases whose sequences lie on two ranks, by gloo on a CPU: real processes, honest ones and others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed

from lightning_bench.case import Case, Direction, Metric, Shape
from lightning_bench.families.work import Work
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.job import CaseEnded, Job, Outcome
from lightning_bench.measure.memory_row import CallMemory
from lightning_bench.measure.ranks.part import follow_calls
from lightning_bench.measure.ranks.team import team_of
from lightning_bench.measure.session import PoisonedError, Session
from lightning_bench.providers import get_provider
from lightning_bench.run.supervisor import Supervisor
from lightning_bench.suite import Limits
from tests.support.paths import SUPPORT
from tests.support.workspace import is_gone

SHAPE = Shape(1, 2, 71, 8, 8, "fp32", "cpu", ranks=2)
LIMITS = Limits(sample_limit_s=60.0, min_samples=6, max_samples=6, ci_percent=50.0)
TORCH = "context-parallel-torch"

Run = Callable[..., dict[str, Outcome]]


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    path = tmp_path / "ranked_zoo.py"
    path.write_bytes((SUPPORT / "ranked_zoo.py").read_bytes())
    return path


@pytest.fixture
def run(zoo: Path, session: Session, forked_ranks: None) -> Run:
    def measured(*names: str, metric: Metric = "speed", samples: int = 6) -> dict[str, Outcome]:
        outcomes: list[Outcome] = []
        cases = tuple(_case(zoo, name, "fwd") for name in names)
        limits = LIMITS.model_copy(update={"min_samples": samples, "max_samples": samples})
        job = Job(cases, metric, "lbench", limits, inputs=("normal", "outliers"))
        try:
            run_job(session, job, lambda *_: None, outcomes.append)
        finally:
            assert not distributed.is_initialized()
            assert all(is_gone(int(file.read_text())) for file in zoo.parent.glob("pid1"))
        return {f"{o.case.provider.rpartition(':')[2]}/{o.case.direction}": o for o in outcomes}

    return measured


def _case(zoo: Path, name: str, direction: Direction) -> Case:
    name, _, own = name.partition("/")
    spec = name if name == TORCH else f"{zoo}:{name}"
    return Case(SHAPE, spec, own or direction)  # type: ignore[arg-type]


def test_a_shape_says_what_each_rank_has() -> None:
    assert SHAPE.rank_tokens == (36, 35)
    assert replace(SHAPE, ranks=4).rank_tokens == (18, 18, 18, 17)
    assert SHAPE.of_rank(1) == replace(SHAPE, seq_len=35, ranks=0)
    assert replace(SHAPE, ranks=0).rank_tokens == (71,)


@pytest.mark.slow  # a process starts
def test_ranks_together_are_judged_and_timed_as_one_call(run: Run, session: Session) -> None:
    """Of all that one job can have: every direction, and ranks that are slow or wrong, in turns."""
    threads = torch.get_num_threads()
    found = run(f"{TORCH}/fwd", f"{TORCH}/bwd", f"{TORCH}/fwd_bwd", "SlowLast", "WrongLast", "WholeLast",
                "WritesLast", samples=20)  # fmt: skip
    assert torch.get_num_threads() == threads
    for direction in ("fwd", "bwd", "fwd_bwd"):
        outcome = found[f"{TORCH}/{direction}"]
        f = outcome.figures
        assert outcome.status in ("ok", "unstable"), outcome.reason
        assert "it left" not in outcome.reason
        assert f.error_o is not None
        assert 0 < f.error_o < (f.error_budget or 0)
        assert (f.error_dk is None) == (direction == "fwd")
        assert f.checks.startswith("2 of 2 pairs; ")
        assert "5 new contents timed; outliers inputs again" in f.checks
        assert f.cpu_threads == max(1, threads // 2)
        share = Work.of("linear_decay", replace(SHAPE, seq_len=36, ranks=0), direction)  # type: ignore[arg-type]
        assert f.floor_ms == pytest.approx(share.floor_ms(session.ceilings("fp32", share.mix)))
        assert f.tflops == pytest.approx(share.min_flops / (f.median_ms or 1) / 1e9)
    slow = found["SlowLast/fwd"].figures
    assert (slow.min_ms or 0) >= 30
    assert (slow.call_ms or 0) >= 30
    wrong = {name: found[f"{name}/fwd"] for name in ("WrongLast", "WholeLast", "WritesLast")}
    assert {outcome.status for outcome in wrong.values()} == {"wrong"}
    assert "o is off by" in wrong["WrongLast"].reason
    assert "o is torch.float32 (1, 2, 70, 8), not torch.float32 (1, 2, 35, 8) (rank 1)" in (
        wrong["WholeLast"].reason
    )
    assert wrong["WritesLast"].reason == "it changes its inputs: k (rank 1)"


@pytest.mark.slow  # a process starts
def test_results_of_timed_calls_are_tensors_of_their_own_on_every_rank(run: Run) -> None:
    """Put together, they are new tensors: each rank looks at its own."""
    found = run("LateLast", "ShortLast", "OverwritesLast", "OnRanks")
    assert found.pop("OnRanks/fwd").status in ("ok", "unstable")
    assert {outcome.status for outcome in found.values()} == {"wrong"}
    assert "Late, not a plain tensor (rank 1)" in found["LateLast/fwd"].reason
    assert found["ShortLast/fwd"].reason == (
        "a timed call gave o as torch.float32 (1, 2, 34, 8) on cpu (rank 1)"
    )
    assert found["OverwritesLast/fwd"].reason == (
        "o of one call is in the memory of an earlier one that is still in use (rank 1)"
    )


@pytest.mark.slow  # a process starts
def test_threads_and_replaced_functions_are_seen_on_every_rank(run: Run) -> None:
    found = run("ThreadLast", "ReplacesLast", "OnRanks")
    assert found.pop("OnRanks/fwd").status in ("ok", "unstable")
    assert {outcome.status for outcome in found.values()} == {"wrong"}
    assert found["ThreadLast/fwd"].reason == "its call leaves threads running: late (rank 1)"
    assert found["ReplacesLast/fwd"].reason == "it replaces torch.equal (rank 1)"


@pytest.mark.slow  # a process starts
def test_memory_is_that_of_the_rank_with_the_most(run: Run) -> None:
    found = run(f"{TORCH}/fwd", f"{TORCH}/bwd", "HungryLast", metric="memory")
    assert {outcome.status for outcome in found.values()} == {"ok"}
    mib = 2.0**20
    plain, hungry = found[f"{TORCH}/fwd"].figures, found["HungryLast/fwd"].figures
    ideal = 2 * 36 * 8 * 4 / mib
    assert plain.ideal_mib == pytest.approx(ideal)
    assert ideal <= (plain.extra_mib or 0) < 1
    assert 3 <= (hungry.extra_mib or 0) < 4
    assert (plain.saved_mib, plain.reserved_mib) == (None, None)
    assert (found[f"{TORCH}/bwd"].figures.saved_mib or 0) > 0


def test_the_largest_of_each_figure_counts() -> None:
    first, last = CallMemory(1.0, 9.0, 3.0, None), CallMemory(2.0, 8.0, 4.0, None)
    assert CallMemory.largest([first, last]) == CallMemory(2.0, 9.0, 4.0, None)
    alone = CallMemory(1.0, 2.0, None, 7.0)
    assert CallMemory.largest([alone, replace(alone, reserved_mib=6.0)]) == alone


@pytest.mark.slow  # processes start
@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("NoRoomLast", "oom", "rank 1: RuntimeError: out of memory, here"),
        ("RaisesFirst", "crashed", "ValueError: only here"),
    ],
)
def test_a_rank_that_fails_ends_its_case_and_the_others(
    run: Run, name: str, status: str, reason: str
) -> None:
    found = run(name)
    assert found[f"{name}/fwd"].status == status
    assert reason in found[f"{name}/fwd"].reason


@pytest.mark.slow  # a process starts
@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.parametrize(("name", "code"), [("DiesEarly", 3), ("LeavesEarly", 0)])
def test_after_a_rank_has_died_the_process_measures_no_other_case(
    zoo: Path, session: Session, name: str, code: int
) -> None:
    outcomes: list[Outcome] = []
    cases = tuple(_case(zoo, spec, "fwd") for spec in (name, TORCH))
    with pytest.raises(PoisonedError, match=f"a rank has failed: rank 1 ended with exit code {code}"):
        run_job(session, Job(cases, "speed", "lbench", LIMITS), lambda *_: None, outcomes.append)
    assert [(o.case, o.status, o.reason) for o in outcomes] == [
        (cases[0], "crashed", f"RuntimeError: rank 1 ended with exit code {code}")
    ]
    assert not distributed.is_initialized()


@pytest.fixture
def supervisor(forked_workers: None) -> Iterator[Supervisor]:
    made = Supervisor("cpu", None)
    yield made
    made.close()


@pytest.mark.slow  # processes start
@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("HangsLast", "timeout", "not done within 4 s"),
        ("LeavesFirst", "crashed", "its last output: rank 1 ended with exit code 4"),
    ],
)
def test_a_rank_that_hangs_or_dies_ends_all(
    supervisor: Supervisor, zoo: Path, name: str, status: str, reason: str
) -> None:
    limits = LIMITS.model_copy(update={"time_limit_s": 4.0 if status == "timeout" else 60.0})
    job = Job((_case(zoo, name, "fwd"),), "speed", "lbench", limits)
    ending = supervisor.run(job, lambda outcome: None, lambda case_id, phase: None)
    assert ending is not None
    assert ending.status == status
    assert reason in ending.reason
    pids = [int((zoo.parent / f"pid{number}").read_text()) for number in range(2)]
    assert all(map(is_gone, pids))


def test_ranks_need_a_gpu_each() -> None:
    here = torch.cuda.device_count()
    of = replace(SHAPE, device="cuda", ranks=here + 2)
    with pytest.raises(CaseEnded) as caught, team_of([Case(of, "context-parallel", "fwd")], 0, follow_calls):
        pass
    assert caught.value.status == "unavailable"
    assert caught.value.reason == f"needs {here + 2} GPUs, and this process sees {here}"


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("lightning2-torch", {}, "lightning2-torch takes whole sequences, on one device: no --ranks"),
        (TORCH, {"ranks": 0}, f"{TORCH} is lightning2-torch on several ranks: `lbench speed --ranks 2`"),
        ("context-parallel", {"ranks": 0}, "context-parallel is lightning2 on several ranks: `lbench"),
        (TORCH, {"seq_len": 1}, "a rank would have no token: seq_len 1 on 2 ranks"),
    ],
)
def test_what_does_not_go_together(name: str, change: dict[str, int], reason: str) -> None:
    found = get_provider(name).unsupported(replace(SHAPE, **change), "fwd")
    assert (found or "").startswith(reason)
    assert get_provider(TORCH).unsupported(SHAPE, "bwd") is None


@pytest.mark.parametrize(
    ("metric", "protocol", "reason"),
    [
        ("memory", "paper", "protocol paper is measured on one device: no --ranks"),
        ("speed", "paper", "protocol paper is measured on one device: no --ranks"),
    ],
)
def test_what_ranks_are_not_measured_by(session: Session, metric: Metric, protocol: str, reason: str) -> None:
    outcomes: list[Outcome] = []
    job = Job((Case(SHAPE, TORCH, "fwd"),), metric, protocol, LIMITS)  # type: ignore[arg-type]
    run_job(session, job, lambda *_: None, outcomes.append)
    assert [(o.status, o.reason) for o in outcomes] == [("unsupported", reason)]
