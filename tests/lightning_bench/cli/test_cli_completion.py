"""Values that a real shell completes: bash, zsh and fish, each on a terminal of its own."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from lightning_bench.cli.shared import completion
from lightning_bench.record import ResultFile
from lightning_bench.suite import bundled_suites
from tests.support.patience import PATIENCE_S
from tests.support.report_rows import STORY

# How each shell is started without the user's settings, and told of lbench as --install-completion does.
SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], 'eval "$(lbench --show-completion)"'),
    "zsh": (["-f", "-i"], 'autoload -Uz compinit; compinit -u; eval "$(lbench --show-completion)"'),
    "fish": (["--no-config", "-i"], "lbench --show-completion | source"),
}
LINES = [
    ("lbench speed systems-q", "uick"),
    ("lbench speed quick --provider lightning2-no-decay-t", "orch"),
    ("lbench speed quick --provider sdpa-math,lightning-official-n", "o-decay"),
    ("lbench speed quick --dtype fp32,b", "f16"),
    ("lbench providers --family gateloop_c", "omplex"),
    ("lbench env --device cu", "da"),
    ("lbench report --metric tf", "lops"),
    ("lbench history --case lightning2/fwd/b1-h2-n6", "4-d8-e8-fp32-cpu"),
]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[pexpect.spawn]:
    """Start a shell that completes `lbench`, in a folder with one row in results/."""
    if not (program := shutil.which(request.param)):
        pytest.skip(f"{request.param} is not installed")
    arguments, setup = SHELLS[request.param]
    case_id = "lightning2/fwd/b1-h2-n64-d8-e8-fp32-cpu"
    with ResultFile(tmp_path / "results" / "quick-speed.csv") as file:
        file.append(replace(STORY, case_id=case_id, machine_id="0123456789ab"))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "LANG": "C.UTF-8",
    }
    started = pexpect.spawn(
        program, arguments, cwd=tmp_path, env=environment, encoding="utf-8", timeout=PATIENCE_S
    )
    started.setwinsize(40, 400)
    started.sendline(f"{setup}; echo set-'up'")
    started.expect(r"set-up\r?\n")
    try:
        yield started
    finally:
        started.close(force=True)


@pytest.mark.slow
def test_a_real_shell_completes_values(shell: pexpect.spawn) -> None:
    for typed, completed in LINES:
        shell.send(f"{typed}\t")
        shell.expect_exact(completed)
        shell.send("\x15")  # Ctrl-U: an empty line again


def test_a_list_is_completed_without_what_it_has() -> None:
    complete = completion.list_of(["fwd", "bwd", "fwd_bwd"])
    assert complete("f") == ["fwd", "fwd_bwd"]
    assert complete("bwd,fwd,") == ["bwd,fwd,fwd_bwd"]
    assert complete("bwd,x") == []


def test_what_joins_a_suite_keeps_its_sign() -> None:
    complete = completion.joining_list_of(["flash2", "flash4"])
    assert complete("+f") == ["+flash2", "+flash4"]
    assert complete("+flash2,+") == ["+flash2,+flash4"]
    assert complete("flash4,") == ["flash4,flash2"]


def test_suites_and_files_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench").mkdir()
    for name in ("qu.toml", "other.toml", "bench/mine.toml"):
        (tmp_path / name).write_text("")
    assert completion.suites("qu") == ["quick", "qu.toml"]
    assert completion.suites("bench/m") == ["bench/mine.toml"]
    assert completion.suites("") == [*bundled_suites(), "other.toml", "qu.toml"]


def test_nothing_is_offered_where_nothing_can_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert completion.one_of(completion.case_ids)("") == []
