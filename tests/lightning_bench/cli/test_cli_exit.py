"""Exit codes of sweeps, and the messages for bad usage."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.errors import ExitCode, LbenchError
from lightning_bench.record import STATUSES, read_records
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures("forked_workers")

Lbench = Callable[..., Any]


@pytest.mark.parametrize("status", STATUSES)
def test_exit_code_by_status(new_workspace: Any, lbench: Lbench, status: str) -> None:
    command = ["speed", new_workspace.suite(["NeedsGpu"]), "--out", new_workspace.out]
    assert lbench(*command).code == 0
    text = new_workspace.out.read_text()
    new_workspace.out.write_text(text.replace(",unavailable,", f",{status},"))
    assert lbench(*command).code == (1 if status in ("crashed", "timeout", "wrong") else 0)
    assert new_workspace.ids(status) == ["needs-gpu 64"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed", "qiuck"], "there is no suite `qiuck` (did you mean `quick`?); allowed: a name that"),
        (["speed", "--seq-len", "64", "4k"], "ends in .toml; values of an option have commas between them"),
        (["speed", "nowhere.toml"], "nowhere.toml: there is no such file"),
        (["suites", "qiuck"], "did you mean `quick`?"),
        (["energy", "quick", "--protocol", "paper"], "--protocol paper has no energy: leave it out"),
        (["energy", "quick", "--processes", "2"], "--processes and --quick go only with `lbench speed`"),
        (["check", "quick", "--seq-len", "0"], '--seq-len: "0" is not allowed; allowed: positive integers'),
        (["check", "quick", "--seq-len", "512..1000"], '--seq-len: the range "512..1000" does not reach'),
        (["check", "quick", "--head-dim", "64,"], '--head-dim: "64," has nothing between two commas'),
        (["check", "quick", "--dtype", "fp8"], '--dtype: "fp8" is not known; allowed: fp32, fp16, bf16'),
        (
            ["check", "quick", "--direction", "up"],
            '--direction: "up" is not known; allowed: fwd, bwd, fwd_bwd',
        ),
        (
            ["check", "quick", "--device", "tpu"],
            "--device 'tpu' is not known; allowed: cuda, cuda:N for GPU N, cpu",
        ),
        (["check", "quick", "--provider", "lightning3"], "no provider is named 'lightning3'. Did you mean"),
        (["check", "quick", "--provider", "no.py:One"], "no.py does not exist; give path/to/file.py:NAME"),
        (["check", "quick", "--protocol", "best"], "--protocol 'best' is not known; allowed: lbench, paper"),
        (["memory", "quick", "--graph"], "--graph goes only with `lbench speed`"),
        (["check", "quick", "--graph"], "--graph goes only with `lbench speed`"),
        (["check", "quick", "--out", "."], ". is not a file"),
        (["check", "quick", "--out", "/"], "/ is not a file"),
        (["check", "quick", "--out", ""], ". is not a file"),
        (["check", "quick", "--out", "results.txt"], "results.txt does not end with .csv"),
        (["check", "quick", "--time-limit", "0"], "Invalid value for '--time-limit'"),
        (["check", "quick", "--kv-heads", "0"], '--kv-heads: "0" is not allowed; allowed: positive integers'),
        (
            ["check", "quick", "--layer", "79", "of", "80"],
            "'of' stands alone: put a value with blanks in quo",
        ),
        (["check", "--packing", "96k", "+", "31", "x", "1k"], "'+' stands alone: put a value with blanks"),
        (["calibrate", "quick", "--rank", "7", "of", "8"], "'of' stands alone"),
        (["profile", "lightning2-torch", "--layer", "7", "of", "8"], "'of' stands alone"),
        (
            ["check", "quick", "--layer", "80 of 80"],
            "--layer: '80 of 80' is out of range: counted from 0, the",
        ),
        (["check", "packed", "--device", "cpu", "--seq-len", "128"], "give --packing in place of --seq-len"),
        (["check", "quick", "--out", "a.csv", "--out", "b.csv"], "--out is given 2 times; allowed: once"),
        (["env", "--device", "cpu", "--device", "cpu"], "--device is given 2 times; allowed: once"),
        (["check", "--sequences", "1"], "No such option"),
        (
            ["compare", "a.csv", "--kernel", "m.py:f"],
            "`lbench compare` has no option --kernel: name a functio",
        ),
        (
            ["train", "quick", "--kernel=m.py:f"],
            "--provider: file.py:NAME@FAMILY to measure it, NAME in rows",
        ),
        (["train", "quick", "--family", "softmax"], "family behind its name: --provider file.py:NAME@FAMILY"),
        (["train", "quick", "--batch", "2"], "as many sequences are in a batch as --tokens hold"),
        (["train", "quick", "--prompt", "64"], "the tokens of a sequence are --seq-len here"),
        (
            ["generate", "quick", "--seq-len", "64"],
            "the tokens of a prompt are --prompt, those that follow --",
        ),
        (["measure"], "No such command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_2_and_says_what_is_allowed(
    lbench: Lbench, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = lbench(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []


def test_energy_is_said_not_to_be_compared(lbench: Lbench) -> None:
    rows = str(ROOT / "results" / "h200" / "paper-energy.csv")
    ran = lbench("compare", rows, "--provider", "lightning2", "--against", "fla-chunk")
    assert ran.code == 3
    assert "energy is not compared: `lbench report` has its tables" in ran.err


def test_several_faults_of_one_option_are_reported_at_once(lbench: Lbench) -> None:
    lines = lbench("check", "quick", "--seq-len", "0,a,512").err.splitlines()
    assert [line.removeprefix("lbench: ")[:16] for line in lines] == ['--seq-len: "0" i', '--seq-len: "a" i']


@pytest.mark.skipif(
    pytest.importorskip("torch").cuda.is_available(), reason="there is a CUDA device: nothing is wrong"
)
@pytest.mark.parametrize("command", ["speed", "env"])
def test_a_missing_device_is_bad_usage(lbench: Lbench, command: str) -> None:
    ran = lbench(command, "--device", "cuda")
    assert ran.code == 2
    assert ran.err.startswith("lbench: no CUDA device: ")
    assert "choose the device cpu (--device cpu)" in ran.err


BAD = """\
title = 3
colour = "red"
[limits]
time_limit_s = -1
[[group]]
providers = ["lightning3"]
direction = "up"
dtype = []
batch = 0
heads = 2
seq_len = 64
"""


def test_a_bad_suite_is_refused_with_all_its_faults(lbench: Lbench, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    ran = lbench("speed", path, "--out", tmp_path / "out.csv")
    assert ran.code == 2
    faults = [line.removeprefix("lbench: ").removeprefix(str(path)) for line in ran.err.splitlines()]
    assert [fault.split(": ")[:2] for fault in faults] == [
        ["", "description"],
        [":1", "title"],
        [":2", "colour"],
        [":4", "limits.time_limit_s"],
        [":5", "group[0].head_dim"],
        [":6", "group[0].providers"],
        [":7", "group[0].direction"],
        [":8", "group[0].dtype"],
        [":9", "group[0].batch"],
    ]
    assert not (tmp_path / "out.csv").exists()


def test_the_second_bad_suite_is_found_before_the_first_runs(new_workspace: Any, lbench: Lbench) -> None:
    bad = new_workspace.folder / "bad.toml"
    bad.write_text(BAD)
    assert lbench("check", new_workspace.suite(["Good"]), bad, "--out", new_workspace.out).code == 2
    assert not new_workspace.out.exists()


def test_a_provider_file_that_does_not_import_has_rows(new_workspace: Any, lbench: Lbench) -> None:
    broken = new_workspace.folder / "broken.py"
    broken.write_text("import a_library_that_nobody_has\n")
    suite = new_workspace.suite([f"{broken}:Mine", "NeedsGpu"])
    assert lbench("check", suite, "--out", new_workspace.out).code == ExitCode.FOUND
    rows = {row.provider: row for row in read_records(new_workspace.out)}
    assert {name: row.status for name, row in rows.items()} == {"Mine": "crashed", "needs-gpu": "unavailable"}
    assert rows["Mine"].reason.startswith(f"provider file {broken} failed to import, line 1: ModuleNotFound")


def test_two_suites_into_one_file_start_fresh_once(new_workspace: Any, lbench: Lbench) -> None:
    one = new_workspace.suite(["NeedsGpu"], name="one")
    two = new_workspace.suite(["NeedsGpu"], name="two", seq_len=128)
    command = ["check", one, two, "--out", new_workspace.out, "--fresh"]
    for _ in range(2):
        assert lbench(*command).code == 0
        assert new_workspace.ids() == ["needs-gpu 64", "needs-gpu 128"]
    (aside,) = new_workspace.folder.glob("out.*.csv")
    assert [row.suite for row in read_records(aside)] == ["one", "two"]


@pytest.mark.parametrize(("options", "ending"), [([], ""), (["--protocol", "paper"], "-published")])
def test_results_go_to_a_folder_named_after_the_device(
    new_workspace: Any, lbench: Lbench, monkeypatch: pytest.MonkeyPatch, options: list[str], ending: str
) -> None:
    monkeypatch.chdir(new_workspace.folder)
    ran = lbench("speed", new_workspace.suite(["NeedsGpu"]), *options)
    (csv,) = Path("results").rglob("*.csv")
    assert csv.name == f"story-speed{ending}.csv"
    assert len(csv.parts) == 3
    assert ran.err.splitlines()[-1] == f"results: {csv}"


def test_a_traceback_on_request(lbench: Lbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBENCH_TRACEBACK", "1")
    ran = lbench("suites", "nope")
    assert ran.code == 2
    assert "raise UsageError" in ran.err
    assert "lbench: there is no suite `nope`" in ran.err


def test_a_checkout_without_its_dependencies_says_what_to_install() -> None:
    without = [sys.executable, "-S", str(ROOT / "cli.py"), "--help"]  # no site-packages
    done = subprocess.run(without, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (ExitCode.DIED, "")
    assert done.stderr.startswith("lbench: there is no module ")
    assert done.stderr.endswith("(pip install without --no-deps, or `make bench` in a clone)\n")


def test_a_bug_is_a_traceback_and_no_failed_case(lbench: Lbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr("lightning_bench.suite.bundled_suites", fail)
    ran = lbench("suites")
    assert ran.code == ExitCode.DIED
    assert "RuntimeError: nobody expected this" in ran.err
    assert ran.err.splitlines()[-1] == "lbench: a bug of lightning-bench (RuntimeError); please report it"


TRUNCATING = """
import os
from lightning_bench.run.progress import PlainWatcher
real = PlainWatcher.recorded
def recorded(self, record):
    real(self, record)
    if self._done == {count}:
        os.{call}
