"""The page in headless Chromium by keyboard, for screen readers, in the dark, on a narrow screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.page_in_chromium import STORY, Driver, Open, body, cell, find, texts, until, write_page
from tests.support.trained_rows import trained

NASTY = (
    "</script><script>window.hacked=1</script><!--<script> --><img src=x onerror=window.hacked=2> "
    "\"'`& {{ 7*7 }} {% x %} </td></table><b onclick=alert(1)>"
)


def test_everything_can_be_reached_by_keyboard(opened: Open) -> None:
    page = opened()

    def press(*keys: str) -> Any:
        ActionChains(page).send_keys(*keys).perform()
        return page.switch_to.active_element

    assert press(Keys.TAB).text == "Skip to the tables"
    assert press(Keys.ENTER).get_attribute("id") == "tables"
    assert press(Keys.TAB).get_attribute("value") == "ms"
    assert press(Keys.ARROW_RIGHT).get_attribute("value") == "speedup"
    assert body(page)[1] == ["1024", "2.00×", "1.00×"]
    press(Keys.ARROW_LEFT)
    assert press(Keys.TAB).get_attribute("id") == "words"
    seen = []
    for _ in range(30):
        focused = press(Keys.TAB)
        seen.append(focused.tag_name)
        if focused.tag_name == "svg":
            break
    assert seen[:4] == ["summary", "button", "a", "select"]  # lengths and providers, all, link, plot
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    until(lambda: texts(page, "section.table .tip")[0].startswith("flash2, n = 1024: 0.8000 ms"))
    press(Keys.ENTER)
    until(lambda: texts(page, "#case-title") == ["flash2, fwd, n = 1024"])
    until(lambda: page.switch_to.active_element.get_attribute("id") == "case-title")
    press(Keys.ESCAPE)
    until(lambda: not page.find_element(By.ID, "case").get_attribute("open"))
    until(lambda: page.switch_to.active_element.tag_name == "svg")
    while press(Keys.TAB).tag_name != "button":
        pass
    press(Keys.TAB, Keys.ENTER)  # the heading of ours
    assert [line[0] for line in body(page)] == ["2048", "512", "1024"]
    while (link := press(Keys.TAB)).tag_name != "a":
        pass
    assert link.value_of_css_property("outline-style") == "solid"
    assert link.text == "0.2000*"
    press(Keys.ENTER)
    until(lambda: "Status: unstable. the clock drifted" in page.find_element(By.ID, "case").text)


def test_tables_are_readable_by_screen_readers(opened: Open) -> None:
    page = opened()
    names = page.execute_script(
        """return {
          captions: [...document.querySelectorAll('table')].every(t => t.caption && t.caption.textContent),
          heads: [...document.querySelectorAll('thead th')].every(th => th.scope === 'col'),
          rows: [...document.querySelectorAll('section.table tbody tr')].every(
            r => r.cells[0].scope === 'row'),
          fields: [...document.querySelectorAll('input')].every(i => i.labels.length),
          live: document.querySelector('#said').getAttribute('aria-live'),
          plots: [...document.querySelectorAll('.plot > svg')].every(s => s.getAttribute('aria-label')),
          lang: document.documentElement.lang,
          ids: new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size
            === document.querySelectorAll('[id]').length,
          labelled: [...document.querySelectorAll('[aria-labelledby]')].every(
            e => document.getElementById(e.getAttribute('aria-labelledby'))),
        }"""
    )
    assert names == {
        "captions": True,
        "heads": True,
        "rows": True,
        "fields": True,
        "live": "polite",
        "plots": True,
        "lang": "en",
        "ids": True,
        "labelled": True,
    }


def test_dark_and_light_follow_the_system_and_the_button(opened: Open) -> None:
    page = opened()

    def paper() -> str:
        return str(page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))

    def prefer(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    prefer("light")
    assert paper() == "rgba(255, 255, 255, 1)"
    prefer("dark")
    assert paper() == "rgba(21, 24, 28, 1)"
    button = page.find_element(By.ID, "theme")
    button.click()
    assert (button.text, paper()) == ("Theme: light", "rgba(255, 255, 255, 1)")

    def kept(_: object) -> bool:
        page.refresh()
        return bool(page.find_element(By.ID, "theme").text == "Theme: light")

    WebDriverWait(page, 10).until(
        kept
    )  # on a busy machine the browser stores it later than it loads the page
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not page.find_element(By.ID, "tools").is_displayed()


def test_strings_of_a_csv_are_text_and_nothing_else(opened: Open) -> None:
    nasty = [
        cell(
            NASTY,
            n,
            1.0 * n,
            **dict.fromkeys(("suite", "label", "family", "device_name", "provider_version"), NASTY),
            status="unstable",
            reason=NASTY,
            machine_id=NASTY,
            provider_config=NASTY,
        )
        for n in (512, 1024)
    ]
    page = opened(*nasty)
    assert page.execute_script("return window.hacked") is None
    assert page.execute_script("return document.querySelectorAll('img, b').length") == 0
    text = page.execute_script(
        "return document.querySelector('section.table thead button + small').textContent"
    )
    assert text == NASTY
    assert NASTY in page.execute_script("return document.querySelector('.names').textContent")
    page.execute_script("document.querySelector('section.table td a').click()")
    until(lambda: bool(page.find_element(By.ID, "case").get_attribute("open")))
    assert NASTY in page.execute_script("return document.querySelector('#case-title').textContent")
    assert (
        page.execute_script("return document.querySelectorAll('img, b').length + (window.hacked ?? 0)") == 0
    )


def test_close_is_above_the_row_however_far_a_reader_is(opened: Open) -> None:
    page = opened()
    page.execute_script("document.querySelector('section.table td a').click()")
    until(lambda: texts(page, "#case-title") != [""])
    for down in range(0, 2000, 150):
        page.execute_script("document.querySelector('#case').scrollTop = arguments[0]", down)
        on_top = page.execute_script(
            "const r = document.querySelector('#close').getBoundingClientRect();"
            "return document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2).id"
        )
        assert on_top == "close"


def test_without_scripts_the_page_has_tables_and_no_gaps(chromium: Driver, tmp_path: Path) -> None:
    path = write_page(tmp_path, *STORY)
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(path.as_uri())
        assert not [e for e in find(chromium, ".scripted, .plot, #hero, #tools") if e.is_displayed()]
        assert "0.3000" in " ".join(texts(chromium, "section.table"))
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_page_of_failed_rows_says_so(opened: Open) -> None:
    page = opened(cell("ours", 512, None, status="oom", reason="too much"))
    assert "No row here has a figure" in page.find_element(By.TAG_NAME, "main").text
    assert body(page) == [["512", "OOM"]]
    assert find(page, ".plot") == []


def test_nothing_is_fetched(opened: Open) -> None:
    assert opened().execute_script("return performance.getEntriesByType('resource').length") == 0


CLASHES = """
const found = [];
for (const svg of document.querySelectorAll('.plot svg')) {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map((t) => [t.textContent, t.getBoundingClientRect()]);
  texts.forEach(([text, a], at) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1) found.push(`${text} is cut off`);
    for (const [other, b] of texts.slice(at + 1))
      if (Math.min(a.right, b.right) > Math.max(a.left, b.left) + 1 &&
          Math.min(a.bottom, b.bottom) > Math.max(a.top, b.top) + 4) found.push(`${text} is on ${other}`);
  });
}
return found;
"""


def test_labels_of_plots_on_a_narrow_screen_stay_clear_of_each_other(opened: Open, screen: Any) -> None:
    screen(390, 844)
    names = ("ours", "fla-retention-fused-chunk", "slow")
    lines = [cell(name, n, 0.01 * 30**at * n) for at, name in enumerate(names) for n in (512, 1024)]
    bars = [cell(name, 512, 0.01 * 30**at, direction="bwd") for at, name in enumerate(names)]
    page = opened(*lines, *bars, *(replace(row, machine_id=lines[0].machine_id) for row in trained()))

    def look(view: str, plot: str = "0") -> None:
        page.execute_script("location.hash = arguments[0]", f"view={view}&plot={view}/{plot}")
        until(lambda: bool(find(page, f"#{view} .plot svg")))
        assert page.execute_script(CLASHES) == [], (view, plot)

    look("story-speed-fwd")
    look("story-speed-fwd", "samples-n512")
    look("story-speed-bwd")
    look("table1-train-fwd_bwd")
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390


def test_tables_and_samples_can_be_read_on_a_narrow_screen(opened: Open, screen: Any) -> None:
    screen(390, 844)
    names = [f"lightning-official-no-decay-{at}" for at in range(10)]
    page = opened(*(cell(name, 512, 0.1, family="gateloop_complex") for name in names))
    page.find_element(By.CSS_SELECTOR, "input[value=floor]").click()
    table, heads, caption = (
        find(page, f"section.table {selector}")[0].rect["width"]
        for selector in (".scroll", "table.turned tbody th", "caption")
    )
    assert heads < table / 2
    assert caption <= table
    titles = page.execute_script(
        "return [...document.querySelectorAll('#environment ~ details tr:first-child td')]"
        ".map((cell) => getComputedStyle(cell, '::before').content)"
    )
    assert titles[:2] == ['"capability: "', '"driver: "']
    page.execute_script("document.querySelector('section.table td a').click()")
    until(lambda: len(find(page, "#case .strip text")) == 3)
    assert all(text.rect["height"] > 10 for text in find(page, "#case .strip text"))


def test_thousands_of_rows_are_one_page(opened: Open) -> None:
    records = [
        cell(f"p{provider}", 64 * n, 0.01 * n * (provider + 1), direction=direction)
        for direction in ("fwd", "bwd")
        for provider in range(10)
        for n in range(1, 151)
    ]
    page = opened(*records)
    assert len(find(page, "section.table tbody tr")) == 300
    page.find_element(By.CSS_SELECTOR, "input[value=floor]").click()
    assert body(page)[0][1] == "1.00 (100 %)"
