"""How long a plan takes, by the rows of earlier runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lightning_bench.case import Case
from lightning_bench.machine import describe_machine
from lightning_bench.record import Record, read_rows
from lightning_bench.run.estimate import estimated_time, least_flops, recorded_peaks_mib
from lightning_bench.run.plan import Plan
from lightning_bench.suite import load_suite
from tests.support.paths import ROOT
from tests.support.report_rows import STORY


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of(load_suite("quick"), "speed", describe_machine("cpu"))


def rows(*after_s: float, **changes: object) -> list[Record]:
    """Return rows that were written so many seconds after a moment."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        replace(STORY, median_ms=1.0, time_utc=(begin + timedelta(seconds=s)).isoformat(), **changes)
        for s in after_s
    ]


def test_time_goes_by_the_pace_of_earlier_rows(plan: Plan) -> None:
    found = estimated_time(plan, plan.cases[:10], rows(0, 0, 6, 6, 12, device_name="x"))
    assert found.seconds == pytest.approx(10 * 12 / 4)
    assert found.basis == "by 5 earlier rows of story on x, whose cases may take another time"


def test_the_same_device_and_the_same_suite_go_first(plan: Plan) -> None:
    name = plan.machine.device_name
    own = rows(0, 2, suite="quick", device_name=name)
    others = rows(0, 9, suite="other", device_name=name) + rows(0, 99, suite="quick", device_name="x")
    assert estimated_time(plan, plan.cases[:1], own + others).seconds == pytest.approx(2)
    assert estimated_time(plan, plan.cases[:1], own + others).basis == f"by 2 earlier rows of quick on {name}"
    assert estimated_time(plan, plan.cases[:1], others).seconds == pytest.approx(9)


def test_processes_count(plan: Plan) -> None:
    several = replace(plan, limits=plan.limits.model_copy(update={"processes": 3}))
    assert estimated_time(several, several.cases[:1], rows(0, 2)).seconds == pytest.approx(6)
    assert estimated_time(several, several.cases[:1], rows(0, 2, processes=2)).seconds == pytest.approx(3)


def test_a_pause_between_two_runs_is_no_measuring(plan: Plan) -> None:
    assert estimated_time(plan, plan.cases[:1], rows(0, 2, 90_000, 90_002)).seconds == pytest.approx(2)


def test_a_pause_between_two_commands_is_no_measuring(plan: Plan) -> None:
    first = rows(3, 3, run_utc="2026-01-01T00:00:00+00:00")
    second = rows(204, 207, run_utc="2026-01-01T00:03:20+00:00")
    assert estimated_time(plan, plan.cases[:10], first + second).seconds == pytest.approx(10 * (3 + 7) / 4)
    alone = rows(5, run_utc="2026-01-01T00:00:00+00:00")
    assert estimated_time(plan, plan.cases[:1], alone).seconds == pytest.approx(5), (
        "its start tells, without another row"
    )
    assert estimated_time(plan, plan.cases[:1], rows(0, 2) + alone).seconds == pytest.approx((5 + 2) / 2), (
        "older rows count"
    )


def test_without_rows_the_limits_tell_and_else_nothing(plan: Plan) -> None:
    assert estimated_time(plan, plan.cases[:3], []).seconds == pytest.approx(3 * plan.limits.sample_limit_s)
    other = [*rows(0, 2, protocol="paper"), *rows(0, 2, device="cuda"), *rows(0, 2, status="crashed")]
    assert estimated_time(plan, plan.cases[:3], other).seconds == pytest.approx(
        3 * plan.limits.sample_limit_s
    )
    unknown = estimated_time(replace(plan, metric="memory"), plan.cases[:3], rows(0, 2))
    assert (unknown.seconds, unknown.basis) == (None, "no earlier row of memory says how long")
    energy = estimated_time(replace(plan, metric="energy"), plan.cases[:10], [])
    assert energy.seconds == pytest.approx(10 * 3 * (5 + 1.5 * 2))


def test_the_committed_paper_sweep_takes_as_long_as_its_rows_say() -> None:
    paper = Plan.of(load_suite("paper"), "speed", describe_machine("cuda", elsewhere=True))
    earlier = [row.record for row in read_rows([ROOT / "results" / "h200"]).rows]
    one = replace(paper, limits=paper.limits.model_copy(update={"processes": 1}))
    seconds = estimated_time(one, one.cases, earlier).seconds
    assert seconds is not None
    assert 4 * 60 < seconds < 10 * 60, "5 to 7 minutes, as the suite says"


