"""`lbench check --sanitizer memcheck` with the real program: an overrun that nothing else sees is `wrong`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_bench.case import Case, Shape
from lightning_bench.errors import UsageError
from lightning_bench.machine import describe_machine
from lightning_bench.record import Record, ResultFile
from lightning_bench.run.plan import Plan, with_providers
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.run.sanitizer import RACECHECK_SOUND, Sanitizer, find_sanitizer
from lightning_bench.run.sweep import run_sweep
from lightning_bench.suite import Limits
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

FILE = ROOT / "tests/support/overruns.py"


def checked(folder: Path, specs: list[str], sanitizer: Sanitizer | None) -> dict[str, Record]:
    """Return the rows of a check by provider, on a shape with few blocks."""
    shape = Shape(1, 2, 256, 64, 64, "bf16", "cuda")
    cases = tuple(Case(shape, spec, "fwd_bwd") for spec in specs)
    limits = Limits(time_limit_s=500)
    machine = describe_machine("cuda")
    plan = Plan("gpu", "check", "lbench", limits, machine, "cuda", cases, sanitizer=sanitizer)
    with ResultFile(folder / "rows.csv") as out:
        rows = run_sweep(with_providers(plan), out, QuietWatcher()).records
    for row in rows:
        print(row.provider, row.status, row.checks, row.reason)
    return {row.provider: row for row in rows}


@pytest.fixture
def memcheck() -> Sanitizer:
    try:
        return find_sanitizer("memcheck", None)
    except UsageError as error:
        pytest.skip(str(error))


def test_without_it_an_overrun_is_not_seen(tmp_path: Path) -> None:
    assert checked(tmp_path, [f"{FILE}:Overruns"], None)["overruns"].status == "ok"


def test_an_overrun_is_wrong_and_named(tmp_path: Path, memcheck: Sanitizer) -> None:
    rows = checked(tmp_path, [f"{FILE}:KeepsWithin", f"{FILE}:Overruns"], memcheck)
    within, overruns = rows["keeps-within"], rows["overruns"]
    assert (within.status, within.reason) == ("ok", ""), within.reason
    assert within.checks.endswith(f"{memcheck.name}: 0 errors")
    assert overruns.status == "wrong"
    assert "Invalid __global__ write of size" in overruns.reason
    assert "fill_kernel" in overruns.reason
    assert "out of bounds" in overruns.reason


def test_the_bundled_kernel_is_clean(tmp_path: Path, memcheck: Sanitizer) -> None:
    row = checked(tmp_path, ["lightning2"], memcheck)["lightning2"]
    assert (row.status, row.reason) == ("ok", "")
    assert row.checks.endswith(f"{memcheck.name}: 0 errors")


def test_the_bundled_kernel_has_no_race(tmp_path: Path) -> None:
    try:
        racecheck = find_sanitizer("racecheck", None)
    except UsageError as error:
        pytest.skip(str(error))
    if racecheck.version is None or racecheck.version < RACECHECK_SOUND:
        pytest.skip(f"{racecheck.name} reports races that are none")
    row = checked(tmp_path, ["lightning2"], racecheck)["lightning2"]
    assert (row.status, row.reason) == ("ok", "")
