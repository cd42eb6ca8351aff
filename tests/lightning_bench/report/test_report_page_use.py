"""The page as its readers use it: first screen, address, downloads, plots, narrow screens."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from lightning_bench.record import read_records
from lightning_bench.report.document import FORMATS, make_report
from tests.support.page_in_chromium import STORY, Driver, Open, body, cell, find, head, texts, until
from tests.support.paths import ROOT
from tests.support.trained_rows import trained

AXE = (ROOT / "tests" / "data" / "axe.min.js").read_text(encoding="utf-8")

SYSTEMS = tuple(
    cell(f"{family}-{kind}", n, ms * n, family=family, batch=batch, suite="systems")
    for batch, n in ((8, 512), (1, 1024))
    for family, ms in (("linear", 0.01), ("gla", 0.02), ("softmax", 0.04))
    for kind, ms in (("fast", ms), ("slow", 2 * ms), ("torch", 4 * ms))
)
DIMS = tuple(
    cell(
        "ours",
        n,
        0.1 * n / 512,
        suite="dims",
        head_dim=dim,
        value_dim=dim,
        dtype=dtype,
        case_id=f"{dim}/{dtype}/{n}",
    )
    for dim in (64, 128)
    for dtype in ("bf16", "fp16")
    for n in (512, 1024)
)


@pytest.fixture(scope="module")
def h200(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of the page of all results of the H200."""
    path = tmp_path_factory.mktemp("h200") / "index.html"
    path.write_text(FORMATS["html"](make_report([ROOT / "results" / "h200"])), encoding="utf-8")
    return path.as_uri()


def bottom(page: Driver, selector: str) -> float:
    element = page.find_element(By.CSS_SELECTOR, selector)
    return float(page.execute_script("return arguments[0].getBoundingClientRect().bottom", element))


def height(page: Driver) -> int:
    return int(page.execute_script("return document.documentElement.scrollHeight"))


