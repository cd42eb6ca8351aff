"""The committed results on the H200 say what the README and docs/results-h200.md claim of them."""

import csv
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_bench.record import Record, read_records
from lightning_bench.suite import Overrides, expand, load_suite
from tests.support.documents import README, table_after
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

H200 = ROOT / "results" / "h200"
RESULTS = (ROOT / "docs" / "results-h200.md").read_text()
LENGTHS = [512 * 2**i for i in range(7)]

# README of OpenNLPLab/lightning-attention, its two memory tables, in MiB at n = 512. Every column grows in
# proportion to n but for what does not depend on it: 512 bytes of slopes, and 512 of random-number state.
SLOPES = 512 / 2**20
PUBLISHED = {
    ("lightning-official", "fwd"): (64.0, SLOPES),
    ("lightning2", "fwd"): (64.0, SLOPES),
    ("lightning-official", "bwd"): (173.6, SLOPES),
    ("flash2", "fwd"): (64.25, 2 * SLOPES),
    ("flash2", "bwd"): (206.1, 2 * SLOPES),
    ("xformers", "fwd"): (64.25, SLOPES),
}


def rows(name: str) -> dict[tuple[str, str, int], Record]:
    return {(r.provider, r.direction, r.seq_len): r for r in read_records(H200 / name)}


@pytest.mark.parametrize(("provider", "direction"), PUBLISHED)
def test_published_memory_is_reproduced_to_six_decimals(provider: str, direction: str) -> None:
    growing, constant = PUBLISHED[provider, direction]
    table = rows("paper-memory-published.csv")
    for n in LENGTHS:
        measured = table[provider, direction, n].peak_mib
        assert measured is not None
        assert f"{measured:.6f}" == f"{growing * n / 512 + constant:.6f}"


def test_the_headline_counts_the_published_figures_that_are_reproduced() -> None:
    """Cell by cell: the two memory tables of lightning-attention's README against the same kernels here."""
    table = rows("paper-memory-published.csv")
    published = read_records(ROOT / "results" / "published" / "lightning-readme-memory.csv")
    same = 0
    for record in published:
        here = "lightning-official" if record.provider == "lightning2" else record.provider
        measured = table[here, record.direction, record.seq_len].peak_mib
        same += f"{measured:.6f}" == f"{record.peak_mib:.6f}"
    assert f"**{same} of {len(published)} published memory figures reproduced**" in README
    assert f"the other {'seven' if len(published) - same == 7 else ''} are of a kernel" in README


