"""A session on this CPU, in this process: every case of a job ends in one outcome, and in the right one."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.case import Case, Direction, Metric, ProtocolName, Shape
from lightning_bench.families.work import Work
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.job import CaseSamples, Figures, Job, Outcome
from lightning_bench.measure.session import Session
from lightning_bench.record import Record
from lightning_bench.suite import Limits
from tests.support.paths import SUPPORT

SHAPE = Shape(1, 2, 70, 8, 8, "fp32", "cpu")
LIMITS = Limits(sample_limit_s=0.5, min_samples=6, max_samples=12, ci_percent=50.0)
MIB = 2.0**20
U = 2 * 70 * 8 * 4 / MIB

ZOO = SUPPORT / "measure_zoo.py"


class FakeTimer:
    """Each sample costs what the script says, in turn, whatever the call does."""

    def __init__(self, *script: float, then: float) -> None:
        self._script, self._then, self._seconds = list(script), then, 0.0

    def sample(self, fn: Callable[[], Any], count: int) -> list[float]:
        fn()
        return [self._next() for _ in range(count)]

    def call(self, fn: Callable[[], Any]) -> float:
        fn()
        return 7.5

    def exposed(self, fn: Callable[[], Any]) -> bool:
        return False

    def now(self) -> float:
        return self._seconds

    def release(self) -> None:
        pass

    def _next(self) -> float:
        ms = self._script.pop(0) if self._script else self._then
        self._seconds += ms / 1e3
        return ms


@dataclass
class Run:
    """What a job answered."""

    outcomes: list[Outcome] = field(default_factory=list)
    entered: list[tuple[str, str]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Outcome:
        (found,) = [o for o in self.outcomes if o.case.provider.endswith(f":{name}")]
        return found


Measure = Callable[..., Run]


def given(figures: Figures) -> set[str]:
    """The names of the figures that were taken."""
    return {name for name, value in vars(figures).items() if value not in (None, "")}


@pytest.fixture(scope="module", autouse=True)
def young() -> Iterator[None]:
    """A session collects garbage after each job: spare it the objects of the modules imported so far."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def session() -> Session:
    return Session("cpu")


@pytest.fixture
def measure(tmp_path: Path, session: Session) -> Measure:
    """Measure ``NAME`` or ``NAME/direction`` of a fresh copy of the zoo; each case must end once."""
    zoo = tmp_path / "zoo.py"
    zoo.write_bytes(ZOO.read_bytes())

    def run(
        *names: str,
        direction: Direction = "fwd_bwd",
        metric: Metric = "speed",
        protocol: ProtocolName = "lbench",
        shape: Shape = SHAPE,
        limits: Limits = LIMITS,
        graph: bool = False,
        on: Session = session,
    ) -> Run:
        parted = (name.partition("/") for name in names)
        cases = tuple(Case(shape, f"{zoo}:{name}", own or direction) for name, _, own in parted)
        answers = Run()
        run_job(
            on,
            Job(cases, metric, protocol, limits, graph=graph),
            lambda case_id, phase: answers.entered.append((case_id, phase)),
            answers.outcomes.append,
        )
        assert Counter(o.case.id for o in answers.outcomes) == Counter(case.id for case in cases)
        return answers

    return run


def test_figures_are_fields_of_a_record_with_the_same_defaults() -> None:
    columns = {field.name: field.default for field in fields(Record)}
    assert vars(Figures()).items() <= columns.items()


def test_a_line_of_samples_has_what_was_taken() -> None:
    samples = CaseSamples([4.0], [1], [7.5], [])
    assert list(samples.as_line()) == ["samples_ms", "turns", "call_ms", "clocks"]
    assert list(replace(samples, graph_ms=[3.0]).as_line())[-1] == "graph_ms"


