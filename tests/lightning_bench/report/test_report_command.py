"""``lbench report`` as it is typed: what it prints, writes and refuses, and that it needs no torch."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from lightning_bench.machine.identity import host_identity
from lightning_bench.record import Record, ResultFile
from lightning_bench.report.tables.kinds import KIND_NAMES
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.report_rows import STORY
from tests.support.terminals import on_a_terminal

Lbench = Callable[..., Any]

BASE = replace(STORY, case_id="a/fwd/n64", median_ms=1.0)
FILE = (BASE, replace(BASE, provider="b", case_id="b/fwd/n64", median_ms=2.0))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with results/here.csv."""
    monkeypatch.chdir(tmp_path)
    return save(Path("results/here.csv"), *FILE)


def save(path: Path, *records: Record) -> Path:
    with ResultFile(path) as file:
        for record in records:
            file.append(record)
    return path


def test_without_arguments_the_newest_run_is_printed(results: Path, lbench: Lbench) -> None:
    ran = lbench("report")
    assert ran.code == 0
    lines = [line.strip() for line in ran.out.splitlines()]
    assert lines[0] == "story-speed_fwd-batch1-head2-qk_dim16-v_dim16-dtype_bf16"
    assert lines[1] == "(ms, median of cold samples)"
    assert "64   1.0000   2.0000" in lines
    assert "source: results/here.csv" in lines
    assert "2 rows: 2 ok." in ran.err
    assert "No results of this machine yet" in ran.err


def test_the_newest_run_of_this_machine_comes_before_newer_ones_of_others(
    results: Path, lbench: Lbench
) -> None:
    here = replace(BASE, host=host_identity(), floor_ms=0.5, ceiling_gbps=1.0, ceiling_tflops=1.0)
    save(Path("results/old.csv"), replace(here, time_utc="2026-01-01T00:00:00+00:00", median_ms=7.0))
    save(Path("results/new.csv"), replace(here, time_utc="2026-01-02T00:00:00+00:00", median_ms=8.0))
    save(Path("results/other.csv"), replace(BASE, time_utc="2026-01-03T00:00:00+00:00", machine_id="m2"))
    Path("results/ceilings.csv").write_text("copy_gbps,machine_id\n1,m\n")
    ran = lbench("report")
    assert "8.0000" in ran.out
    assert ran.out.count("(ms, median of cold") == 1
    assert "× floor" not in ran.out
    assert "Newest run: results/new.csv (story, speed, protocol lbench, 1 row, 2026-01-02)." in ran.err
    assert "Not shown: results/other.csv" in ran.err
    assert "ceilings.csv" not in ran.err
    everything = lbench("report", "--all")
    assert everything.out.count("(ms, median of cold") == 2
    assert "× floor" in everything.out
    assert lbench("report", "--metric", "floor").out.count("× floor") == 1


WAYS = [("fwd", "a"), ("fwd", "b"), ("bwd", "b"), ("bwd", "a")]


def test_what_is_under_every_table_is_printed_once(results: Path, lbench: Lbench) -> None:
    both = [replace(BASE, direction=way, provider=name, case_id=f"{name}/{way}/n64") for way, name in WAYS]
    ran = lbench("report", save(Path("two.csv"), *both), "--metric", "ms")
    assert ran.out.count("providers: ") == 1, "in whatever order"
    assert ran.out.count("source: two.csv") == 1
    apart = save(Path("apart.csv"), *both[:2], *(replace(each, torch="0.1") for each in both[2:]))
    assert lbench("report", apart, "--metric", "ms").out.count("source: apart.csv") == 2


def test_notes_of_the_same_rows_are_printed_once(results: Path, lbench: Lbench) -> None:
    row = replace(BASE, status="unstable", reason="a passing cloud", tflops=0.0123, gbps=4.56)
    back = replace(row, direction="bwd", case_id="a/bwd/n64", reason="a stone")
    ran = lbench("report", save(Path("kinds.csv"), row, back))
    assert ran.out.count("TFLOP/s") == ran.out.count("GB/s, model") == 2
    assert ran.out.count("a passing cloud") == ran.out.count("a stone") == 1
    assert ran.out.count("0.0123*") == ran.out.count("4.56*") == 2


