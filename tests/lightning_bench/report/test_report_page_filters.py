"""The filters of the page: what each suite offers, and what a choice there does elsewhere."""

from __future__ import annotations

from dataclasses import replace

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.support.page_in_chromium import STORY, Open, body, find, texts, until
from tests.support.trained_rows import trained


def test_machines_and_runs_can_be_chosen_where_there_are_several(opened: Open) -> None:
    assert find(opened(), "#machine, #run") == []
    others = [replace(r, machine_id="m2", device_name="A100", harness_commit="abc") for r in STORY]
    page = opened(*STORY, *others)
    assert len(find(page, "section.table:not([hidden])")) == 4
    Select(page.find_element(By.ID, "machine")).select_by_value("m2")
    until(lambda: len(find(page, "section.table:not([hidden])")) == 2)
    assert "A100" in texts(page, "section.table:not([hidden]) .under")[0]
    assert "machine=m2" in page.current_url


def test_figures_of_other_runs_are_left_out(opened: Open) -> None:
    rows = [replace(r, harness_commit="abc" if r.provider == "ours" else "def") for r in STORY]
    page = opened(*rows)
    Select(page.find_element(By.ID, "run")).select_by_value("abc")
    until(lambda: body(page)[0] == ["512", "0.3000", ""])
    assert "flash2" not in texts(page, "#story-speed-fwd .name")


def test_only_figures_and_providers_of_the_suite_are_offered(opened: Open) -> None:
    def offered() -> tuple[list[str], list[str]]:
        marked = find(page, "#metric input:checked")
        return list(filter(None, texts(page, "#metric label"))), [
            box.get_attribute("value") for box in marked
        ]

    page = opened(*STORY, *trained())
    times = ["ms", "speedup", "TFLOP/s", "× floor", "ns per token"]
    assert offered() == (times, ["ms"])
    page.find_element(By.CSS_SELECTOR, "input[value=floor]").click()
    tabs = {tab.text: tab for tab in find(page, "#suites [role=tab]")}
    tabs["table1"].click()
    assert offered() == (["tokens/s", "MFU, %", "MiB", "ms by phase", "mJ per token"], ["tgs"])
    page.find_element(By.CSS_SELECTOR, "#who summary").click()
    providers = set(filter(None, texts(page, "#who fieldset label")))
    assert providers == {"lightning1", "lightning2", "sdpa-cudnn"}
    plots = find(page, "section.table:not([hidden]) select option")
    plots = [plot.get_attribute("textContent") for plot in plots]
    assert "model tnl-1b, n = 1024" in plots  # nothing of what is blank, as recomputed is
    captions = texts(page, "section.table:not([hidden]) caption")
    assert captions
    assert not [caption for caption in captions if "in these rows" in caption]
    page.find_element(By.ID, "words").send_keys("training")  # another tool leaves the figure as it is
    assert "kind=floor" in page.current_url
    page.find_element(By.ID, "words").clear()
    tabs["story"].click()
    assert offered() == (times, ["floor"])
    page.find_element(By.ID, "reset").click()
    until(lambda: offered() == (times, ["ms"]))


def test_a_provider_is_hidden_in_its_suite_and_in_no_other(opened: Open) -> None:
    page = opened(*STORY, *(replace(r, suite="sequel") for r in STORY))
    tabs = {tab.text: tab for tab in find(page, "#suites [role=tab]")}

    def shown(suite: str) -> list[list[str]]:
        tabs[suite].click()
        return body(page, 0 if suite == "story" else 2)

    page.find_element(By.CSS_SELECTOR, "#who summary").click()
    page.find_element(By.CSS_SELECTOR, "input[value=flash2]").click()
    assert shown("story")[0] == ["512", "0.3000"]
    assert texts(page, "#said") == ["2 of 2 tables shown, 1 provider hidden."]
    assert "hide=flash2" in page.current_url
    assert shown("sequel")[0] == ["512", "0.3000", "0.1000"]
    assert page.find_element(By.CSS_SELECTOR, "input[value=flash2]").is_selected()
    assert texts(page, "#said") == ["2 of 2 tables shown."]
    assert "hide" not in page.current_url
    assert shown("story")[0] == ["512", "0.3000"]  # the choice of this suite is kept
    page.find_element(By.ID, "least").send_keys("1000")
    assert texts(page, "#said") == ["2 of 2 tables shown, 1 provider hidden, n from 1000."]
    page.find_element(By.ID, "reset").click()
    until(lambda: shown("story")[0] == ["512", "0.3000", "0.1000"])


def test_only_runs_of_the_suite_are_offered(opened: Open) -> None:
    first = [replace(r, harness_commit="abc" if r.provider == "ours" else "def") for r in STORY]
    second = [replace(r, suite="sequel", harness_commit=f"run{r.seq_len}") for r in STORY]
    third = [replace(r, suite="epilogue", harness_commit="abc") for r in STORY]
    page = opened(*first, *second, *third)
    tabs = {tab.text: tab for tab in find(page, "#suites [role=tab]")}

    def offered() -> list[str]:
        options = find(page, "#run option:not([hidden])")
        return [option.get_attribute("value") for option in options if option.is_displayed()]

    assert offered() == ["", "abc", "def"]
    Select(page.find_element(By.ID, "run")).select_by_value("def")
    until(lambda: body(page)[0] == ["512", "", "0.1000"])
    tabs["sequel"].click()
    assert offered() == ["", "run512", "run1024", "run2048"]
    assert body(page, 2)[0] == ["512", "0.3000", "0.1000"]  # not blank for want of that run
    assert "run=" not in page.current_url
    tabs["epilogue"].click()
    assert offered() == []


def test_a_link_to_a_suite_that_the_page_does_not_have_shows_its_first(opened: Open) -> None:
    page = opened(*STORY, *(replace(r, suite="sequel") for r in STORY))
    page.get(page.current_url + "#suite=renamed")
    page.refresh()
    assert texts(page, "#suites [aria-selected=true]") == ["story"]
    assert texts(page, "#said") == ["2 of 2 tables shown."]


def test_keys_go_from_suite_to_suite(opened: Open) -> None:
    page = opened(*(replace(r, suite=suite) for suite in ("story", "sequel", "epilogue") for r in STORY))

    def press(key: str) -> list[str]:
        page.switch_to.active_element.send_keys(key)
        return texts(page, "#suites [aria-selected=true]")

    page.execute_script("document.querySelector('#suites [aria-selected=true]').focus()")
    assert press(Keys.ARROW_RIGHT) == ["sequel"]
    assert press(Keys.END) == ["All suites"]
    assert press(Keys.ARROW_RIGHT) == ["story"]
    assert press(Keys.ARROW_LEFT) == ["All suites"]
    assert press(Keys.HOME) == ["story"]