def test_the_largest_recorded_peak_counts(plan: Plan) -> None:
    case_id = plan.case_id(plan.cases[0])
    earlier = [
        replace(STORY, case_id=case_id, peak_mib=peak, device_name=name, time_utc="2026-01-01T00:00:00+00:00")
        for peak, name in ((3.0, "x"), (5.0, "y"), (None, "z"))
    ]
    others = [
        replace(earlier[0], case_id="other", peak_mib=9.0),
        replace(earlier[0], protocol="paper", peak_mib=9.0),
        replace(earlier[0], time_utc="", peak_mib=9.0),  # as of a published table
    ]
    assert recorded_peaks_mib(plan, [*earlier, *others]) == {case_id: (5.0, "y")}


def test_a_run_on_two_slots_had_twice_the_time(plan: Plan) -> None:
    begun = "2026-01-01T00:00:00+00:00"
    one, two = (rows(4, 6, run_utc=begun, executor=executor) for executor in ("", "local 2"))
    assert estimated_time(plan, plan.cases[:1], one).seconds == pytest.approx(3)
    assert estimated_time(plan, plan.cases[:1], two).seconds == pytest.approx(6)


def test_a_longer_step_or_generation_needs_more_operations() -> None:
    for suite, metric in (("table1", "train"), ("generate", "generate"), ("paper", "speed")):
        plan = Plan.of(load_suite(suite), metric, describe_machine("cpu"))
        first = plan.cases[0]
        alike = [
            case
            for case in plan.cases
            if (case.provider, case.direction, case.shape.model_run)
            == (first.provider, first.direction, first.shape.model_run)
        ]
        assert len(alike) > 2
        of = {case.shape.batch * case.shape.seq_len: least_flops(plan, case) for case in alike}
        assert [of[n] for n in sorted(of)] == sorted(of.values())


@pytest.fixture(scope="module")
def training() -> Plan:
    return Plan.of(load_suite("quick"), "train", describe_machine("cpu"))


def trained(model: str, *after_s: float, **changes: object) -> list[Record]:
    named = {"metric": "train", "suite": "quick", "run_utc": "2026-01-01T00:00:00+00:00", **changes}
    return rows(*after_s, model=model, **named)


def of_model(plan: Plan, model: str) -> list[Case]:
    return [case for case in plan.cases if case.shape.model_run.model == model]


def test_a_whole_model_goes_by_rows_of_its_own(training: Plan) -> None:
    # A small model for 2 s each, then a large one for 100 s each, in one run.
    earlier = [*trained("tnl-tiny", 2, 4), *trained("llama-tiny", 104, 204)]
    small, large = (of_model(training, model) for model in ("tnl-tiny", "llama-tiny"))
    found = estimated_time(training, small, earlier)
    assert found.seconds == pytest.approx(2 * len(small))
    assert found.basis == "by 2 earlier rows of tnl-tiny in quick on " + STORY.device_name
    assert estimated_time(training, large, earlier).seconds == pytest.approx(100 * len(large))
    both = estimated_time(training, [*small, *large], earlier)
    assert both.seconds == pytest.approx(2 * len(small) + 100 * len(large))
    assert "by 4 earlier rows of llama-tiny, tnl-tiny in quick" in both.basis


def test_rows_of_the_case_and_of_its_provider_go_first(training: Plan) -> None:
    case, other = (case for case in of_model(training, "llama-tiny") if case.provider == "sdpa-math")
    same = trained("llama-tiny", 5, provider="sdpa-math", case_id=training.case_id(case))
    others = [*trained("llama-tiny", 12, provider="sdpa-math"), *trained("llama-tiny", 112)]
    assert estimated_time(training, [case], same + others).seconds == pytest.approx(5)
    assert estimated_time(training, [other], same + others).seconds == pytest.approx((5 + 7) / 2)


def test_a_failed_case_takes_time_from_no_other(training: Plan) -> None:
    (case, *_) = of_model(training, "tnl-tiny")
    earlier = [*trained("llama-tiny", 90, status="oom"), *trained("tnl-tiny", 92)]
    assert estimated_time(training, [case], earlier).seconds == pytest.approx(2)


def test_a_model_without_rows_is_said_to_have_none(training: Plan) -> None:
    earlier, limit = trained("tnl-tiny", 2), training.limits.sample_limit_s
    large = of_model(training, "llama-tiny")
    alone = estimated_time(training, large, earlier)
    assert alone.seconds == pytest.approx(limit * len(large))
    assert alone.basis.endswith("no earlier row of llama-tiny says how long")
    both = estimated_time(training, training.cases, earlier)
    assert both.seconds == pytest.approx(limit * len(large) + 2 * (len(training.cases) - len(large)))
    assert f"; no earlier row of llama-tiny ({len(large)} cases): only sampling, at its longest" in both.basis
