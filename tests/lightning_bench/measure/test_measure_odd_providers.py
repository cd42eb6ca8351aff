"""Whatever a method or a call of a provider returns, its case has a row with a reason."""

from __future__ import annotations

import pytest

from lightning_bench.case import Case
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.measure.session import Session
from tests.support.measure_jobs import LIMITS, SHAPE
from tests.support.paths import SUPPORT

REASONS = {
    "ConfigIsADict": "config() returned {'BLOCK': 64}, which is no text",
    "UnsupportedIsTrue": "unsupported() returned True, which is no text",
    "BuildGivesNothing": "build() returned None, which is no function",
    "OutputIsNone": "",
    "OutputIsATuple": "",
    "OutputIsNumpy": "",
    "OutputIsElsewhere": "",
}


@pytest.mark.parametrize("direction", ["fwd", "fwd_bwd"])
def test_each_case_has_an_outcome(session: Session, direction: str) -> None:
    cases = [Case(SHAPE, f"{SUPPORT}/odd_providers.py:{name}", direction) for name in [*REASONS, "Plain"]]  # type: ignore[arg-type]
    found: list[Outcome] = []
    assert run_job(session, Job(tuple(cases), "check", "lbench", LIMITS), lambda *_: None, found.append)
    outcomes = {outcome.case.provider.rpartition(":")[2]: outcome for outcome in found}
    assert outcomes.pop("Plain").status == "ok"
    assert outcomes.keys() == REASONS.keys()
    for name, outcome in outcomes.items():
        assert outcome.status in {"crashed", "wrong"}
        assert outcome.reason
        assert REASONS[name] in outcome.reason