def test_the_legend_says_what_is_there(results: Path, lbench: Lbench) -> None:
    assert "Bold" not in lbench("report").err, "no bold in a pipe"
    assert "unstable" not in lbench("report").err
    ran = lbench("report", save(Path("w.csv"), replace(BASE, status="unstable", reason="so")))
    assert ran.err.endswith("*: unstable, the figure is not to be relied on.\n")
    shown = on_a_terminal(["report", "results/here.csv", "--metric", "ms"])
    assert "Bold: the best of its family in a row." in shown
    assert "\x1b[1m1.0000\x1b[0m" in shown.replace(" ", "")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {},
            "no plots: a line needs figures at two lengths or three batch sizes, and dots need three provid",
        ),
        ({"status": "oom", "median_ms": None}, "no plots: no row has a figure"),
        ({"metric": "check", "median_ms": None}, "no plots: `lbench check` measures no time and no memory"),
    ],
)
def test_no_plots_have_a_reason(results: Path, lbench: Lbench, changes: dict[str, Any], why: str) -> None:
    ran = lbench("report", save(Path("c.csv"), replace(BASE, **changes)), "--out", "made", "--format", "png")
    assert why in ran.err
    assert "0 plots" not in ran.err


def test_only_the_providers_that_are_named_are_shown(results: Path, lbench: Lbench) -> None:
    one = lbench("report", "--provider", "b").out
    assert "2.0000" in one
    assert "1.0000" not in one
    both = lbench("report", "results/here.csv", "--provider", "b, a").out
    assert "1.0000   2.0000" in both


def test_a_row_that_another_file_replaces_is_not_left_out_silently(results: Path, lbench: Lbench) -> None:
    later = replace(BASE, time_utc="2099-01-01T00:00:00+00:00", median_ms=3.0)
    save(Path("later.csv"), later)
    says = "1 case of one suite and machine: in results/here.csv and in later.csv. Shown is the later row"
    ran = lbench("report", "results/here.csv", "later.csv")
    assert says in ran.err
    assert "3.0000   2.0000" in ran.out
    assert lbench("report", "results/here.csv", "later.csv", "--out", "made", "--format", "md").code == 0
    assert says in Path("made/tables.md").read_text()


@pytest.mark.parametrize(("rows", "is_paged"), [(5, True), (60, False)])
def test_what_a_terminal_cannot_hold_goes_through_the_pager(results: Path, rows: int, is_paged: bool) -> None:
    pager = Path("pager.sh").resolve()
    pager.write_text("#!/bin/sh\ncat > paged.txt\n")
    pager.chmod(0o755)
    shown = on_a_terminal(["report"], rows, {**os.environ, "PAGER": f"sh {pager}"})
    assert Path("paged.txt").exists() == is_paged
    table = Path("paged.txt").read_text() if is_paged else shown
    assert "2.0000" in table
    assert is_paged == ("2.0000" not in shown)


def test_a_pager_that_does_not_exist_is_done_without(results: Path) -> None:
    assert "2.0000" in on_a_terminal(["report"], 5, {**os.environ, "PAGER": "no-such-pager"})


def test_a_terminal_sees_how_far_the_drawing_is(results: Path) -> None:
    save(Path("two.csv"), *(replace(BASE, seq_len=n, case_id=f"{BASE.case_id}-{n}") for n in (64, 128)))
    shown = on_a_terminal(["report", "two.csv", "--out", "made", "--format", "svg"], 24, dict(os.environ))
    assert "drawing up to" in shown
    assert "wrote 3 plots in made/plots" in " ".join(shown.split())


def test_out_gets_every_format(results: Path, lbench: Lbench) -> None:
    ran = lbench("report", results, "--out", "reports/x")
    assert (ran.code, ran.out) == (0, "")
    assert sorted(path.name for path in Path("reports/x").iterdir()) == [
        "index.html",
        "tables.csv",
        "tables.md",
        "tables.tex",
    ]
    assert "wrote reports/x/tables.md" in ran.err
    first = {path: path.read_bytes() for path in Path("reports/x").iterdir()}
    lbench("report", results, "--out", "reports/x")
    assert {path: path.read_bytes() for path in first} == first
    # Its own CSV is no result, and a folder that holds both is read for the results.
    assert lbench("report", ".").code == 0