TIMES = {"median_ms", "p20_ms", "p80_ms", "min_ms", "mean_ms", "ci_low_ms", "ci_high_ms", "call_ms"}
RATES = {"tflops", "gbps"}
ERRORS = {"error_o", "error_dq", "error_dk", "error_dv"}


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
def test_right_providers_get_figures_and_samples(measure: Measure, direction: Direction) -> None:
    job = measure("Right", "Also", "Softmax", direction=direction)
    for outcome in job.outcomes:
        assert outcome.status in ("ok", "unstable"), outcome.reason
        figures = outcome.figures
        assert all(getattr(figures, name) > 0 for name in TIMES | RATES)
        assert figures.ci_low_ms <= figures.median_ms <= figures.ci_high_ms
        assert 6 <= figures.samples == len(outcome.samples.samples_ms) <= 12
        assert 3 <= len(outcome.samples.call_ms) <= 30
        assert ERRORS & given(figures) == ({"error_o"} if direction == "fwd" else ERRORS)
        assert 0 < figures.error_o <= figures.error_budget < 1e-5
        assert figures.ceiling_gbps > 0
        assert figures.floor_ms > 0
        assert figures.sm_clock_mhz is None
    assert job["Right"].figures.provider_config == f"BLOCK=8 {direction}"


def test_figures_are_those_of_the_samples(measure: Measure) -> None:
    quiet = Session("cpu")
    quiet.timer = FakeTimer(then=4.0)
    outcome = measure("Right", direction="fwd", on=quiet)["Right"]
    assert (outcome.status, outcome.reason) == ("ok", "")
    assert outcome.samples == CaseSamples([4.0] * 10, [5, 5], [7.5] * 30, [])
    figures = outcome.figures
    assert {getattr(figures, name) for name in TIMES - {"call_ms"}} == {4.0}
    assert figures.call_ms == 7.5
    assert figures.gbps == pytest.approx(4 * U * MIB / 4e-3 / 1e9)
    assert figures.tflops == pytest.approx(2 * 70 * 4 * 8 * 8 / 4e-3 / 1e12)
    assert (figures.model_bytes, figures.model_flops) == (4 * U * MIB, 2 * 70 * 4 * 8 * 8)
    moving = 4 * U * MIB / figures.ceiling_gbps / 1e6
    computing = 2 * 70 * 4 * 8 * 8 / figures.ceiling_tflops / 1e9
    assert figures.floor_ms == pytest.approx(max(moving, computing))
    assert figures.floor_ratio == pytest.approx(4.0 / figures.floor_ms)