PlainWatcher.recorded = recorded
"""


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("truncate('out.csv', 100)", "was changed while the sweep was writing it: it has 100 bytes"),
        ("rename('out.csv', 'away.csv')", "was moved or deleted while the sweep was writing it"),
    ],
)
def test_a_sweep_whose_file_is_changed_under_it_does_not_pass(
    new_workspace: Any, count: int, call: str, message: str
) -> None:
    suite = new_workspace.suite(["NeedsGpu"], seq_len=[64, 128])
    code = TRUNCATING.format(count=count, call=call)
    process = new_workspace.run("check", suite, "--out", new_workspace.out, code=code)
    assert process.returncode == ExitCode.DIED
    assert message in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    "words", ["suites", "suites quick --json", "report results/h200/paper-memory.csv", "--help", "--version"]
)
def test_a_reader_that_goes_ends_it_quietly(new_workspace: Any, words: str) -> None:
    with new_workspace.start(
        *(str(ROOT / word) if "/" in word else word for word in words.split())
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == ExitCode.UNREAD == 128 + signal.SIGPIPE
    assert "Error" not in err
    assert "ignored" not in err


def test_a_sweep_without_a_reader_of_its_narration_keeps_its_rows(new_workspace: Any) -> None:
    suite = new_workspace.suite(["NeedsGpu"], seq_len=[64, 128])
    with new_workspace.start("check", suite, "--out", new_workspace.out) as process:
        process.stderr.close()
        process.stdout.read()
    assert process.returncode == ExitCode.UNREAD
    assert new_workspace.run("check", suite, "--out", new_workspace.out).returncode == 0
    assert new_workspace.ids() == ["needs-gpu 64", "needs-gpu 128"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_output_that_cannot_be_written_is_not_done(new_workspace: Any) -> None:
    with Path("/dev/full").open("w") as full:
        with new_workspace.start("suites", stdout=full) as process:
            err = process.stderr.read()
        assert err == "lbench: standard output cannot be written: No space left on device\n"
        assert process.returncode == ExitCode.DIED
        with new_workspace.start("suites", stdout=full, stderr=full) as process:
            pass
        assert process.returncode == ExitCode.DIED


def test_a_comparison_whose_sweep_dies_is_not_done(lbench: Lbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise LbenchError("the worker process could not start")

    monkeypatch.setattr("lightning_bench.cli.commands.compare_ref.measure", die)
    ran = lbench("compare", "--ref", "HEAD")
    assert (ran.code, ran.err) == (ExitCode.DIED, "lbench: the worker process could not start\n")


def test_the_exit_codes_are_documented() -> None:
    text = (ROOT / "docs" / "ci.md").read_text()
    for code in ExitCode:
        assert f"\n| {code.value} | {code.meaning} |\n" in text, code
