"""Jobs on this CPU, in this process: every case ends in one outcome, and in the right one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_bench.case import Metric, ProtocolName
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import Figures
from lightning_bench.measure.session import Session
from lightning_bench.suite import Limits
from tests.support.measure_jobs import ERRORS, FakeTimer, Measure, given


@pytest.mark.parametrize("metric", ["speed", "memory", "check"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Wrong", "o is off by 1.0e-02 relative L2"),
        ("NanGradient", "dk has NaN or Inf in 1 of 140 rows"),
        ("Unwritten", "o has NaN or Inf in 140 of 140 rows"),
    ],
)
def test_wrong_gets_no_figure(measure: Measure, metric: Metric, name: str, reason: str) -> None:
    job = measure("Right", name, metric=metric)
    assert job["Right"].status in ("ok", "unstable")
    outcome = job[name]
    assert outcome.status == "wrong"
    assert reason in outcome.reason
    assert given(outcome.figures) - {"provider_config"} == ERRORS | {"error_budget", "seed", "cpu_threads"}
    assert outcome.samples is None


def test_a_wrong_gradient_does_not_fail_a_forward_case(measure: Measure) -> None:
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
    assert job[name].figures == Figures(cpu_threads=torch.get_num_threads())
    assert job[name].samples is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton finds a GPU")
def test_a_triton_kernel_without_a_gpu_says_how_to_check_it(measure: Measure) -> None:
    outcome = measure("NeedsDriver", direction="fwd", metric="check")["NeedsDriver"]
    assert outcome.status == "crashed"
    assert "active drivers" in outcome.reason
    assert outcome.reason.endswith(
        "Triton finds no GPU: with TRITON_INTERPRET=1 its kernels run on a CPU, to be checked"
    )


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


def test_a_case_that_does_not_fit_beside_the_others_runs_alone_afterwards(measure: Measure) -> None:
    job = measure("FitsAlone", "Right", "Also", direction="fwd")
    assert job["FitsAlone"].status in ("ok", "unstable")
    assert job["FitsAlone"].figures.median_ms > 0
    assert job.outcomes[-1] is job["FitsAlone"]
    own = job["FitsAlone"].case.id
    others = max(i for i, (case_id, _) in enumerate(job.entered) if case_id not in ("", own))
    assert [phase for case_id, phase in job.entered[others + 1 :] if case_id == own][-1] == "samples"
    assert "samples" not in [phase for case_id, phase in job.entered[:others] if case_id == own]


def test_a_sole_case_that_runs_out_of_memory_while_sampled_is_oom(measure: Measure) -> None:
    quiet = Session("cpu")
    quiet.timer = FakeTimer(then=4.0)
    # The gate and three batches of warm-up are four calls; the fifth is a sample.
    job = measure("LateOom", direction="fwd", on=quiet)
    assert job.entered[-1] == (job["LateOom"].case.id, "samples")
    assert (job["LateOom"].status, job["LateOom"].reason) == ("oom", "RuntimeError: out of memory")
    assert job["LateOom"].figures == Figures(cpu_threads=torch.get_num_threads())


@pytest.mark.parametrize("metric", ["speed", "check"])
def test_directions_of_one_job_share_the_oracle(measure: Measure, metric: Metric) -> None:
    job = measure("Right/fwd", "Also/bwd", metric=metric)
    assert [o.status in ("ok", "unstable") for o in job.outcomes] == [True, True]
    assert given(job["Right"].figures) & ERRORS == {"error_o"}
    assert given(job["Also"].figures) & ERRORS == ERRORS
    assert [phase for case_id, phase in job.entered if not case_id].count("oracle") == 1


def test_inputs_that_do_not_fit_end_all_cases(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    session = Session("cpu")
    monkeypatch.setattr(GUARD, "_kept", [])  # or it would find what comes next
    monkeypatch.setattr("lightning_bench.measure.bench.InputSet", full)
    job = measure("Right", "NoImport", "Also", direction="fwd", on=session)
    assert job["NoImport"].status == "unavailable"
    for name in ("Right", "Also"):
        assert job[name].status == "oom"
        assert job[name].reason.startswith("the inputs alone do not fit: ")


def test_phases_are_announced_before_the_work(measure: Measure) -> None:
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


def test_a_provider_that_changes_its_inputs_is_wrong_and_no_later_one(measure: Measure) -> None:
    run = measure("ChangesItsInputs", "Right", direction="fwd", metric="check")
    assert (run["ChangesItsInputs"].status, run["ChangesItsInputs"].reason) == (
        "wrong",
        "it changes its inputs: k",
    )
    assert run["Right"].status == "ok"


def test_inputs_are_drawn_again_only_when_they_must_be_as_they_were(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[InputSet] = []

    class Counted(InputSet):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            drawn.append(self)

    monkeypatch.setattr(GUARD, "_kept", [])  # or it would find what comes next
    monkeypatch.setattr("lightning_bench.measure.bench.InputSet", Counted)
    limits = Limits(sample_limit_s=0.5, min_samples=20, max_samples=20, ci_percent=50.0)
    measure("Right", "Also", direction="fwd", limits=limits)
    assert len(drawn) == 1
    measure("ChangesItsInputs", "Right", direction="fwd", metric="check")
    assert len(drawn) == 3
    assert torch.equal(drawn[1].k, drawn[2].k)


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_say_with_how_many_threads_they_were_measured(measure: Measure, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        job = measure("Right", "ManyThreads", "NoImport", "Wrong", direction="fwd")
    finally:
        torch.set_num_threads(before)
    assert {outcome.figures.cpu_threads for outcome in job.outcomes} == {threads}
    assert "it changed torch.get_num_threads from" in job["ManyThreads"].reason


def test_an_output_in_another_dtype_is_wrong(measure: Measure) -> None:
    run = measure("Widens", direction="fwd", metric="check")
    assert run["Widens"].status == "wrong"
    assert run["Widens"].reason == "o is torch.float64, not torch.float32"