def test_out_of_some_formats_and_stdout_of_one(results: Path, lbench: Lbench) -> None:
    assert lbench("report", results, "--out", "x", "--format", "tex,md").code == 0
    assert sorted(path.name for path in Path("x").iterdir()) == ["tables.md", "tables.tex"]
    assert lbench("report", results, "--format", "md").out == Path("x/tables.md").read_text()


def test_quiet_leaves_the_data(results: Path, lbench: Lbench) -> None:
    ran = lbench("report", results, "--format", "csv", "--quiet")
    assert ran.err == ""
    assert ran.out.count("\n") == 3


def test_a_baseline_makes_a_speedup_table(results: Path, lbench: Lbench) -> None:
    out = lbench("report", results, "--format", "md", "--baseline", "b").out
    assert "| 64 | **2.00×** | 1.00× |" in out
    assert "speedup" not in lbench("report", results, "--format", "md").out


def test_mix_puts_machines_side_by_side(results: Path, lbench: Lbench) -> None:
    other = save(Path("results/there.csv"), replace(BASE, machine_id="m2", device_name="M2", median_ms=3.0))
    apart = lbench("report", "--format", "md").out
    assert apart.count("## `") == 2
    page = lbench("report", "--format", "html", "--mix").out
    assert page.count('<section class="table"') == 1
    assert "Columns of different suites, machines or protocols stand side by side" in page
    mixed = lbench("report", "--format", "md", "--mix").out
    assert mixed.count("## `") == 1
    assert "| 64 | **1.0000** | 2.0000 | 3.0000 |" in mixed
    assert "stand side by side, as --mix asked" in mixed
    assert other.exists()


def test_only_failed_rows_are_a_report_that_says_so(results: Path, lbench: Lbench) -> None:
    failed = replace(BASE, status="oom", median_ms=None, reason="64 GiB too much")
    out = lbench("report", save(Path("failed.csv"), failed), "--format", "md").out
    assert "1 row: 1 oom.\n\nNo row here has a figure: the notes under each table say why." in out
    assert "| 64 | OOM |" in out
    assert "- a: oom at n = 64: 64 GiB too much" in out