def test_the_headline_counts_the_comparisons() -> None:
    with (H200 / "verdict-power.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    same = [line for line in lines if line["kind"] == "same"]
    injected = sum(len(line["injected"].split()) for line in lines)
    found, false = sum(int(line["found"]) for line in lines), sum(int(line["false_slower"]) for line in same)
    assert f"**{found} of {injected} slowdowns found, {false} of {len(same)} false alarms**" in README


def test_bundled_backward_needs_no_more_than_published() -> None:
    table = rows("paper-memory-published.csv")
    for n in LENGTHS:
        measured = table["lightning2", "bwd", n].peak_mib
        assert measured is not None
        assert measured <= 173.6 * n / 512 + SLOPES + 5e-7


@pytest.mark.parametrize("name", ["paper-speed.csv", "paper-memory.csv", "paper-memory-published.csv"])
def test_every_case_of_the_suite_is_there_once_and_none_failed(name: str) -> None:
    records = read_records(H200 / name)
    assert len(records) == len({r.case_id for r in records}) == 196
    assert {r.status for r in records} <= {"ok", "unstable", "oom"}
    assert {r.provider for r in records if r.status == "oom"} <= {"sdpa-math"}
    assert {r.device_name for r in records} == {"NVIDIA H200"}
    # flash4's speed is of an earlier run on such a machine: results/h200/README.md.
    own_run = [r for r in records if (r.provider, r.metric) != ("flash4", "speed")]
    assert len({r.harness_commit for r in own_run}) == 1
    assert all(r.harness_commit for r in records)


@pytest.mark.parametrize("name", ["systems-speed.csv", "systems-memory.csv"])
def test_every_system_has_its_rows_and_none_is_wrong(name: str) -> None:
    """What did not run says why: two gradients that fla-core refuses to this triton, and what was absent."""
    records = read_records(H200 / name)
    wanted = {case.id for case in expand(load_suite("systems"), Overrides(), "cuda")}
    assert len(records) == len(wanted)
    assert {r.case_id for r in records} == wanted
    missing = [r for r in records if r.status not in {"ok", "unstable"}]
    assert {(r.provider, r.status) for r in missing} == {
        ("flash4", "unavailable"),
        ("fla-gla-fused-chunk", "unavailable"),
        ("fla-mamba2-chunk", "crashed"),
        ("fla-gated-delta-chunk", "crashed"),
    }
    assert all(r.reason for r in missing)
    assert {r.direction for r in missing if r.status == "crashed"} == {"bwd"}


def test_the_published_readme_of_fla_was_measured_whole() -> None:
    records = read_records(H200 / "fla-readme-speed-published.csv")
    providers = {"flash2", "flash2-full", "fla-retention-chunk", "fla-retention-fused-chunk"}
    providers |= {"fla-based-parallel", "fla-based-fused-chunk", "lightning2", "lightning2-retention"}
    lengths = {128 * 2**i for i in range(8)}
    assert {(r.provider, r.seq_len) for r in records} == set(itertools.product(providers, lengths))
    assert {(r.status, r.protocol, r.direction) for r in records} == {("ok", "paper", "fwd_bwd")}
    assert {r.head_dim for r in records if "based" in r.provider} == {16}


def _h200(name: str) -> list[dict[str, str]]:
    with (H200 / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_timers_agree_as_the_docs_say() -> None:
    table = _h200("timer-agreement.csv")
    assert {(row["provider"], row["direction"], row["seq_len"]) for row in table} == set(
        itertools.product(("lightning2", "sdpa-cudnn", "flash2"), ("fwd", "bwd"), ("512", "8192", "32768"))
    )
    for row in table:
        ratio = float(row["lbench_median_ms"]) / float(row["nvbench_median_ms"])
        assert float(row["nvbench_ratio"]) == pytest.approx(ratio, abs=1e-4)
    apart = max(100 * abs(float(row["nvbench_ratio"]) - 1) for row in table)
    assert apart <= 1.0
    assert [
        row for row in table if "not explained" in row["cupti_explained_by"] + row["nvbench_explained_by"]
    ] == []
    overheads = [float(row["kernel_overhead_us"]) for row in table]
    short = [row for row in table if row["seq_len"] == "512"]
    shorter = max(float(row["cupti_difference_us"]) for row in short)
    remaining = max(abs(float(row["cupti_remainder_us"])) for row in short)
    trust = " ".join((ROOT / "docs" / "trust.md").read_text().split())
    assert f"our median is within 1 % of nvbench's ({apart:.2f} % at most)" in trust
    assert (
        f"Events cost {min(overheads):.1f} to {max(overheads):.1f} µs around calls of empty kernels" in trust
    )
    assert (
        f"up to {shorter:.1f} µs shorter than our median, and at most {remaining:.2f} µs of it remain"
        in trust
    )


def test_times_hold_in_later_processes_as_the_docs_say() -> None:
    table = _h200("remeasured.csv")
    said = []
    for gpu in ("same", "another"):
        rows = [row for row in table if row["gpu"] == gpu]
        assert len(rows) == 60
        for row in rows:
            inside = float(row["ci_low_ms"]) <= float(row["new_median_ms"]) <= float(row["ci_high_ms"])
            assert int(row["inside"]) == inside
        inside = sum(int(row["inside"]) for row in rows)
        sizes = [abs(float(row["change_percent"])) for row in rows]
        median, most = np.percentile(sizes, [50, 90])
        changes = f"{median:.2f} % (median), {most:.2f} % (90th percentile), {max(sizes):.2f} % (largest)"
        said.append((inside, changes))
    assert said[0][0] >= 0.95 * 60
    trust = " ".join((ROOT / "docs" / "trust.md").read_text().split())
    assert f"| the same GPU | {said[0][0]} of 60 | {said[0][1]} |" in trust
    assert f"| another H200 | {said[1][0]} of 60 | {said[1][1]} |" in trust
    outside = {row["provider"] for row in table if row["inside"] == "0"}
    assert outside == {"sdpa-cudnn"}
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"{said[0][0]} of 60 times" in readme
    assert f"{said[1][0]} of 60 on another H200" in readme


@pytest.mark.parametrize(
    ("marker", "file", "direction", "figure", "decimals"),
    [
        ("paper-speed fwd", "paper-speed.csv", "fwd", "median_ms", 3),
        ("paper-speed bwd", "paper-speed.csv", "bwd", "median_ms", 3),
        ("paper-memory bwd", "paper-memory.csv", "bwd", "extra_mib", 0),
    ],
)
def test_figures_of_the_results_are_in_the_csv(
    marker: str, file: str, direction: str, figure: str, decimals: int
) -> None:
    header, body = table_after(RESULTS, marker)
    table = rows(file)
    assert len(body) == 7
    for cells in body:
        for provider, cell in zip(header[1:], cells[1:], strict=True):
            record = table[provider.strip("`"), direction, int(cells[0])]
            value = getattr(record, figure)
            expected = record.status if value is None else f"{value:.{decimals}f}"
            assert cell == expected + "*" * (record.status == "unstable")


def test_figures_of_the_norm_are_in_the_csv() -> None:
    header, body = table_after(RESULTS, "srmsnorm")
    table = rows("srmsnorm-speed.csv")
    assert [cells[0] for cells in body] == ["fwd", "bwd"]
    for direction, *cells in body:
        for provider, cell in zip(header[1:], cells, strict=True):
            record = table[provider.strip("`"), direction, 32768]
            assert cell == f"{record.floor_ratio:.2f}" + "*" * (record.status == "unstable")


COMMANDS = [
    line.split("`")[1].split()
    for line in (ROOT / "reports/README.md").read_text().splitlines()
    if line.startswith("| ") and "`lbench report " in line
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [c for c in COMMANDS if c[-1] != "svg"],
    ids=lambda command: command[command.index("--out") + 1],
)
def test_the_committed_report_is_what_its_command_makes(tmp_path: Path, command: list[str]) -> None:
    """The commands that reports/README.md names, run anew: tables and pages are the same to the byte."""
    command = list(command)
    where, formats = command.index("--out") + 1, command.index("--format") + 1
    committed, command[where] = ROOT / command[where], str(tmp_path)
    command[formats] = command[formats].removesuffix(",svg")  # plots depend on the version of matplotlib
    assert command[0] == "lbench"
    subprocess.run([sys.executable, ROOT / "cli.py", *command[1:]], cwd=ROOT, check=True, timeout=PATIENCE_S)
    made = {path.name for path in tmp_path.iterdir()}
    wanted = {"index.html" if name == "html" else f"tables.{name}" for name in command[formats].split(",")}
    assert made - {"what-they-measured.md"} == wanted
    for name in made:
        same = (tmp_path / name).read_bytes() == (committed / name).read_bytes()
        assert same, f"{committed / name} is not what its command makes now: run `make reports`"


def test_the_commands_of_the_reports_make_all_that_is_committed() -> None:
    assert len(COMMANDS) == 7
    names = {path.relative_to(ROOT / "reports").as_posix() for path in (ROOT / "reports").rglob("*.*")}
    tables = {f"{folder}/tables.{form}" for folder in ("h200", "published") for form in ("md", "tex", "csv")}
    tables |= {"h200-x2/tables.md", "h200-x2/published/tables.md"}
    pages = {
        "h200/index.html",
        "h200-x2/index.html",
        "published/index.html",
        "published/what-they-measured.md",
    }
    plots = {name for name in names if name.startswith(("h200/plots/", "h200/eight/plots/"))}
    assert names == {"README.md"} | tables | pages | plots
    assert len(plots) == 36
    assert all((ROOT / "reports" / page).stat().st_size < 3_000_000 for page in pages)
