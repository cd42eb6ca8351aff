"""Fixtures of the harness's tests: a workspace, the command line in this process, pages in Chromium.

Without a GPU the kernels of all tests run in Triton's interpreter.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Triton reads it when a kernel is defined, so it precedes every import of one, whichever tests are run.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tests.support.forked_workers import fork_workers
from tests.support.page_in_chromium import chromium, opened, screen  # noqa: F401 (fixtures)
from tests.support.workspace import NOT_INHERITED, Ran, Workspace, is_gone, until

# Where the test extra is not installed, on a borrowed GPU say, the other tests still run; in CI it must be.
_NEEDING = {
    "selenium": [
        "lightning_bench/report/test_report_browser.py",
        "lightning_bench/report/test_report_page_filters.py",
        "lightning_bench/report/test_report_page_plots.py",
        "lightning_bench/report/test_report_page_use.py",
        "lightning_bench/report/test_report_readers.py",
        "repository/test_house.py",
    ],
    "nbclient": ["repository/test_notebook.py"],
}
collect_ignore = [
    file
    for package, files in _NEEDING.items()
    if not (os.environ.get("CI") or find_spec(package))
    for file in files
]

# How long an example takes depends on what else runs here.
settings.register_profile("lbench", deadline=None)
settings.load_profile("lbench")

# Collections of garbage took a tenth of the time of interpreted kernels.
gc.set_threshold(100_000, 20, 50)

# How busy the machine is decides no test: those of foreign load read it again.
os.environ["LBENCH_LOAD"] = "ignore"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that started the tests in the background had them ignore Ctrl-C, and their children would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that open a page, which `make fast` leaves out; files with slow tests come first.

    So the processes of xdist end together, on files that take no time.
    """
    for item in items:
        if {"chromium", "opened"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.browser)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collections, of which each measured case has several."""
    gc.freeze()


@pytest.fixture
def lbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run `lbench` with these arguments in this process, as its console script does, on pipes."""
    for name in NOT_INHERITED:
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str | Path) -> Ran:
        from lightning_bench.cli import main

        monkeypatch.setattr(sys, "argv", ["lbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One workspace for the tests of a module that tell one story."""
    return Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def new_workspace(tmp_path: Path) -> Workspace:
    """Return a workspace for one test."""
    return Workspace(tmp_path)


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """Fork the workers of a module's sweeps, which takes a twentieth of what it takes to spawn them."""
    undo = fork_workers()
    yield
    undo()


@pytest.fixture(scope="session")
def sides() -> ModuleType:
    """compare_sides.py: result files for `lbench compare`."""
    return import_module("tests.support.compare_sides")


@pytest.fixture(scope="session")
def wait_gone() -> Callable[[int], None]:
    """Return a function that waits until a process has ended."""
    return lambda pid: until(lambda: is_gone(pid), f"process {pid} lives on")
