"""What a slot on another host reports: outcomes together, and of many phases now and then the last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.measure.job import Outcome
from lightning_bench.run.executor import CaseEntered, CaseMeasured, JobFinished, SlotEvent, SlotLost
from lightning_bench.run.slot_host import SlotHost, report_pause_s
from tests.support.patience import PATIENCE_S
from tests.support.played_slots import made_up_cases

ONE, TWO = made_up_cases(1)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlotHost]:
    monkeypatch.chdir(tmp_path)
    played = SlotHost("cpu", tmp_path, "ray", 8)
    yield played
    played._locks.close()


def happens(host: SlotHost, *events: SlotEvent | BaseException) -> None:
    for event in events:
        host._happened.put(event)


def test_outcomes_of_a_job_come_together_and_its_phases_do_not(host: SlotHost) -> None:
    slot = host.slot
    assert slot.executor == "ray 8"
    measured = [CaseMeasured(slot, Outcome(case, "ok")) for case in (ONE, TWO)]
    done = JobFinished(slot)
    happens(host, CaseEntered(slot, ONE.id, "check"), measured[0], CaseEntered(slot, TWO.id, "check"))
    happens(host, measured[1], done)
    assert host.poll(PATIENCE_S) == [*measured, done]


def test_of_many_phases_the_last_one_comes(host: SlotHost) -> None:
    phases = [CaseEntered(host.slot, ONE.id, phase) for phase in ("load", "check", "warm-up")]
    happens(host, *phases)
    assert host.poll(PATIENCE_S) == [phases[-1]]
    host._told_s += 3600.0  # as if it had just been asked, on a cluster of very many slots
    happens(host, *phases)
    outcome = CaseMeasured(host.slot, Outcome(ONE, "ok"))
    happens(host, outcome)
    assert host.poll(PATIENCE_S) == [outcome, phases[-1]]


def test_nothing_happens(host: SlotHost) -> None:
    assert host.poll(0.0) == []


def test_what_a_slot_could_not_handle_is_raised(host: SlotHost) -> None:
    happens(host, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        host.poll(PATIENCE_S)


def test_a_lost_slot_says_so_at_once(host: SlotHost) -> None:
    gone = SlotLost(host.slot, "no worker starts")
    happens(host, CaseEntered(host.slot, "", "start"), gone)
    assert host.poll(PATIENCE_S) == [gone]


def test_all_slots_together_report_as_often_however_many_they_are() -> None:
    assert report_pause_s(1) == report_pause_s(4) < report_pause_s(64)
    assert 512 / report_pause_s(512) == pytest.approx(64 / report_pause_s(64))


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="start the sweep in a folder that all hosts share"):
        SlotHost("cpu", tmp_path / "elsewhere", "slurm", 1)
