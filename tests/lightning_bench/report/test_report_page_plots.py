"""Plots of the page: bars, distributions, what lines are compared with, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from lightning_bench.report.document import FORMATS, make_comparison
from tests.support.page_in_chromium import STORY, Driver, Open, cell, find, texts, until
from tests.support.paths import ROOT
from tests.support.trained_rows import trained


def test_bars_of_a_rate_begin_with_the_highest(opened: Open) -> None:
    rows = [r for r in trained() if (r.model, r.seq_len) == ("tnl-0.4b", 8192)]
    page = opened(*rows)
    rates = {r.provider: r.tokens_per_s for r in rows if r.tokens_per_s}
    assert texts(page, "section.table .row-name") == sorted(rates, key=lambda name: -rates[name])
    assert len(rates) > 1


def test_samples_are_shown_as_a_distribution(opened: Open) -> None:
    page = opened()
    select = Select(find(page, "#story-speed-fwd select")[0])
    select.select_by_visible_text("n = 1024")
    assert texts(page, "#story-speed-fwd .row-name") == ["ours", "flash2"]
    assert len(find(page, "#story-speed-fwd path.dots")) == 2
    dots = find(page, "#story-speed-fwd path.dots")[0].get_attribute("d")
    assert dots.count("h0") == 20
    assert "deviation from the provider's median" in texts(page, "#story-speed-fwd .unit")[0]
    assert "plot=story-speed-fwd%2Fsamples-n1024" in page.current_url


def test_samples_of_a_case_are_drawn_once_beside_its_figure_and_its_ratio(
    chromium: Driver, tmp_path: Path, screen: Any
) -> None:
    path = tmp_path / "index.html"
    rows = [ROOT / "results" / "h200" / name for name in ("fla-readme-speed.csv", "table1-train.csv")]
    path.write_text(FORMATS["html"](make_comparison(rows)), encoding="utf-8")
    screen(390, 844)
    chromium.get(path.as_uri())
    for tab in ("fla-performance", "table1"):
        next(each for each in find(chromium, "#suites [role=tab]") if each.text == tab).click()
        section = "section.suite:not([hidden]) section.table:not([hidden])"
        chromium.execute_script(f"document.querySelector('{section}').scrollIntoView()")
        until(lambda selector=f"{section} .row-name": find(chromium, selector))
        names = texts(chromium, f"{section} .row-name")
        assert len(names) == len(set(names)) > 4
        assert not [name for name in names if name.endswith("ratio)")]
        plot = find(chromium, f"{section} .plot")[0].rect["x"]
        assert min(name.rect["x"] for name in find(chromium, f"{section} .row-name")) >= plot


def test_minimum_bytes_are_a_line_only_where_all_that_is_shown_have_the_same(opened: Open) -> None:
    rival = [replace(cell("rival", n, 0.5), ceiling_gbps=1000.0) for n in (512, 1024)]
    page = opened(*(r for r in STORY if r.direction == "fwd"), *rival)
    assert set(texts(page, "section.table .name")) == {"ours", "flash2", "rival"}
    page.find_element(By.CSS_SELECTOR, "#who summary").click()
    page.find_element(By.CSS_SELECTOR, "input[value=rival]").click()
    until(lambda: set(texts(page, "section.table .name")) == {"ours", "flash2", "minimum bytes"})


@pytest.mark.parametrize(
    ("lengths", "label"), [((4096, 2048, 1024), "batch (4096 tokens in all)"), ((512,) * 3, "batch")]
)
def test_an_axis_of_batches_says_whether_lengths_shrink_as_they_grow(
    opened: Open, lengths: Sequence[int], label: str
) -> None:
    shapes = zip((1, 2, 4), lengths, strict=True)
    page = opened(*(cell("ours", n, 0.1, batch=batch, case_id=f"b{batch}") for batch, n in shapes))
    assert label in texts(page, "section.table .plot svg text")


def test_a_plot_takes_no_more_room_than_it_is_high(opened: Open) -> None:
    page = opened(cell("ours", 512, 0.1), cell("rival", 512, 0.2))
    svg, place = (find(page, f"section.table {what}")[0].rect["height"] for what in (".plot svg", ".plot"))
    assert place < svg + 60
