"""`lbench verify`: which rows can be measured again, what the sample shows, and how the command ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.machine import describe_machine
from lightning_bench.record import Record, ResultFile, read_records
from lightning_bench.run import chosen_slots
from lightning_bench.run.verify import (
    Repetition,
    Verification,
    candidates,
    found_providers,
    plans,
    sample,
    verification,
)
from tests.support.fake_slots import fake_gpu_slots
from tests.support.workspace import Ran, Workspace

pytestmark = pytest.mark.usefixtures("forked_workers")

MACHINES = {"cpu": describe_machine("cpu")}
SPECS = found_providers([])


def row(provider: str = "sdpa-math", seq_len: int = 64, **changes: Any) -> Record:
    planned = plans_version(provider)
    values: dict[str, Any] = {
        "metric": "speed",
        "protocol": "lbench",
        "status": "ok",
        "case_id": f"{provider}/fwd/b1-h2-n{seq_len}-d16-e16-fp32-cpu",
        "provider": provider,
        "family": "softmax",
        "provider_version": planned,
        "direction": "fwd",
        "dtype": "fp32",
        "batch": 1,
        "heads": 2,
        "seq_len": seq_len,
        "head_dim": 16,
        "value_dim": 16,
        "device": "cpu",
        "device_name": MACHINES["cpu"].device_name,
        "machine_id": MACHINES["cpu"].id,
        "median_ms": 1.0,
        "ci_low_ms": 0.98,
        "ci_high_ms": 1.02,
    }
    return Record(**(values | changes))


def plans_version(provider: str) -> str:
    from lightning_bench.providers import declared_provider

    return declared_provider(SPECS[provider]).version() if provider in SPECS else "1"


def test_rows_that_cannot_be_measured_here_are_counted_by_reason() -> None:
    rows = [
        row(),
        row(seq_len=128, status="unstable"),
        row(seq_len=256, device_name="Another CPU"),
        row("nobody-has-this", seq_len=512),
        row(seq_len=1024, provider_version="torch 0.1"),
        row(seq_len=2048, protocol="paper"),
        row(seq_len=4096, metric="memory"),
        row(seq_len=64, median_ms=2.0, time_utc="2026-01-01T00:00:00+00:00"),
    ]
    found = candidates(rows, MACHINES, SPECS)
    assert [record.median_ms for record in found.records] == [2.0]
    assert found.left_out.total() == 4
    reasons = " ".join(found.left_out)
    for part in ("not ok", "of Another CPU", "of nobody-has-this", "of sdpa-math torch 0.1; here is"):
        assert part in reasons


def test_the_sample_is_of_the_size_and_seed_that_were_asked_for() -> None:
    rows = [row(seq_len=n) for n in range(1, 41)]
    assert sample(rows, 7, 3) == sample(rows, 7, 3)
    assert len({tuple(record.seq_len for record in sample(rows, 7, seed)) for seed in range(5)}) == 5
    assert sample(rows, 100, 0) == rows


def test_rows_are_measured_in_as_many_processes_as_before_by_the_limits_of_their_suite() -> None:
    rows = [row(suite="quick"), row(seq_len=128, suite="quick", processes=3), row(seq_len=256, suite="mine")]
    made = plans(rows, MACHINES, SPECS)
    assert [(plan.suite, plan.processes, len(plan.cases)) for plan in made] == [
        ("quick", 1, 1),
        ("quick", 3, 1),
        ("mine", 1, 1),
    ]
    assert made[0].limits.ci_percent == 5.0
    assert made[2].limits.ci_percent == 1.0


def test_what_the_sample_shows() -> None:
    then = [row(seq_len=n) for n in (1, 2, 3, 4, 5)]
    times = [1.01, 0.97, 1.1, None]
    now = [replace(each, median_ms=time) for each, time in zip(then, times, strict=False)]
    result = verification(then, now)
    assert [each.inside for each in result.repetitions] == [True, False, False, False]
    assert (result.inside, result.share) == (1, 0.25)
    assert result.changes == pytest.approx((0.03, 0.086, 0.1))
    assert Verification((Repetition(then[0], replace(then[0], median_ms=None)),)).changes is None


@pytest.fixture(scope="module")
def recorded(workspace: Workspace) -> Record:
    workspace.sweep(workspace.suite(["Good"]), "speed")
    return read_records(workspace.out)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("low", "high", "code"), [(1e-6, 1e6, 0), (1e-6, 2e-6, 1)])
def test_the_command_measures_again_and_exits_by_the_share(
    recorded: Record,
    workspace: Workspace,
    lbench: Callable[..., Ran],
    low: float,
    high: float,
    code: int,
) -> None:
    path = workspace.folder / f"claimed-{code}.csv"
    with ResultFile(path) as file:
        file.append(replace(recorded, status="ok", ci_low_ms=low, ci_high_ms=high))
    again = workspace.folder / f"again-{code}.csv"
    good = f"{workspace.zoo}:Good"
    ran = lbench("verify", path, "--provider", good, "--at-least", "95%", "--out", again, "--json")
    assert ran.code == code, ran.err
    told = json.loads(ran.out)
    assert (told["rows"], told["inside"]) == (1, 1 - code)
    assert told["repetitions"][0]["now_ms"] == read_records(again)[0].median_ms


@pytest.mark.slow
def test_rows_are_measured_again_on_several_slots(
    workspace: Workspace, lbench: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.out.unlink(missing_ok=True)
    workspace.sweep(workspace.suite(["Good"], seq_len=[32, 64], name="two"), "speed")
    rows = read_records(workspace.out)
    path, again = workspace.folder / "two.csv", workspace.folder / "two-again.csv"
    with ResultFile(path) as file:
        for record in rows:
            file.append(replace(record, status="ok", ci_low_ms=1e-6, ci_high_ms=1e6))
    monkeypatch.setattr(chosen_slots, "local_slots", lambda *_: fake_gpu_slots(2))
    ran = lbench(
        "verify", path, "--provider", f"{workspace.zoo}:Good", "--out", again, "--json", "--gpus", "all"
    )
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["inside"] == len(rows) == 2
    new = read_records(again)
    assert {record.executor for record in new} == {"local 2"}
    assert {record.gpu_uuid for record in new} == {"digits-0", "digits-1"}


def test_slots_of_a_cpu_verify_nothing(tmp_path: Path, lbench: Callable[..., Ran]) -> None:
    path = tmp_path / "own.csv"
    with ResultFile(path) as file:
        file.append(row())
    ran = lbench("verify", path, "--gpus", "cpu:2")
    assert ran.code == 2
    assert "--gpus cpu:2: slots of a CPU disturb each other; verify times of a CPU without --gpus" in ran.err


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("speed quick", "give --gpus cpu:N"),
        ("verify .", "verify times of a CPU without --gpus"),
        ("calibrate quick", "calibrate a CPU without --gpus"),
    ],
)
def test_what_to_do_without_a_gpu_is_what_the_command_takes(
    command: str, instead: str, lbench: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    ran = lbench(*command.split(), "--gpus", "0")
    assert ran.code == 2
    assert " ".join(ran.err.split()).endswith(f"; mend that, or {instead}")
    refused = lbench(*command.split(), "--gpus", "cpu:0")
    assert ("slots of a CPU disturb each other" in refused.err) == ("cpu:N" not in instead)


def test_nothing_to_measure_again_is_bad_usage(tmp_path: Path, lbench: Callable[..., Ran]) -> None:
    path = tmp_path / "h200.csv"
    with ResultFile(path) as file:
        file.append(row(device_name="NVIDIA H200"))
    ran = lbench("verify", path)
    assert ran.code == 2
    assert "no time that can be measured again here; left out: 1 of NVIDIA H200" in ran.err
