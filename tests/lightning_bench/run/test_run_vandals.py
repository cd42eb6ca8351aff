"""Providers that harm others in their common worker: the innocent stay right, the others are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.record import Record
from tests.support.paths import SUPPORT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

SPECS = f"{SUPPORT}/vandals.py"


def sweep(workspace: Any, names: list[str]) -> dict[str, Record]:
    suite = workspace.suite([f"{SPECS}:{name}" for name in names], direction="fwd_bwd")
    return {record.provider: record for record in workspace.sweep(suite, "check").records}


def test_innocent_rows_are_right_after_all_kinds_of_harm(new_workspace: Any) -> None:
    named = {
        "SetsDtypeInBuild": "it changed torch.get_default_dtype from torch.float32 to torch.float64",
        "StopsGradients": "it changed grad mode from True to False",
        "SetsThreads": "it changed torch.get_num_threads from ",
    }
    names = [*named, "ChangesSlopes", "Permutes", "WritesAndRaises", "Innocent"]
    rows = sweep(new_workspace, names)
    innocent = rows["innocent"]
    assert (innocent.status, innocent.reason) == ("ok", "")
    assert innocent.error_o is not None
    assert max(innocent.error_o, innocent.error_dq or 1, innocent.error_dk or 1) < 1e-5
    writes = rows["writes-and-raises"]
    assert (writes.status, writes.reason) == ("crashed", "ValueError: after writing")
    for name, reason in named.items():
        row = rows["".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")]
        assert row.status == "ok"
        assert row.reason.startswith(reason)


def test_who_changes_handlers_and_environment_in_a_turn_is_named(new_workspace: Any) -> None:
    specs = [f"{SPECS}:{name}" for name in ("HandlesAlarms", "Innocent")]
    records = new_workspace.sweep(new_workspace.suite(specs), "speed").records
    rows = {record.provider: record for record in records if record.direction == "fwd"}
    for changed in ("signal handlers of SIGALRM", "os.environ (HOME)"):
        assert f"it changed {changed}" in rows["handles-alarms"].reason
    assert "it changed" not in rows["innocent"].reason


def test_threads_and_children_end_with_their_case(
    new_workspace: Any,
    wait_gone: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("VANDAL_PID", str(tmp_path / "pid"))
    names = ["Spins", "LeavesAChild", "Innocent"]
    rows = sweep(new_workspace, names)
    assert rows["innocent"].reason == ""
    assert {rows[name].status for name in ("innocent", "spins", "leaves-a-child")} == {"ok"}
    assert rows["spins"].reason == "it left a thread running (spinner)"
    assert rows["leaves-a-child"].reason == "it left a child process running (sleep)"
    wait_gone(int((tmp_path / "pid").read_text()))
