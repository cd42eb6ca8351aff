"""Hostile texts and files: nothing of them is obeyed, and no reader waits for what is no file."""

from __future__ import annotations

import csv
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.cli.shared.sink import Sink, plain
from lightning_bench.record import Record, ResultFile, read_records
from tests.support.report_rows import STORY

pytestmark = pytest.mark.usefixtures("forked_workers")

Lbench = Callable[..., Any]


TIME = "2026-01-01T00:00:00+00:00"


def csv_of(path: Path, *records: Record) -> Path:
    with ResultFile(path) as file:
        for number, record in enumerate(records):
            case = f"{record.provider}/fwd/b1-n{record.seq_len}"
            file.append(replace(record, case_id=case, median_ms=number + 1.0, time_utc=TIME))
    return path


class TestPrinting:
    def test_markup_in_a_name_is_shown(self, lbench: Lbench, tmp_path: Path) -> None:
        path = csv_of(tmp_path / "x.csv", replace(STORY, provider="mine[fp8]"))
        for command in (["report", path], ["history", path], ["compare", path, path, "--all"]):
            ran = lbench(*command)
            assert ran.code in (0, 3)
            assert "mine[fp8]" in ran.out
        other = csv_of(tmp_path / "y.csv", replace(STORY, provider="x[/]"))
        assert lbench("history", other).code == 0

    def test_terminal_escapes_are_shown(self, lbench: Lbench, tmp_path: Path) -> None:
        ran = lbench("suites", tmp_path / "\x1b[31m\x9b.toml")
        assert r"\x1b[31m\x9b.toml: there is no such file" in ran.err
        assert plain("a\u202eb\r\n") == "a\\u202eb\\r\n"

    @pytest.mark.parametrize(
        "text", ["::error::x", "  ::set-env name=a::b", "x ##[stop-commands]t", "a\n::x::"]
    )
    def test_no_text_is_a_workflow_command_for_github(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        sink = Sink()
        sink.say(text)
        sink.error(text)
        sink.raw(text + "\n")
        sink.line(text)
        sink.data([text])
        sink.grid([text], [[text]], title=text)
        ran = capsys.readouterr()
        lines = [line.strip() for line in (ran.out + ran.err).splitlines()]
        assert not [line for line in lines if line.startswith("::") or "##[" in line]
        sink.command("::error::a ##[b]")
        assert capsys.readouterr().err == "::error::a ##\u200b[b]\n"
        monkeypatch.delenv("GITHUB_ACTIONS")
        Sink().raw(text)
        assert capsys.readouterr().out == text

    def test_a_command_at_the_start_of_a_folded_line_is_none(
        self, lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("COLUMNS", "40")
        names = [f"{'a' * length}::error::{'b' * 40}" for length in range(40)]
        path = csv_of(tmp_path / "x.csv", *(replace(STORY, provider=name) for name in names))
        ran = lbench("report", path)
        assert ran.code == 0
        assert not [line for line in ran.out.splitlines() if line.strip().startswith("::")]


class TestFilesFromNames:
    @pytest.mark.parametrize("machine", ["../../up", "/tmp/lbench-absolute", "..", "a/b", "n" * 300])
    def test_plots_stay_in_their_folder(self, lbench: Lbench, tmp_path: Path, machine: str) -> None:
        here = tmp_path / "deep" / "er"
        here.mkdir(parents=True)
        rows = [replace(STORY, seq_len=n, machine_id=m) for m in (machine, "plain") for n in (64, 128)]
        path = csv_of(here / "x.csv", *rows)
        ran = lbench("report", path, "--out", here / "out", "--format", "svg")
        assert ran.code == 0
        assert not Path("/tmp/lbench-absolute-lbench").exists()
        written = {file.relative_to(here).parts[:2] for file in tmp_path.rglob("*.svg")}
        assert written == {("out", "plots")}
        folders = sorted(folder.name for folder in (here / "out" / "plots").iterdir())
        assert len(folders) == 2
        assert "plain-lbench" in folders

    def test_formulas_are_text_in_the_csv_and_numbers_stay(self, lbench: Lbench, tmp_path: Path) -> None:
        names = ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "-0.5", "plain"]
        path = csv_of(tmp_path / "x.csv", *(replace(STORY, provider=name) for name in names))
        ran = lbench("report", path, "--format", "csv")
        providers = {row["provider"] for row in csv.DictReader(ran.out.splitlines())}
        assert providers == {*(f"'{name}" for name in names[:4]), "-0.5", "plain"}

    def test_junit_is_xml_whatever_the_rows_hold(self, lbench: Lbench, tmp_path: Path) -> None:
        path = csv_of(tmp_path / "x\uffff\x01.csv", replace(STORY, provider="a\ufffe\uffffb"))
        ran = lbench("compare", path, path, "--junit", tmp_path / "j.xml")
        assert ran.code == 3
        case, _ = ET.parse(tmp_path / "j.xml").getroot().iter("testcase")
        assert case.get("name") == "a b/fwd/b1-n64"


class TestNoFiles:
    @pytest.mark.parametrize(
        "command",
        [
            ["report"],
            ["history"],
            ["compare", "whole.csv"],
            ["compare", "whole.csv", "whole.csv", "--calibration"],
            ["ceilings", "--device", "cpu", "--out"],
        ],
        ids=lambda words: words[0],
    )
    @pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
    def test_a_reader_does_not_wait_for_it(
        self, lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], kind: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        csv_of(tmp_path / "whole.csv", STORY)
        path = tmp_path / "x.csv"
        make: Callable[[], object] = {
            "folder": path.mkdir,
            "pipe": lambda: os.mkfifo(path),
            "device": lambda: path.symlink_to("/dev/zero"),
        }[kind]
        make()
        ran = lbench(*command, path)
        assert ran.code in ((2, 3) if kind == "folder" else (2,))
        if kind != "folder":
            assert "x.csv: it is a pipe or a device; give the name of a file" in " ".join(ran.err.split())
        assert lbench("report", tmp_path).code == 0, "a folder's are skipped"

    def test_a_suite_is_a_file(self, lbench: Lbench, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "x.toml")
        ran = lbench("suites", tmp_path / "x.toml")
        assert ran.code == 2
        assert "it is a pipe or a device" in ran.err


@pytest.mark.parametrize("line", ['name = "needs\\ngpu "', 'version = lambda self: "1\\n"'])
def test_a_name_or_a_version_of_two_lines_has_one_row(new_workspace: Any, lbench: Lbench, line: str) -> None:
    zoo = new_workspace.zoo
    zoo.write_text(zoo.read_text().replace('name = "needs-gpu"', f'name = "needs-gpu"\n    {line}'))
    command = ["check", new_workspace.suite(["NeedsGpu"]), "--out", new_workspace.out]
    for _ in range(2):
        lbench(*command)
    assert len(read_records(new_workspace.out)) == 1


def test_a_calibration_without_a_folder_is_refused_before_it_measures(
    new_workspace: Any, lbench: Lbench
) -> None:
    (new_workspace.folder / "file").write_text("")
    out = new_workspace.folder / "file" / "x-calibration.csv"
    ran = lbench("calibrate", new_workspace.suite(["Good"]), "--out", out)
    assert ran.code == 2
    assert "file is a file: give the name of a folder" in ran.err
