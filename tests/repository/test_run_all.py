"""The script that measures the committed files that are stale: real commands on a CPU."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import run_all
from benchmarks.committed_files import CommittedFile
from benchmarks.stale_files import _machine, why_not, why_stale
from lightning_bench.machine import describe_machine
from lightning_bench.machine.ceilings import DeviceCeilings, keep
from lightning_bench.record import ResultFile, read_records
from lightning_bench.record.codec import read_cells
from scripts.stale_results import repository_version
from tests.support.fake_nvml import H200, RTX, Board, FakeNvml, fake_torch
from tests.support.forked_workers import FORKING_LBENCH
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

ONE = "lbench speed quick --device cpu --provider lightning2-torch --direction fwd"
SLOW = """
title = "Slow"
description = "Seconds for each case, whatever it shows."
device = "cpu"
[limits]
sample_limit_s = 1.0
min_samples = 100000
max_samples = 100000
processes = 1
[[group]]
providers = ["lightning2-torch"]
direction = "fwd"
dtype = "fp32"
batch = 1
heads = 1
seq_len = [64, 128, 192, 256]
head_dim = 16
"""


@pytest.fixture
def _forked(forked_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_all, "LBENCH", FORKING_LBENCH)


def made_up(command: str, name: str = "rows.csv", **fields: Any) -> CommittedFile:
    return CommittedFile(f"made-up/{name}", (command,), 1, gpus=0, **fields)


def test_the_committed_files_say_why_they_are_stale(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["--list", "--only", "decode-bandwidth.csv", "h200/paper-speed.csv"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    files = [line.partition(",")[0] for line in lines if not line.startswith(" ")]
    assert len(lines) >= 2 * len(files)
    assert files in (
        [],
        ["h200/paper-speed.csv"],
        ["h200/decode-bandwidth.csv"],
        ["h200/paper-speed.csv", "h200/decode-bandwidth.csv"],
    )
    assert last.startswith(f"{len(files)} of 2 files to measure")


def test_a_file_that_is_not_in_the_list_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_all.main(["--only", "nowhere.csv"])
    assert caught.value.code == 2
    assert "not in the list: nowhere.csv; it has h200/ceilings.csv, " in capsys.readouterr().err


def test_what_cannot_run_here_is_skipped_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        made_up("python -c pass", "a.csv", needs=("no_such_package", "no.such.package", "json", "sh")),
        replace(made_up("python -c pass", "b.csv"), gpus=99),
        made_up("lbench speed mixed --provider vllm-lightning --device cpu", "c.csv"),
    ]
    assert run_all.main(["--out", str(tmp_path)], files) == 0
    printed = capsys.readouterr().out
    assert "a.csv: skipped: no_such_package, no.such.package not installed\n" in printed
    assert "b.csv: skipped: it needs 99 GPUs, and " in printed
    assert "c.csv: skipped: vllm-lightning: " in printed
    assert printed.endswith("3 skipped\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def machine_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], None]]:
    """Play a machine with GPUs of these names."""
    (tmp_path / "version.py").write_text("__version__ = '2.8'\ncuda: Optional[str] = '12.8'\nhip = None\n")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(None))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def play(names: list[str]) -> None:
        boards = [Board(name, f"GPU-{index}aaa") for index, name in enumerate(names)]
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(boards))

    _machine.cache_clear()
    yield play
    _machine.cache_clear()


@pytest.mark.parametrize(
    ("boards", "reasons"),
    [
        ([H200], ["", "it needs 2 GPUs, and 1 can be used here"]),
        ([H200, H200], ["", ""]),
        (["NVIDIA H100"], ["results/h200 is not for this GPU, an NVIDIA H100", "it needs 2 GPUs"]),
        (
            [RTX, RTX],
            [f"results/h200 is not for this GPU, an {RTX}", f"results/h200-x2 is not for this GPU, an {RTX}"],
        ),
    ],
)
def test_a_folder_takes_files_of_its_gpu_only(
    boards: list[str], reasons: list[str], machine_with: Callable[[list[str]], None]
) -> None:
    machine_with(boards)
    files = [
        CommittedFile("h200/a.csv", ("python -c pass",), 1),
        CommittedFile("h200-x2/a.csv", (), 1, gpus=2),
    ]
    for file, reason in zip(files, reasons, strict=True):
        found = why_not(file, anyway=False)
        assert found.startswith(reason)
        assert bool(found) == bool(reason)


def test_files_of_two_gpus_are_measured_on_two(machine_with: Callable[[list[str]], None]) -> None:
    machine_with([H200] * 4)
    pair = run_all.environment(CommittedFile("h200-x2/a.csv", (), 1, gpus=2))
    assert pair["CUDA_VISIBLE_DEVICES"] == "GPU-0aaa,GPU-1aaa"
    assert "CUDA_VISIBLE_DEVICES" not in run_all.environment(CommittedFile("h200/a.csv", (), 1))


def make_older(path: Path) -> None:
    """Let the first row be of other kernels, at a commit that git does not know."""
    record, *others = read_records(path)
    path.unlink()
    with ResultFile(path) as file:
        for each in (
            replace(record, provider_version="0.1.0+aaaaaaaa", harness_commit="0123456789ab"),
            *others,
        ):
            file.append(each)


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
def test_a_sweep_is_measured_once_gone_on_with_and_measured_anew_for_other_kernels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that fails beside it is reported, ends nothing and is tried again."""
    short = made_up(f"{ONE} --seq-len 256")
    fails = made_up("python -c 'raise SystemExit(7)'", "fails.csv")
    path = tmp_path / short.path

    def measured(files: list[CommittedFile], *words: str) -> tuple[int, str]:
        code = run_all.main(["--out", str(tmp_path), *words], files)
        return code, capsys.readouterr().out

    anywhere = made_up(short.commands[0].replace("--device cpu ", ""))
    code, printed = measured([fails, anywhere], "--gpus", "cpu:1")
    assert code == 1
    assert "fails.csv: failed: exit code 7 of `python -c 'raise SystemExit(7)'`" in printed
    assert "rows.csv: done: 1 " in printed
    assert printed.endswith("\n1 failed, 1 done\n")
    (row,) = read_records(path)
    assert row.executor == "local 1"
    assert row.worked
    assert row.provider_version == repository_version()
    assert [folder.name for folder in (tmp_path / "unfinished").iterdir()] == [fails.name]
    assert measured([short]) == (0, "\nnothing is stale\n")

    longer = made_up(f"{ONE} --seq-len 256,512")
    assert why_stale(longer, tmp_path) == ["it lacks 1 of 2 cases"]
    assert measured([longer])[0] == 0
    first, second = read_records(path)
    assert (first, second.seq_len) == (row, 512)
    samples = path.with_suffix("").with_suffix(".samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["case_id"] for line in samples} == {first.case_id, second.case_id}

    make_older(path)
    assert why_stale(longer, tmp_path)[0].startswith("1 of 2 rows: kernels 0.1.0+aaaaaaaa; ")
    assert measured([longer])[0] == 0
    rows = read_records(path)
    assert [each.provider_version for each in rows] == [repository_version()] * 2
    assert not {each.time_utc for each in rows} & {first.time_utc, second.time_utc}


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
def test_cases_that_are_measured_one_by_one_keep_their_rows(tmp_path: Path) -> None:
    file = made_up(f"{ONE.replace('lbench speed', 'lbench memory')} --seq-len 256,512")
    assert file.is_apart
    assert not made_up(ONE).is_apart
    assert not made_up("python benchmarks/memory.py").is_apart
    path = tmp_path / file.path
    assert run_all.main(["--out", str(tmp_path)], [file]) == 0
    first, second = read_records(path)
    make_older(path)
    assert run_all.main(["--out", str(tmp_path)], [file]) == 0
    kept, anew = read_records(path)
    assert kept == second
    assert (anew.case_id, anew.provider_version) == (first.case_id, repository_version())


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
def test_a_budget_stops_a_sweep_which_goes_on_in_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "slow.toml"
    suite.write_text(SLOW)
    file = made_up(f"lbench speed {suite}")
    monkeypatch.setattr(run_all, "LEAST_S", 1.0)
    monkeypatch.setattr(run_all, "GRACE_S", 60.0)
    words = ["--out", str(tmp_path)]
    assert run_all.main([*words, "--budget", "60.5"], [file]) == 0
    assert "rows.csv: left: no time for a part of it\n1 left\n" in capsys.readouterr().out
    assert not (tmp_path / "unfinished").exists()
    assert run_all.main([*words, "--budget", "66"], [file]) == 0
    partial = tmp_path / "unfinished" / file.name / "rows.csv"
    before = partial.read_text() if partial.exists() else ""
    count = max(0, before.count("\n") - 1)
    assert count < 4
    assert not (tmp_path / file.path).exists()
    words_on_it = f"with {count} of 4 cases"
    printed = capsys.readouterr().out
    assert f"rows.csv: left: stopped; it goes on from its rows, {words_on_it}\n1 left\n" in printed
    stopped_s = json.loads((partial.parent / run_all.NOTE).read_text())["seconds"]
    assert stopped_s > 0
    assert run_all.main([*words, "--list"], [file]) == 0
    assert f"rows.csv, about {(4 - count) / 4:.0f} s, {words_on_it}\n" in capsys.readouterr().out
    assert run_all.main(words, [file]) == 0
    took = re.search(r"rows.csv: done: .*; took (\d+) s, the list says 1 s\n", capsys.readouterr().out)
    assert took
    assert int(took[1]) > stopped_s
    after = (tmp_path / file.path).read_text()
    assert after.startswith(before)
    assert [row.seq_len for row in read_records(tmp_path / file.path)] == [64, 128, 192, 256]
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
def test_a_sweep_that_ends_without_all_cases_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "slow.toml"
    suite.write_text(SLOW)
    file = made_up(f"lbench check {suite}")
    assert len(file.cases) == 4
    suite.write_text(SLOW.replace("192, 256", "192"))
    assert run_all.main(["--out", str(tmp_path)], [file]) == 1
    printed = capsys.readouterr().out
    assert "rows.csv: failed: the commands ended without all cases" in printed
    assert printed.endswith(", with 3 of 4 cases\n1 failed\n")
    assert not (tmp_path / file.path).exists()


def test_what_was_begun_for_other_commands_is_thrown_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script of two commands: the first stays done, unless the list says something else by now."""
    write = 'python -c \'open("{}/log", "a").write("x")\''
    end = 'python -c \'import shutil; shutil.copy("{}/log", "{}/rows.csv")\''
    fails = "python -c 'raise SystemExit(1)'"
    file = replace(made_up(write, ours=False), commands=(write, fails))
    words = ["--out", str(tmp_path)]
    log = tmp_path / "unfinished" / file.name / "log"
    for _ in range(2):
        assert run_all.main(words, [file]) == 1
        assert log.read_text() == "x"
    assert "thrown away" not in capsys.readouterr().out
    file = replace(file, commands=(write, write, end))
    assert run_all.main(words, [file]) == 0
    assert "what was begun is of another version or machine, and is thrown away" in capsys.readouterr().out
    assert (tmp_path / file.path).read_text() == "xx"
    assert run_all.main(words, [replace(file, path="made-up/none.csv", commands=(write,))]) == 1
    assert "none.csv: failed: no command wrote " in capsys.readouterr().out


def test_a_script_begins_only_if_it_can_end_and_is_stopped_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_all, "GRACE_S", 1.0)
    waits = "python -c 'import signal, time; signal.signal(2, lambda *_: None); time.sleep(1e5)'"
    files = [replace(made_up(waits), seconds=1000), made_up(waits, "short.csv")]
    assert run_all.main(["--out", str(tmp_path), "--budget", "4"], files) == 0
    printed = capsys.readouterr().out
    assert "rows.csv: left: no time for a part of it\n" in printed
    assert "short.csv: left: stopped; its last command begins again, with 0 of 1 command\n2 left\n" in printed


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    code = "import pathlib; p = pathlib.Path('{}/p'); p.mkdir(); (p / 'calls.csv').write_text('a\\n1\\n')"
    file = made_up(f"python -c {shlex.quote(code)}", "p/calls.csv", ours=False)
    old = tmp_path / "made-up" / "p" / "old.json"
    old.parent.mkdir(parents=True)
    old.touch()
    assert run_all.main(["--out", str(tmp_path)], [file]) == 0
    assert [path.name for path in old.parent.iterdir()] == ["calls.csv"]


def test_ceilings_are_measured_for_each_kind_of_machine_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "from pathlib import Path; from lightning_bench.machine import describe_machine; "
        "from lightning_bench.machine.ceilings import DeviceCeilings, keep; "
        "keep(Path('{}/ceilings.csv'), DeviceCeilings(copy_gbps=1.0), describe_machine('cpu'))"
    )
    command = (f"python -c {shlex.quote(code)}",)
    file = CommittedFile("cpu/ceilings.csv", command, 1, gpus=0, ours=False, of_machine=True)
    path = tmp_path / file.path
    path.parent.mkdir()
    earlier = replace(describe_machine("cpu"), driver="1.0")
    keep(path, DeviceCeilings(copy_gbps=2.0), earlier)
    assert why_stale(file, tmp_path) == [f"it has no row of this machine (torch {earlier.torch})"]
    assert run_all.main(["--out", str(tmp_path)], [file]) == 0
    assert [row["copy_gbps"] for row in read_cells(path)] == ["2", "1"]
    capsys.readouterr()
    assert run_all.main(["--out", str(tmp_path)], [file]) == 0
    assert capsys.readouterr().out == "\nnothing is stale\n"
    for other in (replace(file, gpus=1), replace(file, path="h200/ceilings.csv")):
        # Without a GPU, or with another one, nobody can tell.
        (tmp_path / other.path).parent.mkdir(exist_ok=True)
        (tmp_path / other.path).write_text("machine_id\na\n")
        assert why_stale(other, tmp_path) == []


def test_an_interrupt_stops_the_command_and_says_what_is_left(tmp_path: Path) -> None:
    interrupts = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(1e5)"
    code = (
        "from benchmarks.committed_files import CommittedFile\nfrom benchmarks.run_all import main\n"
        f"command = {f'python -c {shlex.quote(interrupts)}'!r}\n"
        "files = [CommittedFile(f'made-up/{n}.csv', (command,), 1, gpus=0) for n in (1, 2)]\n"
        f"raise SystemExit(main(['--out', {str(tmp_path)!r}], files))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 130, done.stderr
    assert (
        "made-up/1.csv: left: interrupted, with 0 of 1 command\nmade-up/2.csv: left: not begun in this run\n"
        in done.stdout
    )


@pytest.mark.parametrize(
    ("commit", "warning"),
    [
        ("0123456789ab", ""),
        ("0123456789ab-dirty", "warning: the rows will be of 0123456789ab-dirty: commit the changes first\n"),
    ],
)
def test_a_commit_that_names_no_code_is_warned_of(
    commit: str,
    warning: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LBENCH_COMMIT", commit)
    assert run_all.main(["--out", str(tmp_path)], []) == 0
    assert capsys.readouterr().err == warning


def test_the_commands_are_shown_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = made_up("lbench speed quick --device cpu", "it.csv")
    words = ["--dry-run", "--out", str(tmp_path), "--gpus", "all", "--anyway"]
    assert run_all.main(words, [file]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "made-up/it.csv, about 1 s"
    out = tmp_path / "unfinished" / "made-up-it" / "it.csv"
    assert second.endswith(f"-m lightning_bench speed quick --device cpu --quiet --out {out} --gpus all")
    assert list(tmp_path.iterdir()) == []