def test_a_time_below_the_floor_is_wrong_and_not_given(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No row of a CPU is judged so: here it is, as if these were the reads and writes of a GPU.
    judge = Work.impossible
    monkeypatch.setattr(
        Work,
        "impossible",
        lambda work, *rest: judge(replace(work, shape=replace(work.shape, device="cuda")), *rest),
    )
    quick = Session("cpu")
    quick.timer = FakeTimer(then=1e-7)
    outcome = measure("Right", direction="fwd", on=quick)["Right"]
    assert outcome.status == "wrong"
    assert outcome.reason.startswith("impossible: ")
    assert outcome.reason.endswith("on this device")
    assert outcome.figures.floor_ms > 0
    assert not (TIMES | RATES | {"floor_ratio"}) & given(outcome.figures)
    slow = Session("cpu")
    slow.timer = FakeTimer(then=4.0)
    assert measure("Right", direction="fwd", on=slow)["Right"].status == "ok"


def test_drifting_samples_are_unstable_but_given(measure: Measure) -> None:
    drifting = Session("cpu")
    # Three for the warm-up; then the first of two halves, which end the sampling at its twelfth sample.
    drifting.timer = FakeTimer(*[1.0] * 11, *[1.0] * 6, then=1.08)
    limits = Limits(sample_limit_s=0.5, min_samples=12, max_samples=12, ci_percent=50.0)
    outcome = measure("Right", direction="fwd", on=drifting, limits=limits)["Right"]
    assert outcome.status == "unstable"
    assert "drifted by 8.0 %" in outcome.reason
    assert outcome.samples.samples_ms == [1.0] * 6 + [1.08] * 6
    assert outcome.figures.median_ms == pytest.approx(1.04)


def test_a_graph_that_cannot_be_is_a_note(measure: Measure) -> None:
    outcome = measure("Right", direction="fwd", graph=True)["Right"]
    assert outcome.status in ("ok", "unstable")
    assert "no graph_ms: CUDA graphs need a CUDA device" in outcome.reason
    assert outcome.figures.graph_ms is None


@pytest.mark.parametrize("metric", ["speed", "memory", "check"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Wrong", "o is off by 1.0e-02 relative L2"),
        ("NanGradient", "dk has NaN or Inf in 1 of 140 checked rows"),
        ("Unwritten", "o has NaN or Inf in 140 of 140 checked rows"),
    ],
)
def test_wrong_gets_no_figure(measure: Measure, metric: Metric, name: str, reason: str) -> None:
    job = measure("Right", name, metric=metric)
    assert job["Right"].status in ("ok", "unstable")
    outcome = job[name]
    assert outcome.status == "wrong"
    assert reason in outcome.reason
    assert given(outcome.figures) - {"provider_config"} == ERRORS | {"error_budget"}
    assert outcome.samples is None


def test_a_wrong_gradient_is_no_fault_of_forward_alone(measure: Measure) -> None:
    assert measure("NanGradient", direction="fwd", metric="check")["NanGradient"].status == "ok"


def test_a_wrong_shape_is_wrong(measure: Measure) -> None:
    outcome = measure("Cut", direction="fwd", metric="check")["Cut"]
    assert outcome.status == "wrong"
    assert outcome.reason == "o has shape (1, 2, 69, 8), not (1, 2, 70, 8)"


@pytest.mark.parametrize(
    ("metric", "protocol"), [("speed", "lbench"), ("check", "lbench"), ("memory", "paper")]
)
@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("Raises", "crashed", "ValueError: block size 48 is no power of two"),
        ("Exits", "crashed", "SystemExit: bye"),
        ("NoBuild", "crashed", "KeyError: 'n'"),
        ("LoadCrash", "crashed", "AttributeError: half a library"),
        ("NoImport", "unavailable", "No module named 'fast_kernels'"),
        ("NoLibrary", "unavailable", "libfast.so: undefined symbol: _ZN3c10"),
        ("Refuses", "unavailable", "needs a newer compiler"),
        ("Unsupported", "unsupported", "no fwd at 70"),
        ("Half", "unsupported", "base takes bf16, not fp32"),
        ("Memory", "oom", "MemoryError"),
        ("TorchOom", "oom", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"),
        ("HostOom", "oom", "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_failures_have_their_status(
    measure: Measure, metric: Metric, protocol: ProtocolName, name: str, status: str, reason: str
) -> None:
    job = measure(name, direction="fwd", metric=metric, protocol=protocol)
    assert job[name].status == status
    assert job[name].reason.startswith(reason)
    assert job[name].figures == Figures()
    assert job[name].samples is None


def test_failures_leave_the_others_alone(measure: Measure) -> None:
    bad = {"Raises": "crashed", "NoImport": "unavailable", "Half": "unsupported", "TorchOom": "oom"}
    job = measure("Raises", "Right", "NoImport", "Wrong", "TorchOom", "Also", "Half", direction="fwd")
    assert {name: job[name].status for name in bad} == bad
    assert job["Wrong"].status == "wrong"
    for name in ("Right", "Also"):
        assert job[name].status in ("ok", "unstable")
        assert job[name].figures.median_ms > 0


def test_an_unknown_file_is_an_outcome_too(measure: Measure) -> None:
    job = measure("Right", "Nobody", direction="fwd", metric="check")
    assert job["Nobody"].status == "crashed"
    assert "no Nobody" in job["Nobody"].reason
    assert job["Right"].status == "ok"


def test_what_does_not_fit_beside_the_others_runs_alone_afterwards(measure: Measure) -> None:
    job = measure("FitsAlone", "Right", "Also", direction="fwd")
    assert job["FitsAlone"].status in ("ok", "unstable")
    assert job["FitsAlone"].figures.median_ms > 0
    assert job.outcomes[-1] is job["FitsAlone"]
    own = job["FitsAlone"].case.id
    others = max(i for i, (case_id, _) in enumerate(job.entered) if case_id not in ("", own))
    assert [phase for case_id, phase in job.entered[others + 1 :] if case_id == own][-1] == "samples"
    assert "samples" not in [phase for case_id, phase in job.entered[:others] if case_id == own]


def test_a_case_alone_that_runs_out_later_is_oom(measure: Measure) -> None:
    quiet = Session("cpu")
    quiet.timer = FakeTimer(then=4.0)
    # The gate and three batches of warm-up are four calls; the fifth is a sample.
    job = measure("LateOom", direction="fwd", on=quiet)
    assert job.entered[-1] == (job["LateOom"].case.id, "samples")
    assert (job["LateOom"].status, job["LateOom"].reason) == ("oom", "RuntimeError: out of memory")
    assert job["LateOom"].figures == Figures()


@pytest.mark.parametrize("metric", ["speed", "check"])
def test_directions_of_one_job_share_the_oracle(measure: Measure, metric: Metric) -> None:
    job = measure("Right/fwd", "Also/bwd", metric=metric)
    assert [o.status in ("ok", "unstable") for o in job.outcomes] == [True, True]
    assert given(job["Right"].figures) & ERRORS == {"error_o"}
    assert given(job["Also"].figures) & ERRORS == ERRORS
    assert [phase for case_id, phase in job.entered if not case_id].count("oracle") == 1


def test_inputs_that_do_not_fit_end_all(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("lightning_bench.measure.bench.InputSet", full)
    job = measure("Right", "NoImport", "Also", direction="fwd")
    assert job["NoImport"].status == "unavailable"
    for name in ("Right", "Also"):
        assert job[name].status == "oom"
        assert job[name].reason.startswith("the inputs alone do not fit: ")


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
def test_memory_of_a_call(measure: Measure, direction: Direction) -> None:
    outcome = measure("Right", direction=direction, metric="memory")["Right"]
    assert outcome.status == "ok"
    figures = outcome.figures
    ideal = {"fwd": 1, "bwd": 3, "fwd_bwd": 4}[direction] * U
    assert figures.ideal_mib == pytest.approx(ideal)
    assert figures.extra_ratio == pytest.approx(figures.extra_mib / ideal)
    # The matrix of scores is there twice, in front of and behind the decay.
    scores = 2 * 70 * 70 * 4 / MIB
    if direction == "fwd":
        assert figures.extra_mib == pytest.approx(2 * scores, rel=0.01)
        assert figures.saved_mib is None
    else:
        assert figures.saved_mib == pytest.approx(scores, rel=0.3)
    assert figures.peak_mib >= figures.extra_mib + 3 * U
    assert not (TIMES & given(figures))


def test_a_check_is_errors_alone(measure: Measure) -> None:
    job = measure("Right", "Softmax", metric="check")
    for outcome in job.outcomes:
        assert outcome.status == "ok"
        assert given(outcome.figures) - {"provider_config"} == ERRORS | {"error_budget"}
        assert outcome.samples is None


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_protocol_paper_gives_the_mean_alone(measure: Measure, direction: Direction) -> None:
    job = measure("Right", "Wrong", "Softmax", direction=direction, protocol="paper")
    assert job["Wrong"].status == "wrong"
    for name in ("Right", "Softmax"):
        assert job[name].status == "ok"
        assert job[name].figures.mean_ms > 0
        assert job[name].figures.median_ms is None
        assert job[name].figures.error_o > 0


def test_memory_of_protocol_paper_needs_cuda(measure: Measure) -> None:
    outcome = measure("Right", metric="memory", protocol="paper")["Right"]
    assert outcome.status == "unsupported"
    assert "needs a CUDA device" in outcome.reason


def test_phases_are_told_before_the_work(measure: Measure) -> None:
    job = measure("Right", "Wrong", direction="fwd")
    shared = [phase for case_id, phase in job.entered if not case_id]
    assert shared == ["warm-up", "inputs", "oracle"]
    for name, phases in (
        ("Right", ["load", "warm-up", "check", "warm-up", "samples"]),
        ("Wrong", ["load", "warm-up", "check"]),
    ):
        own = [phase for case_id, phase in job.entered if case_id == job[name].case.id]
        assert list(dict.fromkeys(own)) == list(dict.fromkeys(phases))
        assert own[: len(phases)] == phases


def test_who_changes_the_inputs_is_wrong_and_nobody_after_it(measure: Measure) -> None:
    run = measure("ChangesItsInputs", "Right", direction="fwd", metric="check")
    assert (run["ChangesItsInputs"].status, run["ChangesItsInputs"].reason) == (
        "wrong",
        "it changes its inputs: k",
    )
    assert run["Right"].status == "ok"


def test_another_dtype_than_the_case_s_is_wrong(measure: Measure) -> None:
    run = measure("Widens", direction="fwd", metric="check")
    assert run["Widens"].status == "wrong"
    assert run["Widens"].reason == "o is torch.float64, not torch.float32"
