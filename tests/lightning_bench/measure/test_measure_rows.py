"""What a row gets from samples, from memory and from protocol paper, on this CPU and on a scripted timer."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from lightning_bench.case import Direction
from lightning_bench.families.work import Work
from lightning_bench.machine.ceilings import Ceilings
from lightning_bench.machine.mix import EVEN, Mix
from lightning_bench.measure.device.stream_clock import SampleClock
from lightning_bench.measure.foreign import LoadFigures, NoForeign
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.job import CaseSamples, Figures
from lightning_bench.measure.session import Session
from lightning_bench.record import Record
from lightning_bench.suite import Limits
from tests.support.measure_jobs import ERRORS, MIB, RATES, TIMES, FakeTimer, Measure, U, given


def test_figures_are_fields_of_a_record_with_the_same_defaults() -> None:
    columns = {field.name: field.default for field in fields(Record)}
    assert vars(Figures()).items() <= columns.items()


def test_a_line_of_samples_has_what_was_taken() -> None:
    samples = CaseSamples([4.0], [1], [7.5], [])
    assert list(samples.as_line()) == ["samples_ms", "turns", "call_ms", "clocks"]
    assert list(replace(samples, graph_ms=[3.0]).as_line())[-1] == "graph_ms"
    assert replace(samples, samples_mhz=[1980.0]).as_line()["samples_mhz"] == [1980.0]


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
        assert figures.ceiling_of == "copy"
        assert figures.floor_ms > 0
        assert figures.sm_clock_mhz is None
        assert figures.empty_us is None
        assert (figures.median_cycles, figures.throttled_samples) == (None, None)
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


def test_a_sample_of_no_work_is_stated_and_not_subtracted(measure: Measure) -> None:
    quiet = Session("cpu")
    quiet.timer = FakeTimer(then=4.0)
    quiet.timer.empty = 4.2
    figures = measure("Right", direction="fwd", on=quiet)["Right"].figures
    assert (figures.empty_us, figures.median_ms) == (4.2, 4.0)


def test_clocks_in_the_stream_give_cycles_and_count_throttled_samples(measure: Measure) -> None:
    clocked = Session("cpu")
    clocked.timer = FakeTimer(then=4.0)
    clocked.timer.clock = SampleClock(1500.0, False)
    outcome = measure("Right", direction="fwd", on=clocked)["Right"]
    figures = outcome.figures
    assert (outcome.status, figures.sm_clock_mhz, figures.throttled_samples) == ("ok", 1500.0, 0)
    assert figures.median_cycles == pytest.approx(4.0 * 1500e3)
    assert outcome.samples.samples_mhz == [1500.0] * 10
    clocked.timer.clock = SampleClock(900.0, True)
    outcome = measure("Right", direction="fwd", on=clocked)["Right"]
    assert outcome.status == "unstable"
    assert outcome.reason.startswith("the GPU was throttled in ")
    assert outcome.figures.throttled_samples == 6 + len(outcome.samples.samples_ms)
    assert outcome.figures.median_ms == 4.0


def test_a_time_below_the_floor_is_wrong_and_not_given(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No row of a CPU is judged so: here it is, as if these were the reads and writes of a GPU.
    monkeypatch.setattr(GUARD, "_kept", [])  # or it would find what comes next
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


def test_ceilings_that_a_busy_cpu_left_too_low_are_measured_again(measure: Measure) -> None:
    disturbed = Session("cpu")
    disturbed.measure_ceilings("fp32", [])
    low = replace(disturbed.ceilings("fp32", EVEN), tflops=1e-12)
    disturbed._ceilings["fp32"] = low
    disturbed.timer = FakeTimer(then=4.0)
    outcome = measure("Right", direction="fwd", on=disturbed)["Right"]
    assert outcome.status == "ok"
    assert outcome.figures.ceiling_tflops > 1e-6


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


def test_samples_that_contradict_the_calls_are_unstable(measure: Measure) -> None:
    waiting = Session("cpu")
    waiting.timer = FakeTimer(then=40.0)
    outcome = measure("Right", direction="fwd", on=waiting)["Right"]
    assert outcome.status == "unstable"
    assert outcome.reason == ("its samples took 40 ms and calls timed one by one 7.5 ms: both cannot be true")
    assert (outcome.figures.median_ms, outcome.figures.call_ms) == (40.0, 7.5)


class Disturbed(NoForeign):
    """Others compute beside the ceilings, or beside the samples, until they are `quiet`."""

    def __init__(self, what: str) -> None:
        self.what, self.quiet = what, False

    def figures(self, key: str) -> LoadFigures:
        beside = "ceilings" if key.startswith("ceilings") else "samples"
        return LoadFigures(trouble=None if self.quiet or beside != self.what else "others computed")


def test_rows_beside_foreign_load_are_unstable(measure: Measure) -> None:
    busy = Session("cpu")
    busy.timer, busy.foreign = FakeTimer(then=4.0), Disturbed("samples")
    outcome = measure("Right", direction="fwd", on=busy)["Right"]
    assert (outcome.status, outcome.reason) == ("unstable", "others computed")
    published = measure("Right", direction="fwd", protocol="paper", on=busy)["Right"]
    assert (published.status, published.reason) == ("unstable", "others computed")
    assert measure("Right", direction="fwd", metric="check", on=busy)["Right"].status == "ok"


def test_ceilings_beside_foreign_load_are_measured_again(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GUARD, "_kept", [])  # or it would find what comes next
    found = iter([Ceilings(5.0, 0.2, 0), Ceilings(9.0, 0.1, 0), Ceilings(7.0, 0.3, 0)])
    monkeypatch.setattr("lightning_bench.measure.session.measure_ceilings", lambda *_: next(found))
    busy = Session("cpu")
    foreign = Disturbed("ceilings")
    busy.timer, busy.foreign = FakeTimer(then=4.0), foreign
    outcome = measure("Right", direction="fwd", on=busy)["Right"]
    assert (outcome.status, outcome.reason) == ("unstable", "its ceilings may be too low: others computed")
    assert (outcome.figures.ceiling_gbps, outcome.figures.ceiling_tflops) == (9.0, 0.2)
    foreign.quiet = True
    outcome = measure("Right", direction="fwd", on=busy)["Right"]
    assert (outcome.status, outcome.reason) == ("ok", "")
    assert (outcome.figures.ceiling_gbps, outcome.figures.ceiling_tflops) == (9.0, 0.3)
    measure("Right", direction="fwd", on=busy)  # a fourth measurement would find no more


def test_a_gpu_has_a_ceiling_for_each_mix_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    session, foreign = Session("cpu"), Disturbed("ceilings")
    session.device, session.foreign = "cuda", foreign
    asked: list[Mix] = []
    bandwidths = {Mix(3, 1): iter([4300.0, 4290.0, 4310.0]), EVEN: iter([4190.0]), Mix(4, 3): iter([None])}

    def mix_gbps(mix: Mix) -> float | None:
        asked.append(mix)
        return next(bandwidths[mix])

    copied = Ceilings(4200.0, 1.0, 0)
    monkeypatch.setattr("lightning_bench.measure.session.measure_ceilings", lambda *_: copied)
    monkeypatch.setattr("lightning_bench.measure.session.mix_gbps", mix_gbps)
    monkeypatch.setattr("lightning_bench.measure.session.Session.release", lambda session: None)
    session.measure_ceilings("bf16", [Mix(3, 1), Mix(3, 1)])
    assert asked == [Mix(3, 1)] * 2  # beside foreign load both tries, and again in the next job
    assert session.ceilings("bf16", Mix(3, 1)) == Ceilings(4300.0, 1.0, 0, Mix(3, 1))
    assert session.ceilings_trouble("bf16", Mix(3, 1)) == "its ceilings may be too low: others computed"
    foreign.quiet = True
    for _ in range(2):
        session.measure_ceilings("bf16", [Mix(3, 1), EVEN, Mix(4, 3)])
    assert asked == [Mix(3, 1)] * 3 + [EVEN, Mix(4, 3)]
    assert session.ceilings("bf16", Mix(3, 1)).gbps == 4310.0
    assert session.ceilings_trouble("bf16", Mix(3, 1)) is None
    # A copy has the mix 1:1, and what Triton cannot compile is compared with it.
    assert session.ceilings("bf16", EVEN) == replace(copied, mix=EVEN)
    assert session.ceilings("bf16", Mix(4, 3)) == copied
    assert session.ceilings("bf16", Mix(4, 3)).bandwidth_of == "copy"


def test_more_flops_than_ceilings_that_are_in_doubt_are_unstable(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GUARD, "_kept", [])  # or it would find what comes next
    monkeypatch.setattr("lightning_bench.measure.session.measure_ceilings", lambda *_: Ceilings(5.0, 1e-9, 0))
    busy = Session("cpu")
    foreign = Disturbed("ceilings")
    busy.timer, busy.foreign = FakeTimer(then=4.0), foreign
    outcome = measure("Right", direction="fwd", on=busy)["Right"]
    assert outcome.status == "unstable"
    assert "is above the 1e-09 that a matmul reaches on this device; its ceilings may be" in outcome.reason
    foreign.quiet = True
    assert measure("Right", direction="fwd", on=busy)["Right"].status == "wrong"


def test_a_graph_that_cannot_be_captured_is_a_note(measure: Measure) -> None:
    outcome = measure("Right", direction="fwd", graph=True)["Right"]
    assert outcome.status in ("ok", "unstable")
    assert "no graph_ms: CUDA graphs need a CUDA device" in outcome.reason
    assert outcome.figures.graph_ms is None


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


def test_a_check_gives_only_errors(measure: Measure) -> None:
    job = measure("Right", "Softmax", metric="check")
    for outcome in job.outcomes:
        assert outcome.status == "ok"
        assert given(outcome.figures) - {"provider_config"} == ERRORS | {
            "error_budget",
            "checks",
            "seed",
            "cpu_threads",
        }
        assert outcome.samples is None


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_protocol_paper_gives_only_the_mean(measure: Measure, direction: Direction) -> None:
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