def findings_of_axe(page: Driver) -> list[Any]:
    """Return what axe-core finds that is serious or critical: rule and elements."""
    page.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE})
    found = page.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {resultTypes: ['violations']}).then((result) => done(result.violations))"
    )
    return [
        (rule["id"], [node["html"][:200] for node in rule["nodes"]])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def test_device_date_and_a_plot_are_on_the_first_screen_and_every_suite_is_short(
    chromium: Driver, h200: str, screen: Any
) -> None:
    screen(1440, 900)
    chromium.get(h200)
    assert texts(chromium, "h1") == ["NVIDIA H200"]
    (dates,) = texts(chromium, ".about strong")
    assert re.fullmatch(r"2026-11-21 to 2026-\d\d-\d\d", dates)
    assert "torch 2.11.0" in texts(chromium, ".about")[0]
    assert "lightning-bench 0.1.0 at " in texts(chromium, ".about")[0]
    assert 300 < bottom(chromium, "#hero .plot svg") <= 900
    assert 2 < len(find(chromium, ".summary li")) <= 10
    tabs = find(chromium, "#suites [role=tab]")[:-1]
    assert len(tabs) >= 14
    for tab in tabs:
        tab.click()
        assert height(chromium) < 15_000
    assert not [title for title in texts(chromium, "h3") if "_" in title]


def test_no_heading_is_under_the_sticky_bar(chromium: Driver, h200: str, screen: Any) -> None:
    screen(1200, 800)
    for view in ("paper-speed-bwd", "systems-speed-fwd", "dims-memory-bwd"):
        chromium.get("about:blank")
        chromium.get(f"{h200}#view={view}")
        top = chromium.execute_script(
            "return document.getElementById(arguments[0]).firstElementChild.getBoundingClientRect().top", view
        )
        bar = chromium.execute_script(
            "const bar = document.querySelector('#tools').getBoundingClientRect(); return bar.bottom"
        )
        assert bar <= top < 800


def test_the_title_of_a_trained_case_has_its_model(opened: Open) -> None:
    page = opened(*trained())
    find(page, "section.table:not([hidden]) tbody a")[0].click()
    until(lambda: texts(page, "#case-title") != [""])
    assert re.fullmatch(r"\S+, (tnl|llama)-0.4b, fwd_bwd, n = 1024", texts(page, "#case-title")[0])


def test_what_is_chosen_is_in_the_address_and_comes_back_from_it(opened: Open) -> None:
    page = opened(*STORY, *SYSTEMS, *DIMS)
    page.find_element(By.CSS_SELECTOR, "input[value=per_token]").click()
    page.find_element(By.ID, "words").send_keys("forward")
    page.find_element(By.CSS_SELECTOR, "#who summary").click()
    page.find_element(By.ID, "least").send_keys("600")
    find(page, "#suites [data-suite=systems]")[0].click()
    page.find_element(By.CSS_SELECTOR, "input[value=gla-slow]").click()
    Select(find(page, "#systems-speed-fwd select")[0]).select_by_visible_text("At n = 1024: batch 1")
    find(page, "#systems-speed-fwd tbody a")[1].click()
    until(lambda: texts(page, "#case-title") == ["linear-fast, fwd, n = 1024"])
    address = page.current_url
    assert (
        "suite=systems&kind=per_token&words=forward&n=600..&hide=gla-slow&plot=systems-speed-fwd" in address
    )
    page.get("about:blank")
    page.get(address)
    assert texts(page, "#case-title") == ["linear-fast, fwd, n = 1024"]
    page.find_element(By.ID, "close").click()
    until(lambda: "cell=" not in page.current_url)
    assert texts(page, "section.table:not([hidden]) h4") == ["Time, forward #"]
    assert find(page, "[aria-selected=true]")[0].text == "systems"
    assert page.find_element(By.CSS_SELECTOR, "input[value=per_token]").is_selected()
    assert not page.find_element(By.CSS_SELECTOR, "input[value=gla-slow]").is_selected()
    assert page.find_element(By.ID, "words").get_attribute("value") == "forward"
    select = Select(find(page, "#systems-speed-fwd select")[0])
    assert select.first_selected_option.text == "At n = 1024: batch 1"
    find(page, "#systems-speed-fwd .permalink")[0].click()
    assert page.current_url.endswith("&view=systems-speed-fwd")
    page.find_element(By.ID, "reset").click()
    until(lambda: page.current_url.endswith("#suite=systems&plot=systems-speed-fwd%2F1"))


def test_going_back_closes_a_case_and_keeps_the_filters(opened: Open) -> None:
    page = opened()
    page.find_element(By.CSS_SELECTOR, "input[value=floor]").click()
    find(page, "section.table td a")[0].click()
    until(lambda: bool(page.find_element(By.ID, "case").get_attribute("open")))
    page.back()
    until(lambda: not page.find_element(By.ID, "case").get_attribute("open"))
    assert page.current_url.endswith("#kind=floor")
    assert page.find_element(By.CSS_SELECTOR, "input[value=floor]").is_selected()


def test_rows_tables_and_plots_can_be_taken_along(opened: Open, tmp_path: Path) -> None:
    page = opened()
    folder = tmp_path / "saved"
    folder.mkdir()
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    for name in ("CSV", "SVG", "PNG"):
        page.find_element(By.XPATH, f"//section[@id='story-speed-fwd']//button[text()='{name}']").click()
        path = folder / f"story-speed-fwd.{name.lower()}"
        until(path.exists)
    assert texts(page, "#said")[0].endswith("is saved.")
    written = [r for r in read_records(tmp_path / "story.csv") if r.direction == "fwd"]
    saved = read_records(folder / "story-speed-fwd.csv")
    assert sorted(saved, key=lambda r: r.case_id) == sorted(written, key=lambda r: r.case_id)
    drawing = ElementTree.parse(folder / "story-speed-fwd.svg").getroot()
    words = {text for element in drawing.iter() if (text := element.text)}
    assert {"ours", "flash2", "minimum bytes", "1K"} <= words
    assert "var(" not in (folder / "story-speed-fwd.svg").read_text()
    png = (folder / "story-speed-fwd.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, tall = struct.unpack(">II", png[16:24])
    assert width == 2 * round(float(drawing.attrib["width"]))
    assert tall == 2 * round(float(drawing.attrib["height"]))


def test_a_table_is_copied_as_markdown(opened: Open) -> None:
    page = opened()
    page.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    page.find_element(By.XPATH, "//section[@id='story-speed-fwd']//button[text()='Copy as Markdown']").click()
    until(lambda: texts(page, "#said") == ["The table is copied as Markdown."])
    copied = page.execute_async_script(
        "const done = arguments[arguments.length - 1]; navigator.clipboard.readText().then(done, done)"
    )
    assert copied.splitlines() == [
        "**Time, forward, suite story, batch 4, 32 heads, head dim 128, bf16, NVIDIA H200, protocol lbench**:"
        " ms, median of cold samples",
        "",
        "| n | ours | flash2 |",
        "| ---: | ---: | ---: |",
        "| 512 | 0.3000 | 0.1000 |",
        "| 1024 | 0.4000 | 0.8000 |",
        "| 2048 | 0.2000\\* | OOM |",
    ]


def test_tables_of_one_row_are_merged(opened: Open) -> None:
    page = opened(*DIMS)
    assert len(find(page, "section.table")) == 1
    assert [line[:4] for line in body(page)][:2] == [
        ["bf16", "64", "512", "0.1000"],
        ["bf16", "64", "1024", "0.2000"],
    ]
    assert len(body(page)) == 8
    head(page, "head").click()
    head(page, "head").click()
    assert [line[1] for line in body(page)][:2] == ["128", "128"]
    options = [option.text for option in Select(find(page, "section.table select")[0]).options]
    assert options[:4] == [
        f"Over n: head dim {dim}, {dtype}"
        for dim, dtype in ((64, "bf16"), (64, "fp16"), (128, "bf16"), (128, "fp16"))
    ]


def test_dims_that_each_provider_has_alone_are_below_its_name(opened: Open) -> None:
    others = [
        replace(r, provider="rival", head_dim=64, value_dim=64, case_id=f"r{r.seq_len}") for r in STORY[:1]
    ]
    page = opened(*STORY, *others)
    assert [line[0] for line in body(page)] == ["512", "1024", "2048"]
    assert texts(page, "#story-speed-fwd thead small") == [
        "linear_decay",
        "softmax",
        "linear_decay, 32 heads, head dim 64",
    ]
    assert "rival" in texts(page, "#story-speed-fwd .name")


def test_many_providers_at_one_length_are_rows_and_bars(opened: Open) -> None:
    page = opened(*SYSTEMS)
    assert [line[0].split()[0] for line in body(page)][:3] == ["linear-fast", "linear-slow", "linear-torch"]
    assert texts(page, "section.table thead button") == ["provider", "batch 8, n 512", "batch 1, n 1024"]
    names = texts(page, "section.table .row-name")
    assert names[:3] == ["linear-fast", "linear-slow", "linear-torch"]
    assert len(find(page, "section.table .bar")) == 9
    head(page, "batch").click()
    assert [line[1] for line in body(page)][:3] == ["5.1200", "10.2400", "10.2400"]
    best = texts(page, "section.table td.best")
    assert len(best) == 6  # of each family at each shape


PARTS = (
    "",
    "#suite=systems",
    "#plot=paper-speed-fwd/samples-d128-n4096",
    "#cell=paper-speed-fwd/d128-n512/flash2",
)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(w, s) for w in (1440, 390) for s in ("light", "dark")])
def test_axe_finds_nothing_serious(chromium: Driver, h200: str, screen: Any, width: int, scheme: str) -> None:
    """Each part at each width and in each scheme, though not in each scheme at each width."""
    screen(width, 900)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for part in PARTS[(width == 390) ^ (scheme == "dark") :: 2]:
        chromium.get("about:blank")
        chromium.get(h200 + part)
        for details in find(chromium, "details:not([open]) > summary")[:3]:
            chromium.execute_script("arguments[0].parentElement.open = true", details)
        assert findings_of_axe(chromium) == []
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_a_narrow_screen_reads_the_summary_without_scrolling_sideways(
    chromium: Driver, h200: str, screen: Any
) -> None:
    screen(390, 844)
    chromium.get(h200)
    chromium.execute_script("document.querySelector('#leaders').open = true")
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
    wide = chromium.execute_script(
        "return [...document.querySelectorAll('header *, .top *:not(svg *), #leaders *')]"
        ".filter((e) => e.getBoundingClientRect().right > 391).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
