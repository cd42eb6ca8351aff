"""A sweep of provider files that exit, raise or print at import and declare odd things: a row per case."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lightning_bench.record import read_records
from tests.support.paths import SUPPORT

pytestmark = pytest.mark.slow  # workers start

ODD = f"{SUPPORT}/odd_providers.py"


def test_each_case_has_a_row_and_json_is_valid(new_workspace: Any) -> None:
    exits = new_workspace.folder / "exits.py"
    exits.write_text("import os\nos._exit(0)\n")
    raises = new_workspace.folder / "raises.py"
    raises.write_text("x = 1\nimport no_such_module\n")
    names = [f"{ODD}:{name}" for name in ("Plain", "NameIsANumber", "VersionRaises", "DtypesAreAWord")]
    suite = new_workspace.suite([*names, f"{exits}:Mine", f"{raises}:Theirs"])
    ran = new_workspace.run("check", suite, "--out", new_workspace.out, "--json")
    assert ran.returncode == 1
    assert {record["status"] for record in json.loads(ran.stdout)[0]["records"]} == {"ok", "crashed"}
    assert "printed at import" not in ran.stdout + ran.stderr
    rows = {row.provider: row for row in read_records(new_workspace.out)}
    assert {name for name, row in rows.items() if row.status == "ok"} == {"plain"}
    assert len(rows) == 6
    assert rows["Mine"].reason == f"the import of provider file {exits} ended its process with exit code 0"
    failed = f"provider file {raises} failed to import, line 2: ModuleNotFoundError: No module named"
    assert rows["Theirs"].reason == f"{failed} 'no_such_module'"
    again = new_workspace.run("check", suite, "--out", new_workspace.out)
    assert "6 of them recorded already" in again.stderr


def test_a_file_that_is_not_there_ends_it_before_it_begins(new_workspace: Any) -> None:
    for name in ("missing.py:Mine", f"{ODD}:Missing"):
        ran = new_workspace.run(
            "check", "quick", "--provider", f"{ODD}:Plain,{name}", "--out", new_workspace.out
        )
        assert (ran.returncode, ran.stdout) == (2, "")
        assert not new_workspace.out.exists()
