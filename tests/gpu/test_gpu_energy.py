"""Energy on a real GPU: windows by NVML's counter, less what the board needs at rest."""

from __future__ import annotations

import pytest
import torch

from lightning_bench.case import Case, Shape
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.measure.session import Session
from lightning_bench.suite import Limits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]


def test_windows_of_two_kernels() -> None:
    of = Shape(4, 32, 8192, 128, 128, "bf16", "cuda")
    cases = tuple(Case(of, name, "fwd") for name in ("lightning2", "sdpa-flash"))
    outcomes: list[Outcome] = []
    session = Session("cuda")
    run_job(session, Job(cases, "energy", "lbench", Limits()), lambda *_: None, outcomes.append)
    if session.energy.missing:
        assert [(each.status, each.reason) for each in outcomes] == [
            ("unavailable", session.energy.missing)
        ] * 2
        return
    energies = {}
    for each in outcomes:
        f = each.figures
        assert each.status in ("ok", "unstable"), each.reason
        assert f.call_mj is not None
        assert f.power_w is not None
        assert f.rest_w is not None
        assert f.median_ms is not None
        assert 20 < f.rest_w < f.power_w < 1200
        assert f.call_mj == pytest.approx((f.power_w - f.rest_w) * f.median_ms, rel=0.1)
        energies[each.case.provider] = f.call_mj
    assert energies["lightning2"] < energies["sdpa-flash"]  # which takes about ten times as long
