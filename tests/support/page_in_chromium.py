"""Pages in headless Chromium for tests: rows, the page made of them, and what it shows."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.case import FAMILIES
from lightning_bench.families.work import Work
from lightning_bench.record import Record, ResultFile
from lightning_bench.report.document import FORMATS, make_report
from tests.support.patience import PATIENCE_S
from tests.support.report_rows import PAPER

Driver = Any
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BASE = replace(
    PAPER, suite="story", provider="ours", provider_version="1.0", device_name="NVIDIA H200", machine_id="m1"
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Driver]:
    """One browser for a module. In CI it must be there; elsewhere its tests are skipped without it."""
    webdriver = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        message = "chromium and chromedriver are not installed: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=service.Service(driver))
    yield browser
    browser.quit()


def cell(provider: str, seq_len: int, median_ms: float | None, **others: Any) -> Record:
    """Return a row with its interval, percentiles and rates; bytes take 0.01 ms at its ceiling."""
    direction = others.get("direction", "fwd")
    values: dict[str, Any] = {"case_id": f"{provider}/{direction}/n{seq_len}"}
    if median_ms is not None:
        values |= {"ci_low_ms": median_ms * 0.99, "ci_high_ms": median_ms * 1.01, "floor_ms": 0.01}
        values |= {"p20_ms": median_ms * 0.98, "p80_ms": median_ms * 1.02, "tflops": 1 / median_ms}
    row = replace(
        BASE, **{"provider": provider, "seq_len": seq_len, "median_ms": median_ms, **values, **others}
    )
    if median_ms is None or row.family not in FAMILIES:
        return row
    work = Work.of(row.family, row.shape, row.direction)
    ceilings = {"ceiling_gbps": work.min_bytes / 1e4, "ceiling_tflops": 1e6}
    return replace(row, model_flops=work.min_flops, **ceilings)


STORY = (
    cell("ours", 512, 0.3),
    cell("flash2", 512, 0.1, family="softmax"),
    cell("ours", 1024, 0.4),
    cell("flash2", 1024, 0.8, family="softmax"),
    cell("ours", 2048, 0.2, status="unstable", reason="the clock drifted"),
    cell("flash2", 2048, None, family="softmax", status="oom", reason="64 GiB too much"),
    cell("ours", 512, 1.0, direction="bwd"),
    cell("ours", 1024, 2.0, direction="bwd"),
)


def write_page(folder: Path, *records: Record) -> Path:
    csv = folder / "story.csv"
    with ResultFile(csv) as file:
        for record in records:
            if record.median_ms is not None:
                samples = [record.median_ms * (1 + 0.001 * (i % 7)) for i in range(20)]
                file.append_samples(record, {"samples_ms": samples, "clocks": [{"sm_clock_mhz": 1980.0}]})
            file.append(record)
    path = folder / "index.html"
    path.write_text(FORMATS["html"](make_report([csv])), encoding="utf-8")
    return path


Open = Callable[..., Driver]


@pytest.fixture
def opened(chromium: Driver, tmp_path: Path) -> Iterator[Open]:
    """Open a page of these records; afterwards the console must have no errors or warnings."""

    def open_it(*records: Record) -> Driver:
        chromium.get(write_page(tmp_path, *(records or STORY)).as_uri())
        assert chromium.execute_script("return document.documentElement.dataset.ready") == "yes"
        return chromium

    chromium.get_log("browser")
    yield open_it
    assert chromium.get_log("browser") == []
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    chromium.execute_script("localStorage.clear()")


@pytest.fixture
def screen(chromium: Driver) -> Iterator[Any]:
    """Set the size of the screen; afterwards it is as it was."""

    def set_it(width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    yield set_it
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def find(page: Driver, selector: str) -> list[Any]:
    return list(page.find_elements("css selector", selector))


def texts(page: Driver, selector: str) -> list[str]:
    return [element.text for element in find(page, selector)]


def body(page: Driver, at: int = 0) -> list[list[str]]:
    """Return the shown rows of a table, cell by cell."""
    shown = page.execute_script(
        """const shown = (elements) => [...elements].filter((e) => !e.closest('[hidden]'));
        const table = document.querySelectorAll('section.table table')[arguments[0]];
        const texts = (row) => shown(row.cells).map((cell) => cell.textContent);
        return shown(table.tBodies[0].rows).map(texts);""",
        at,
    )
    return list(shown)


def head(page: Driver, name: str, at: int = 0) -> Any:
    table = find(page, "section.table table")[at]
    buttons = table.find_elements("css selector", "thead button")
    return next(button for button in buttons if button.text.split()[0] == name)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
