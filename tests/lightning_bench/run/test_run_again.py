"""Running the same command again: what stands, what --retry, a changed file and --fresh measure anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from lightning_bench.record import COLUMNS, Record, read_records
from tests.support.workspace import Ran

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]


@dataclass
class Step:
    ran: Ran
    rows: list[Record]

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(row.provider, row.status) for row in self.rows]


BOTH = [("good", "ok"), ("raises-until-go", "crashed")]


@pytest.fixture(scope="module")
def steps(workspace: Any) -> dict[str, Step]:
    command = ["check", workspace.suite(["Good", "RaisesUntilGo"]), "--out", workspace.out]
    steps: dict[str, Step] = {}

    def run(name: str, *more: str) -> None:
        ran = workspace.call(*command, *more)
        steps[name] = Step(ran, read_records(workspace.out))

    run("first")
    run("same")
    (workspace.folder / "go").touch()
    run("retry", "--retry")
    with workspace.zoo.open("a") as file:
        file.write("# changed\n")
    run("changed")
    run("fresh", "--fresh")
    return steps


def test_existing_rows_are_not_measured_again(steps: dict[str, Step]) -> None:
    assert steps["first"].states == BOTH
    assert steps["same"].rows == steps["first"].rows
    assert "2 cases, 2 of them recorded already" in steps["same"].ran.err


def test_a_row_that_failed_still_fails_the_sweep(steps: dict[str, Step]) -> None:
    assert [steps[name].ran.code for name in steps] == [1, 1, 0, 0, 0]


def test_retry_measures_failed_rows_again(steps: dict[str, Step]) -> None:
    assert steps["retry"].states == [*BOTH, ("raises-until-go", "ok")]


def test_a_changed_provider_is_measured_again(steps: dict[str, Step]) -> None:
    rows = steps["changed"].rows
    assert steps["changed"].states == [*steps["retry"].states, ("good", "ok"), ("raises-until-go", "ok")]
    before, after = {row.provider_version for row in rows[:3]}, {row.provider_version for row in rows[3:]}
    assert len(before) == len(after) == 1
    assert before != after


def test_fresh_sets_the_old_file_aside(steps: dict[str, Step], workspace: Any) -> None:
    assert steps["fresh"].states == [("good", "ok"), ("raises-until-go", "ok")]
    (aside,) = (path for path in workspace.folder.glob("out.*.csv"))
    assert read_records(aside) == steps["changed"].rows
    assert f"the earlier results are now {aside}" in steps["fresh"].ran.err.splitlines()


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""


def test_a_full_disk_ends_the_sweep_and_leaves_earlier_rows_whole(new_workspace: Any) -> None:
    suite = new_workspace.suite(["Good", "NeedsGpu"], seq_len=[64, 128, 256])
    limit = len(",".join(COLUMNS)) + 1000  # the header and a row or two
    process = new_workspace.run("check", suite, "--out", new_workspace.out, code=LIMITED.format(limit=limit))
    rows = read_records(new_workspace.out)
    assert process.returncode == 4
    assert process.stderr.splitlines()[-1] == (
        f"lbench: cannot write {new_workspace.out}: File too large; the {len(rows)} earlier rows are whole"
    )
    assert "Traceback" not in process.stderr
    assert 0 < len(rows) < 6
    assert new_workspace.out.read_bytes().endswith(b"\n")
    assert new_workspace.call("check", suite, "--out", new_workspace.out).code == 0
    assert sorted(new_workspace.ids()) == sorted(
        f"{p} {n}" for p in ("good", "needs-gpu") for n in (64, 128, 256)
    )
    assert read_records(new_workspace.out)[: len(rows)] == rows