def test_older_columns_give_a_page_without_what_they_lack(results: Path, lbench: Lbench) -> None:
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [name for name in rows[0] if name not in ("machine_id", "ci_low_ms", "p20_ms", "harness_commit")]
    with Path("old.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    page = lbench("report", "old.csv", "--format", "html").out
    assert page.startswith("<!doctype html>")
    assert '<a href="#cell=story-speed-fwd/n64/a">1.0000</a>' in page
    assert "not known: these rows keep no interval" in page


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--out", "made", "--format", "html"]], ids=["temporary", "out"])
def test_open_starts_the_users_browser(
    results: Path, lbench: Lbench, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    browser = Path("browser.sh").resolve()
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {browser.parent}/shown\n')
    browser.chmod(0o755)
    code = "import os, sys\nfrom lightning_bench.cli import main\nsys.argv[1:1] = ['report']\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(results), "--open", *more],
        env={**os.environ, "BROWSER": f"{browser} %s", "TMPDIR": str(browser.parent)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    shown = Path(unquote(urlparse(Path("shown").read_text()).path))
    assert shown.name == "index.html"
    assert shown.read_text().startswith("<!doctype html>")
    assert (shown.parent == Path("made").resolve()) == bool(more)


def test_against_published_reads_the_published_tables_itself(results: Path, lbench: Lbench) -> None:
    ran = lbench("report", results, "--against", "published", "--format", "md")
    assert ran.code == 0
    assert ran.out.count("## `") == 7
    assert "164 published figures of attention, each beside what 2 rows measured here have" in ran.out
    memory = lbench("report", results, "--against", "published", "--metric", "memory", "--format", "md").out
    assert memory.count("## `") == 4


def test_help_names_every_kind_of_table(lbench: Lbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = lbench("report", "--help").out
    listed = text[text.index("or single tables:") : text.index("Default: all.")]
    assert set(KIND_NAMES) - {"memory", "check"} <= set(re.findall(r"[a-z_]+", listed))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "nowhere.csv: there is no such file or folder"),
        (["script.csv"], "script.csv is not a result file of lbench"),
        (["empty.csv"], "empty.csv is empty"),
        (["--metric", "sped"], "--metric 'sped' is not known; allowed: speed, train, generate, energy, ms"),
        (["--metric", "memory"], "no row here is of --metric memory; the rows are of: speed"),
        (["--metric", "gbps"], "none of the tables asked for has a figure in these rows"),
        (["--baseline", "flash2"], "--baseline 'flash2' is in no row of speed here; allowed: a, b"),
        (["--format", "gif"], "--format 'gif' is not known; allowed: md, tex, html, csv, png, svg, pdf"),
        (["--format", "md,tex"], "stdout takes one --format; give --out for several"),
        (["--out", "empty.csv"], "--out empty.csv is a file: give the name of a folder"),
        (["--open", "--format", "md"], "--open shows only the page: leave out --format, or give --out"),
        (["--open", "--format", "md", "--out", "x"], "--open shows the page: add html to --format"),
        (["script.csv", "--format", "html"], "script.csv is not a result file of lbench"),
        (["empty.csv", "--format", "html"], "empty.csv is empty"),
        (["--against", "mine"], "--against 'mine' is not known; allowed: published"),
        (["--against", "published", "--mix"], "--baseline, --mix and --provider do not go with --against"),
        (["--against", "published", "--provider", "a"], "--provider do not go with --against"),
        (["--provider", "a,c"], "--provider 'c' has no row here; allowed: a, b"),
        (["--against", "published", "--metric", "check"], "allowed with --against: speed, memory"),
    ],
)
def test_bad_usage_is_an_error_in_one_sentence(
    results: Path, lbench: Lbench, arguments: list[str], message: str
) -> None:
    Path("script.csv").write_text("call,median\nx,1\n")
    Path("empty.csv").write_text("")
    ran = lbench("report", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_the_error_on_a_folder_without_results_names_what_was_left_out(results: Path, lbench: Lbench) -> None:
    Path("other").mkdir()
    Path("other/script.csv").write_text("call,median\nx,1\n")
    ran = lbench("report", "other")
    assert ran.code == 2
    assert "no rows of lbench in other (other/script.csv is not a result file of lbench)" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["results", "--format", "md,tex,html,csv"],
        ["results", "--against", "published"],
        ["results/h200/head-dim-64-speed.csv", "--metric", "ms", "--format", "tex,svg"],
    ],
    ids=["tables", "against", "plots"],
)
def test_a_report_needs_no_torch_and_matplotlib_only_for_plots(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from lightning_bench.cli import main\n"
        f"sys.argv = ['lbench', 'report', '--out', {str(tmp_path)!r}, *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    heavy = {{'torch', 'triton', {'' if 'svg' in arguments[-1] else 'matplotlib'!r}}}\n"
        "    heavy &= {name.split('.')[0] for name in sys.modules}\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tables.tex").stat().st_size > 1000


@pytest.mark.slow
def test_ten_thousand_rows_take_a_moment(results: Path, lbench: Lbench) -> None:
    path = Path("many.csv")
    save(path, BASE)
    head, row = path.read_text().splitlines()
    rows = [row.replace("n64", f"n{n}").replace(",2,64,16,", f",2,{n},16,") for n in range(1, 10_001)]
    path.write_text("\n".join([head, *rows]) + "\n")
    out = lbench("report", path, "--format", "md").out
    assert out.count("\n| ") == 10_002


def test_plots_are_written_beside_the_tables(results: Path, lbench: Lbench) -> None:
    records = [replace(BASE, seq_len=n, case_id=f"{BASE.case_id}-{n}") for n in (64, 128)]
    save("two.csv", *records)
    ran = lbench("report", "two.csv", "--out", "page", "--format", "md,svg")
    assert ran.code == 0
    plots = sorted(path.name for path in Path("page/plots").iterdir())
    assert [name.split("bf16-")[1] for name in plots] == ["per_token.svg", "time-wide.svg", "time.svg"]
    assert "wrote 3 plots in page/plots" in ran.err
    save("two.csv", *records, *(replace(r, machine_id="another") for r in records))
    lbench("report", "two.csv", "--out", "pages", "--format", "svg")
    assert len(list(Path("pages/plots").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "png"], "--format png needs --out"),
        (["--against", "published", "--format", "md,pdf", "--out", "x"], "leave out --format pdf"),
    ],
)
def test_plots_that_cannot_be_are_an_error(
    lbench: Lbench, results: Path, arguments: list[str], message: str
) -> None:
    ran = lbench("report", "results", *arguments)
    assert ran.code == 2
    assert message in ran.err
