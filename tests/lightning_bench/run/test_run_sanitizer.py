"""Cases under compute-sanitizer: its log, and sweeps of real workers under a stand-in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.case import Case, Shape
from lightning_bench.cli.commands.sweep import default_out
from lightning_bench.errors import UsageError
from lightning_bench.measure.job import Figures, Outcome
from lightning_bench.record import Record, Status
from lightning_bench.run import planner
from lightning_bench.run.plan import Plan
from lightning_bench.run.planner import Settings
from lightning_bench.run.sanitizer import TOOLS, Sanitizer, SanitizerLog, read_report
from lightning_bench.suite import Overrides
from tests.support.compute_sanitizer import CLEAN, FIRST, OUT_OF_BOUNDS, install
from tests.support.paths import SUPPORT

pytestmark = pytest.mark.usefixtures("forked_workers")

HEAD = "========= COMPUTE-SANITIZER\n"
# The texts are those of the manual, and of compute-sanitizer 2026.3 on a machine without a GPU.
RACE = (
    "========= Error: Race reported between Write access at sum(int *, int *)+0x90 in block_error.cu:41\n"
    "=========     and Read access at sum(int *, int *)+0x100 in block_error.cu:51 [508 hazards]\n"
    "=========\n"
    "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n"
)
WARP = (
    "========= Warning: (Warp Level Programming) Potential RAW hazard detected at __shared__ 0x8c :\n"
    "=========     Write Thread (35,0,0) at sum(int *, int *)+0x90 in warp_error.cu:44\n"
    "=========\n"
    "========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)\n"
)
WAW = (
    "========= ERROR: Potential WAW hazard detected at __shared__ 0x0 in block (0,0,0) :\n"
    "=========     Write Thread (0,0,0) at WAW()+0x2f0 in raceWAW.cu:20\n"
)
UNINITIALIZED = (
    "========= Uninitialized __global__ memory read of size 4 bytes\n"
    "=========     at vectorAdd(int *)+0x70 in memset_error.cu:41\n"
    "=========     by thread (31,0,0) in block (1,0,0)\n"
    "=========     Address 0x7f3c7ec000fc\n"
)
NO_CUDA = (
    "========= Error: process didn't terminate successfully\n"
    "=========     The application may have hit an error when dereferencing Unified Memory from the host.\n"
    "========= Error: Target application terminated before first instrumented API call\n"
)
LOST = (
    "========= Internal Sanitizer Error: The Sanitizer encountered an error while launching kernel_name and "
    "didn't track the launch. Errors might go undetected. (Unable to allocate enough memory)\n"
)


@pytest.mark.parametrize(
    ("log", "report"),
    [
        (CLEAN, SanitizerLog(0, 0, "no message", "")),
        (OUT_OF_BOUNDS, SanitizerLog(2, 0, FIRST, "")),
        (OUT_OF_BOUNDS.rpartition("========= ERROR SUMMARY")[0], SanitizerLog(2, 0, FIRST, "")),
        (
            HEAD + RACE,
            SanitizerLog(
                1,
                0,
                "Race reported between Write access at sum(int *, int *)+0x90 in block_error.cu:41 and Read "
                "access at sum(int *, int *)+0x100 in block_error.cu:51 [508 hazards]",
                "",
            ),
        ),
        (HEAD + WARP, SanitizerLog(0, 2, "no message", "")),
        (
            HEAD + WAW,
            SanitizerLog(
                1,
                0,
                "Potential WAW hazard detected at __shared__ 0x0 in block (0,0,0) :, Write Thread (0,0,0) at "
                "WAW()+0x2f0 in raceWAW.cu:20",
                "",
            ),
        ),
        (
            HEAD + UNINITIALIZED + "========= ERROR SUMMARY: 1,024 errors\n"
            "========= ERROR SUMMARY: 1,004 errors were not printed because the print limit was reached.\n",
            SanitizerLog(
                1024,
                0,
                "Uninitialized __global__ memory read of size 4 bytes, at vectorAdd(int *)+0x70 in "
                "memset_error.cu:41, by thread (31,0,0) in block (1,0,0), Address 0x7f3c7ec000fc",
                "",
            ),
        ),
        (HEAD + NO_CUDA, SanitizerLog(None, 0, "no message", "process didn't terminate successfully")),
        (HEAD + LOST + CLEAN, SanitizerLog(0, 0, "no message", LOST[10:].strip())),
        (HEAD + "========= Something that no version says today\n", SanitizerLog(None, 0, "no message", "")),
        ("what a program prints\n", SanitizerLog(None, 0, "no message", "")),
        ("", SanitizerLog(None, 0, "no message", "")),
    ],
)
def test_a_log_is_read(log: str, report: SanitizerLog) -> None:
    assert read_report(log) == report


def test_the_text_of_an_error_is_cut() -> None:
    log = OUT_OF_BOUNDS.replace("unaligned_kernel", "k" * 10_000)
    assert len(read_report(log).first) == 500


CASE = Case(Shape(1, 1, 64, 16, 16, "fp32", "cuda"), "mine", "fwd")


@pytest.mark.parametrize(
    ("status", "reason", "log", "becomes", "says"),
    [
        ("ok", "", CLEAN, "ok", ""),
        ("ok", "", OUT_OF_BOUNDS, "wrong", f"memcheck found 2 errors: {FIRST}"),
        ("crashed", "CUDA error", OUT_OF_BOUNDS, "wrong", f"memcheck found 2 errors: {FIRST}"),
        ("timeout", "killed", OUT_OF_BOUNDS, "wrong", f"memcheck found 2 errors: {FIRST}"),
        ("wrong", "o is off", OUT_OF_BOUNDS, "wrong", f"memcheck found 2 errors: {FIRST}; o is off"),
        ("wrong", "o is off", CLEAN, "wrong", "o is off"),
        ("crashed", "no luck", CLEAN, "crashed", "no luck"),
        ("crashed", "no luck", NO_CUDA, "crashed", "no luck; memcheck: process didn't terminate"),
        ("ok", "", NO_CUDA, "crashed", "memcheck gave no whole report: process didn't terminate"),
        ("ok", "", LOST + CLEAN, "crashed", "memcheck gave no whole report: Internal Sanitizer Error"),
        ("ok", "", "", "crashed", "memcheck gave no whole report: its log has no summary"),
        ("timeout", "killed", "", "timeout", "killed"),
    ],
)
def test_an_outcome_follows_the_report(
    status: Status, reason: str, log: str, becomes: Status, says: str
) -> None:
    outcome = Outcome(CASE, status, reason, Figures(checks="1 of 1 pairs", error_o=1e-3))
    judged = Sanitizer("memcheck", "-").judged(outcome, log)
    assert judged.status == becomes
    assert judged.reason.startswith(says)
    assert bool(judged.reason) == bool(says)
    assert judged.figures.error_o == 1e-3
    assert judged.figures.checks.startswith("1 of 1 pairs; memcheck: ")


def test_the_column_checks_counts() -> None:
    def checks(tool: str, log: str) -> str:
        return Sanitizer(tool, "-").judged(Outcome(CASE, "ok"), log).figures.checks

    assert checks("memcheck", CLEAN) == "memcheck: 0 errors"
    assert checks("racecheck", WARP) == "racecheck: 0 errors, 2 warnings"
    assert checks("racecheck", RACE) == "racecheck: 1 error"
    assert checks("memcheck", "") == "memcheck: no report"


@pytest.mark.parametrize(
    ("tool", "version", "doubted"),
    [
        ("racecheck", (2025, 3), True),
        ("racecheck", (2026, 3), False),
        ("racecheck", None, False),
        ("memcheck", (2025, 3), False),
    ],
)
def test_races_of_an_old_racecheck_are_doubted(
    tool: str, version: tuple[int, int] | None, doubted: bool
) -> None:
    judged = Sanitizer(tool, "-", version).judged(Outcome(CASE, "ok"), RACE)
    assert judged.status == "wrong"
    assert ("before 2026.3 it reports races that are none" in judged.reason) == doubted
    assert "Race reported between" in judged.reason


@pytest.mark.parametrize("status", ["unavailable", "unsupported"])
def test_a_case_that_ran_nothing_keeps_its_outcome(status: Status) -> None:
    outcome = Outcome(CASE, status, "no such library")
    assert Sanitizer("memcheck", "-").judged(outcome, NO_CUDA) == outcome


@pytest.mark.parametrize("tool", TOOLS)
def test_the_command_line_names_tool_and_log(tool: str) -> None:
    words = Sanitizer(tool, "/bin/compute-sanitizer").command(Path("/tmp/log"))
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "/bin/compute-sanitizer"
    assert (options["--tool"], options["--log-file"]) == (tool, "/tmp/log")
    assert options["--target-processes"] == "all"
    assert int(options["--error-exitcode"]) > 0
    assert ("--padding" in options) == (tool == "memcheck")


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["speed", "--sanitizer", "memcheck"], "--sanitizer goes only with `lbench check`"),
            (["memory", "--sanitizer", "memcheck"], "--sanitizer goes only with `lbench check`"),
            (["check", "--sanitizer", "valgrind"], "allowed: memcheck, racecheck, initcheck, synccheck"),
            (["check", "--compute-sanitizer", "x"], "--compute-sanitizer goes only with --sanitizer"),
            (["check", "--sanitizer", "memcheck", "--compute-sanitizer", "x"], "x is not a program"),
        ],
    )
    def test_bad_usage(
        self, lbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        ran = lbench(arguments[0], "quick", "--device", "cpu", *arguments[1:])
        assert (ran.code, ran.out) == (2, "")
        assert message in ran.err
        assert list(tmp_path.iterdir()) == []

    def test_a_cpu_is_refused(self, lbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        program = install(tmp_path)
        ran = lbench("check", "quick", "--sanitizer", "memcheck", "--compute-sanitizer", program)
        assert (ran.code, ran.out) == (2, "")
        assert "--sanitizer memcheck checks kernels on a GPU; suite quick would run on cpu" in ran.err
        assert list(tmp_path.iterdir()) == [program]

    def test_a_suite_gets_more_time_and_a_file_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planner, "SANITIZED", "cpu")
        racecheck = Sanitizer("racecheck", "/bin/compute-sanitizer")

        def plan(time_limit: float | None, sanitizer: Sanitizer | None) -> Plan:
            settings = Settings(device="cpu", time_limit_s=time_limit, sanitizer=sanitizer)
            asked = planner.Planner("check", Overrides(), settings)
            return asked.plan(asked.load("quick"))

        without, of_suite, given = plan(None, None), plan(None, racecheck), plan(50.0, racecheck)
        assert of_suite.limits.time_limit_s == 30 * without.limits.time_limit_s
        assert given.limits.time_limit_s == 50.0
        assert default_out(of_suite).name == "quick-check-racecheck.csv"
        assert default_out(without).name == "quick-check.csv"

    def test_several_ranks_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planner, "SANITIZED", "cpu")
        settings = Settings(device="cpu", sanitizer=Sanitizer("memcheck", "/bin/compute-sanitizer"))
        asked = planner.Planner("check", Overrides(ranks=(1, 2)), settings)
        with pytest.raises(UsageError, match="memcheck watches one process, and suite quick has cases"):
            asked.plan(asked.load("quick"))


@dataclass(frozen=True)
class Swept:
    """The rows of a sweep by provider, and the calls of the stand-in: its options, and the variable."""

    rows: dict[str, Record]
    calls: list[tuple[dict[str, str], str | None]]


NAMES = ("Good", "Wrong", "OsExits", "Aborts", "NotThere", "Narrow", "Raises")


@pytest.fixture(scope="module")
def swept(workspace: Any) -> Swept:
    program = install(workspace.folder, CLEAN, OUT_OF_BOUNDS, CLEAN, "", NO_CUDA, NO_CUDA, OUT_OF_BOUNDS)
    suite = workspace.suite(NAMES)
    summary = workspace.sweep(suite, sanitizer=Sanitizer("memcheck", str(program)))
    assert summary.failed
    lines = (workspace.folder / "calls.jsonl").read_text().splitlines()
    return Swept({row.provider: row for row in summary.records}, [json.loads(line) for line in lines])


@pytest.mark.slow
class TestSweep:
    def test_each_case_has_a_worker_of_its_own(self, swept: Swept) -> None:
        assert len(swept.calls) == len(NAMES)
        assert {options["--tool"] for options, _ in swept.calls} == {"memcheck"}

    def test_tensors_are_allocated_one_by_one(self, swept: Swept) -> None:
        assert {no_caching for _, no_caching in swept.calls} == {"1"}

    def test_a_clean_case_is_ok(self, swept: Swept) -> None:
        row = swept.rows["good"]
        assert (row.status, row.reason) == ("ok", "")
        assert row.checks == "2 of 2 pairs; memcheck: 0 errors"

    def test_an_error_makes_it_wrong(self, swept: Swept) -> None:
        wrong, raises = swept.rows["wrong"], swept.rows["raises"]
        assert wrong.status == raises.status == "wrong"
        assert wrong.reason.startswith(f"memcheck found 2 errors: {FIRST}; o is off")
        assert raises.reason == f"memcheck found 2 errors: {FIRST}"
        assert wrong.checks == "memcheck: 2 errors"

    def test_a_crash_is_a_crash(self, swept: Swept) -> None:
        assert swept.rows["os-exits"].status == "crashed"
        assert "ended with exit code 0" in swept.rows["os-exits"].reason
        assert swept.rows["aborts"].status == "crashed"
        assert "its last output: all is lost" in swept.rows["aborts"].reason
        assert "memcheck: process didn't terminate successfully" in swept.rows["aborts"].reason

    def test_what_cannot_run_says_why(self, swept: Swept) -> None:
        assert swept.rows["not-there"].status == "unavailable"
        assert swept.rows["narrow"].status == "unsupported"
        assert swept.rows["narrow"].checks == ""

    def test_rows_of_a_check_without_it_are_done_again(self, new_workspace: Any) -> None:
        suite = new_workspace.suite(["Good"])
        memcheck = Sanitizer("memcheck", str(install(new_workspace.folder)))
        racecheck = Sanitizer("racecheck", memcheck.path)
        calls = new_workspace.folder / "calls.jsonl"
        new_workspace.sweep(suite)
        for sanitizer, number in ((memcheck, 1), (memcheck, 1), (racecheck, 2)):
            (row,) = new_workspace.sweep(suite, sanitizer=sanitizer).records
            assert f"{sanitizer.tool}: 0 errors" in row.checks
            assert len(calls.read_text().splitlines()) == number

    def test_a_case_that_spoils_its_process_is_reported_all_the_same(
        self, new_workspace: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VANDAL_PID", str(new_workspace.folder / "pid"))
        suite = new_workspace.suite([f"{SUPPORT}/vandals.py:LeavesAChild"])
        program = str(install(new_workspace.folder, forks=False))
        (row,) = new_workspace.sweep(suite, sanitizer=Sanitizer("memcheck", program)).records
        assert row.status == "ok"
        assert "it left a child process running" in row.reason
        assert row.checks.endswith("memcheck: 0 errors")

    def test_a_hang_is_killed_with_all_that_runs_it(self, new_workspace: Any) -> None:
        import psutil

        suite = new_workspace.suite(["Sleeps"], limits={"time_limit_s": 1.0})
        program = str(install(new_workspace.folder, forks=False))
        (row,) = new_workspace.sweep(suite, sanitizer=Sanitizer("memcheck", program)).records
        assert row.status == "timeout"
        assert row.checks == "memcheck: no report"
        left = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        assert [words for words in left if program in words] == []

    def test_a_program_that_cannot_start_ends_the_sweep(self, new_workspace: Any) -> None:
        from lightning_bench.errors import LbenchError

        program = new_workspace.folder / "compute-sanitizer"
        program.write_text("#!/bin/sh\necho no tool for this machine >&2\nexit 3\n")
        program.chmod(0o755)
        with pytest.raises(LbenchError, match="could not start:\nno tool for this machine"):
            new_workspace.sweep(new_workspace.suite(["Good"]), sanitizer=Sanitizer("memcheck", str(program)))

    def test_the_command_finds_it_and_ends_with_1_on_an_error(self, new_workspace: Any) -> None:
        program = install(new_workspace.folder, OUT_OF_BOUNDS)
        # There is no GPU here: of the command, only the refusal of a CPU is left out.
        code = "from lightning_bench.run import planner\nplanner.SANITIZED = 'cpu'"
        ran = new_workspace.run(
            *("check", new_workspace.suite(["Good"]), "--sanitizer", "memcheck", "--json"),
            *("--compute-sanitizer", program, "--out", new_workspace.out),
            code=code,
        )
        assert ran.returncode == 1
        (row,) = json.loads(ran.stdout)[0]["records"]
        assert (row["status"], row["reason"]) == ("wrong", f"memcheck found 2 errors: {FIRST}")
