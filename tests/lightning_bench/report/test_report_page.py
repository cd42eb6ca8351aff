"""What the page holds, without a browser: the summary's words, the samples behind cells, escaping, bytes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bench.record import ResultFile, Row
from lightning_bench.record.samples import samples_of
from lightning_bench.report.document import FORMATS, make_comparison, make_report
from lightning_bench.report.page import page
from lightning_bench.report.page.masthead import masthead, sentences
from lightning_bench.report.page.summary import Standing, crossings, standings
from lightning_bench.report.tables.grid import grids
from lightning_bench.report.tables.groups import group
from tests.support.paths import ROOT
from tests.support.report_rows import STORY

BASE = replace(STORY, provider_version="1.0", machine_id="m1")


def row(provider: str, median_ms: float | None, half: float | None = 0.01, **others: Any) -> Row:
    """Return a row whose interval is the median ± `half`."""
    values: dict[str, Any] = {"provider": provider, "median_ms": median_ms}
    if median_ms is not None and half is not None:
        values |= {"ci_low_ms": median_ms - half, "ci_high_ms": median_ms + half}
    return Row(replace(BASE, **{**values, **others}), "x.csv")


def standing_of(*rows: Row) -> Standing:
    (standing,) = standings(rows)
    return standing


def test_who_leads_by_how_much_and_how_sure() -> None:
    rows = [row("a", 1.0), row("b", 1.5), row("c", 9.0)]
    rows += [row(name, ms, seq_len=128) for name, ms in (("a", 2.0), ("b", 2.01))]
    assert standing_of(*rows) == Standing(
        sweep="story, protocol lbench",
        what="time, forward",
        family="softmax",
        winner="a",
        won=2,
        cells=2,
        by="1.00× to 1.50× faster than b",
        sure="95 % intervals apart in 1 of 2",
    )


def test_unstable_is_never_sure() -> None:
    assert (
        standing_of(row("a", 1.0), row("b", 2.0, status="unstable")).sure == "95 % intervals apart in 0 of 1"
    )


def test_percentiles_replace_missing_intervals() -> None:
    spread = {"p20_ms": 0.9, "p80_ms": 1.1}
    far = {"p20_ms": 1.9, "p80_ms": 2.1}
    standing = standing_of(row("a", 1.0, None, **spread), row("b", 2.0, None, **far))
    assert standing.sure == "20th to 80th percentiles apart in 1 of 1"
    assert (
        standing_of(row("a", 1.0, None), row("b", 2.0, None)).sure == "not known: these rows keep no interval"
    )
    # an interval against percentiles says nothing
    assert (
        standing_of(row("a", 1.0), row("b", 2.0, None, **far)).sure
        == "not known: these rows keep no interval"
    )


def test_figures_that_print_the_same_lead_together() -> None:
    standing = standing_of(row("a", 1.00001), row("b", 1.00002), row("c", 2.0))
    assert (standing.winner, standing.by) == ("a and b, alike", "2.00× faster than c")


def test_a_lead_of_next_to_nothing_is_not_a_factor_of_one() -> None:
    assert standing_of(row("a", 2.0), row("b", 2.006)).by == "less than 0.5 % faster than b"


def test_families_machines_and_protocols_are_never_ranked_together() -> None:
    rows = [
        row("a", 1.0),
        row("b", 2.0, family="linear"),
        row("c", 0.5, machine_id="m2"),
        row("d", 0.1, protocol="paper", mean_ms=0.1),
        row("e", 0.1, suite="another"),
    ]
    assert standings(rows) == []


def test_a_failed_row_leads_nothing() -> None:
    assert standings([row("a", 1.0), row("b", 0.1, status="wrong")]) == []


def test_memory_has_no_spread() -> None:
    rows = [
        Row(replace(BASE, metric="memory", provider=p, extra_mib=x), "x") for p, x in (("a", 1), ("b", 3))
    ]
    assert (standing_of(*rows).winner, standing_of(*rows).sure) == (
        "a",
        "counted by the allocator: no spread",
    )


def test_families_meet_as_mechanisms_at_the_shortest_and_the_longest() -> None:
    rows = [row("s", 1.0, seq_len=64), row("s", 8.0, seq_len=128), row("s", 9.0, seq_len=256)]
    rows += [
        row(p, ms, seq_len=n, family="linear")
        for p, ms, n in (("l", 2.0, 64), ("l", 4.0, 128), ("m", 3, 128))
    ]
    (crossing,) = crossings(rows)
    assert crossing.names == "l against s and m against s"
    assert (crossing.shortest, crossing.longest) == ("n = 64: 0.50×", "n = 128: 2.67×")
    *_, told = sentences(standings(rows), [crossing], crossing.sweep, most=9)
    assert told.endswith("(l against s and m against s); that compares mechanisms.")


def test_the_first_sentences_are_on_the_suite_of_the_plot_whatever_the_machines() -> None:
    rows = [row("a", 1.0), row("b", 1.5), row("a", 1.0, suite="other"), row("b", 2.0, suite="other")]
    rows += [row("a", 3.0, machine_id="m2"), row("b", 2.0, machine_id="m2")]
    rows = [Row(replace(each.record, device_name="GPU"), each.source) for each in rows]
    told = sentences(standings(rows), crossings(rows), "other, protocol lbench", most=9)
    assert told == [
        "Suite other, GPU m1, forward: a leads softmax in the only cell, 2.00× faster than b.",
        "Suite story, GPU m1, forward: a leads softmax in the only cell, 1.50× faster than b.",
        "Suite story, GPU m2, forward: b leads softmax in the only cell, 1.50× faster than a.",
    ]
    assert len(sentences(standings(rows), crossings(rows), "story, protocol lbench", most=2)) == 2


def test_the_masthead_has_device_days_versions_and_the_newest_commits() -> None:
    days = ("2026-01-02T10:00:00+00:00", "2026-01-05T10:00:00+00:00", "2026-01-03T10:00:00+00:00")
    records = [
        replace(
            BASE, device_name="GPU", torch="2.9", harness_version="1", harness_commit=commit, time_utc=day
        )
        for commit, day in zip("abc", days, strict=True)
    ]
    found = masthead(records, "Results", compared=False)
    assert (found.title, found.days) == ("GPU", "2026-01-02 to 2026-01-05")
    assert found.versions == "torch 2.9, lightning-bench 1 at b, c and 1 more"
    assert masthead(records, "Compared", compared=True).title == "Compared"
    assert masthead([BASE], "Results", compared=False).title == "Results"


def data_of(text: str) -> Any:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_samples_beside_the_csv_are_behind_their_cells(tmp_path: Path) -> None:
    record = replace(BASE, median_ms=1.0, case_id="a/64")
    with ResultFile(tmp_path / "x.csv") as file:
        file.append_samples(record, {"samples_ms": [9.0]})  # of a run that was killed before its row
        file.append_samples(
            record, {"samples_ms": [1.0, None, 1.1], "clocks": [{"sm_clock_mhz": 1980.0, "power_w": None}]}
        )
        file.append(record)
        file.append(replace(record, case_id="a/128", seq_len=128))
    data = data_of(FORMATS["html"](make_report([tmp_path / "x.csv"])))
    assert data["samples"] == {"0": {"samples_ms": [1.0, 1.1], "sm_clock_mhz": [1980.0]}}
    assert data["cases"]["count"] == 2


@pytest.mark.parametrize("line", ["{torn", "[]", '{"case_id": "a"}', "7"])
def test_a_line_without_samples_is_reported(tmp_path: Path, line: str) -> None:
    record = replace(BASE, median_ms=1.0)
    with ResultFile(tmp_path / "x.csv") as file:
        file.append_samples(record, {"samples_ms": [1.0]})
        file.append(record)
    with (tmp_path / "x.samples.jsonl").open("a") as file_:
        file_.write(f"{line}\n")
    made = make_report([tmp_path / "x.csv"])
    samples, messages = samples_of(made.rows)
    assert list(samples.values()) == [{"samples_ms": [1.0]}]
    assert messages == [f"{(tmp_path / 'x.samples.jsonl').as_posix()}, line 2: no samples of lbench"]
    assert "x.samples.jsonl, line 2: no samples of lbench." in FORMATS["html"](made)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_stays_text(name: str, reason: str) -> None:
    hostile = f"{name}</script><!--"
    rows = [
        row(
            hostile, 1.0, suite=hostile, label=reason, status="unstable", reason=reason + "</script><script>"
        ),
        row(hostile, 2.0, suite=hostile, seq_len=128, device_name=reason + "<img onerror=x>"),
    ]
    text = page(grids(group(rows)), heading=reason, remarks=[reason], rows=rows)
    assert text.count("<script") == text.count("</script") == 2
    assert "<img" not in text
    assert text.count("<!--") == 0
    at = data_of(text)["cases"]["columns"]["provider"]
    assert at == {"all": rows[0].record.provider}


def test_the_policy_lets_this_script_and_this_style_run_and_nothing_else() -> None:
    rows = [row("a", 1.0)]
    text = page(grids(group(rows)), heading="x", remarks=[], rows=rows)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy.startswith("default-src &#39;none&#39;; img-src data:; script-src &#39;sha256-")
    assert "unsafe" not in policy
    assert not re.findall(r'(?:src|href)="(?!#|data:,")[^"]*"', text)


def test_the_same_rows_give_the_same_bytes() -> None:
    paths = [ROOT / "results/h200/paper-speed.csv"]
    first = FORMATS["html"](make_report(paths))
    assert FORMATS["html"](make_report(paths)) == first
    assert len(first) < 1_500_000


def test_the_page_of_a_comparison_holds_the_findings() -> None:
    made = make_comparison([ROOT / "results/h200"])
    text = FORMATS["html"](made)
    assert "What the published tables measured" in text
    assert all(finding.title.replace("'", "&#39;") in text for finding in made.findings)
    assert data_of(text)["sections"][0]["kinds"].keys() == {"against"}


def test_scripts_and_style_are_short_files_of_the_package() -> None:
    folder = ROOT / "lightning_bench/report/page"
    files = [*folder.glob("*.js"), *folder.glob("*.css"), *folder.glob("*.j2")]
    assert len(files) == 13
    assert all(len(file.read_text().splitlines()) < 400 for file in files)
