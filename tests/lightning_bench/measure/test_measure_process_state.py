"""The state of the process: what is compared, named and restored; bundled providers change none of it."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_bench.case import Case, Shape
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.measure.leftovers import Leftovers
from lightning_bench.measure.process_state import ProcessState
from lightning_bench.measure.session import PoisonedError, Session
from lightning_bench.providers import get_provider
from tests.support.measure_jobs import LIMITS, SHAPE
from tests.support.paths import SUPPORT

b = torch.backends
CHANGES: dict[str, tuple[Callable[[], Any], str]] = {
    "threads": (
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        f"torch.get_num_threads from {torch.get_num_threads()} to {torch.get_num_threads() + 1}",
    ),
    "grad mode": (lambda: torch.set_grad_enabled(False), "grad mode from True to False"),
    "dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        "torch.get_default_dtype from torch.float32 to torch.float64",
    ),
    "device": (lambda: torch.set_default_device("meta"), "torch's default device to meta"),
    "same device": (lambda: torch.set_default_device("cpu"), "torch's default device to cpu"),
    "precision": (
        lambda: torch.set_float32_matmul_precision("high"),
        "torch.get_float32_matmul_precision from highest to high",
    ),
    "tf32": (lambda: setattr(b.cuda.matmul, "allow_tf32", True), "from highest to high"),
    "cudnn": (lambda: setattr(b.cudnn, "benchmark", True), "torch.backends.cudnn.benchmark from False"),
    "sdpa": (lambda: b.cuda.enable_flash_sdp(False), "flash SDPA from True to False"),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True),
        "torch.use_deterministic_algorithms from False to True",
    ),
    "denormals": (lambda: torch.set_flush_denormal(True), "flush-denormal from False to True"),
    "anomalies": (lambda: torch.autograd.set_detect_anomaly(True), "anomaly mode from False to True"),
    "autocast": (lambda: torch.set_autocast_enabled("cpu", True), "autocast on cpu from False to True"),
    "affinity": (lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}), "CPU affinity from ["),
    "gc": (gc.disable, "gc.isenabled from True to False"),
    "gc thresholds": (lambda: gc.set_threshold(7, 7, 7), "to (7, 7, 7)"),
    "folder": (lambda: os.chdir("/"), "the working folder from "),
    "umask": (lambda: os.umask(0o7), "umask from "),
    "environ": (lambda: os.environ.pop("PATH"), "os.environ (PATH)"),
    "signal": (lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), "signal handlers of SIGUSR1"),
    "recursion": (lambda: sys.setrecursionlimit(5000), "sys.getrecursionlimit from "),
    "switch interval": (lambda: sys.setswitchinterval(1.0), "sys.getswitchinterval from "),
    "path": (lambda: sys.path.pop(), "sys.path, from which 1 folders are missing"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_named_and_restored(name: str) -> None:
    change, text = CHANGES[name]
    if name == "affinity" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one CPU: there is nothing to leave out")
    state = ProcessState.read()
    change()
    (found,) = state.restore()
    assert text in str(found)
    assert str(found).startswith("it changed ")
    assert str(found).endswith("; restored")
    assert not state.differing()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may lower nice again")
def test_nice_is_restored() -> None:
    state = ProcessState.read()
    os.nice(1)
    (found,) = state.restore()
    assert str(found) == "it changed nice from 0 to 1; restored" or os.getpriority(os.PRIO_PROCESS, 0) > 0
    assert not state.differing()


@pytest.mark.skipif(not hasattr(b.cuda.matmul, "fp32_precision"), reason="this torch has no such flag")
def test_contradictory_precision_is_restored() -> None:
    state = ProcessState.read()
    b.cuda.matmul.fp32_precision = "tf32"  # torch.get_float32_matmul_precision now raises
    assert "fp32_precision from" in " ".join(map(str, state.restore()))
    assert not state.differing()


def test_what_libraries_do_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy

    monkeypatch.delenv("ADDED", raising=False)
    state = ProcessState.read()
    drawn = []
    for _ in range(2):
        drawn.append([random.random(), torch.rand(1).item(), numpy.random.rand()])
        warnings.simplefilter("ignore")
        os.environ["ADDED"] = "1"
        sys.path.append("/added")
        assert state.restore() == []
    sys.path.remove("/added")
    assert drawn[0] == drawn[1]
    assert not state.differing()


def test_what_cannot_be_undone_is_said() -> None:
    state = ProcessState.read()
    with torch.inference_mode():
        changes = [str(change) for change in state.restore()]
    assert "it changed inference mode from False to True; it cannot be restored" in changes


def outcomes(session: Session, names: list[str], metric: Any = "speed") -> tuple[list[Outcome], bool]:
    cases = [Case(SHAPE, n if "-" in n else f"{SUPPORT}/vandals.py:{n}", "fwd_bwd") for n in names]
    found: list[Outcome] = []
    job = Job(tuple(cases), metric, "lbench", LIMITS)
    return found, run_job(session, job, lambda case_id, phase: None, found.append)


def test_changes_are_named_in_the_row_of_who_made_them(session: Session) -> None:
    names = ["SetsDtypeInBuild", "Innocent", "StopsGradients", "InnocentToo"]
    found, reusable = outcomes(session, names, "check")
    assert reusable
    assert {o.status for o in found} == {"ok"}
    assert [o.reason for o in found] == [
        "it changed torch.get_default_dtype from torch.float32 to torch.float64; restored",
        "",
        "it changed grad mode from True to False; restored",
        "",
    ]


def test_samples_under_changed_conditions_are_unstable(session: Session) -> None:
    threads = torch.get_num_threads()
    found, _ = outcomes(session, ["SetsThreads", "Innocent"])
    reasons = {o.case.provider.rpartition(":")[2]: (o.status, o.reason) for o in found}
    status, reason = reasons["SetsThreads"]
    assert status == "unstable"
    assert f"it changed torch.get_num_threads from {threads} to 3; restored" in reason
    assert f"it changed torch.get_num_threads from {threads} to 4; restored" in reason
    assert "it changed" not in reasons["Innocent"][1]
    assert torch.get_num_threads() == threads


def test_thread_that_is_left_is_named_and_the_process_not_used_again(session: Session) -> None:
    found, reusable = outcomes(session, ["Waits", "Innocent"], "check")
    held = sys.modules[type(get_provider(f"{SUPPORT}/vandals.py:Waits")).__module__].HELD
    held.pop().set()
    assert [(o.status, o.reason) for o in found] == [("ok", "it left a thread running (waiter)"), ("ok", "")]
    assert not reusable


def test_timer_of_torch_compile_is_nobodys() -> None:
    from torch._inductor.compile_worker.timer import Timer

    leftovers, timer = Leftovers(), Timer(2.0, lambda: None)
    timer.record_call()  # a thread starts, and looks every second whether it is time to end
    try:
        assert timer.background_thread is not None
        assert timer.background_thread.is_alive()
        leftovers.note("case", children=False)
        assert leftovers.found == []
    finally:
        timer.quit()


def test_child_that_is_left_is_named(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VANDAL_PID", str(tmp_path / "pid"))
    found, reusable = outcomes(session, ["LeavesAChild", "Innocent"], "check")
    held = sys.modules[type(get_provider(f"{SUPPORT}/vandals.py:Waits")).__module__].HELD
    child = held.pop()
    child.kill()
    child.wait()
    assert [(o.status, o.reason) for o in found] == [
        ("ok", "it left a child process running (sleep)"),
        ("ok", ""),
    ]
    assert not reusable


def test_what_cannot_be_undone_spoils_the_process_for_others(session: Session) -> None:
    module = sys.modules[type(get_provider(f"{SUPPORT}/vandals.py:InfersForGood")).__module__]
    try:
        with pytest.raises(PoisonedError, match="changed inference mode from False to True, which cannot"):
            outcomes(session, ["InfersForGood", "Innocent"], "check")
        module.HELD.pop().__exit__(None, None, None)
        ((alone,), reusable) = outcomes(session, ["InfersForGood"], "check")
    finally:
        module.HELD.pop().__exit__(None, None, None)
    assert "it changed inference mode from False to True; it cannot be restored" in alone.reason
    assert not reusable


BUNDLED = ["lightning2-torch", "sdpa-math", "gla-torch", "retention-torch"]


def test_bundled_providers_are_not_named(session: Session) -> None:
    shape = Shape(1, 2, 64, 16, 16, "fp32", "cpu")
    cases = tuple(Case(shape, name, "fwd_bwd") for name in BUNDLED)
    found: list[Outcome] = []
    assert run_job(session, Job(cases, "check", "lbench", LIMITS), lambda *_: None, found.append)
    assert {o.case.provider for o in found} == set(BUNDLED)
    assert {(o.status, o.reason) for o in found} == {("ok", "")}
