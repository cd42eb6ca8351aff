"""docs/kernels.md says what the code says: the table of tiles, the barriers, and the files that it names."""

import re

from lightning_kernels.lightning2.cuts import WINDOW, WINDOW_BLOCKS
from scripts import tiles_table
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")


def test_the_table_of_tiles_is_up_to_date():
    assert tiles_table.page(PAGE) == PAGE, "run python scripts/tiles_table.py --write"


def test_barriers_are_initialised_with_the_counts_of_the_table():
    source = (ROOT / "kernels/lightning_kernels/lightning2/hopper/kernel.py").read_text(encoding="utf-8")
    counts = dict(re.findall(r"mbarrier\.init\((\w+)\.index\(\w+\), count=(.*)\)", source))
    stated = dict(re.findall(r"^\| `(\w+)` \|.*\| `count=(.*?)` \|", PAGE, re.MULTILINE))
    assert stated == counts


def test_the_window_is_that_of_the_code():
    assert f"⌈{WINDOW} / s⌉" in PAGE
    assert f"{WINDOW_BLOCKS} blocks" in PAGE


def test_files_that_the_page_names_are_there():
    named = set(re.findall(r"`((?:kernels|tests|scripts)/[\w/.*]+)`", PAGE))
    assert named
    assert [path for path in sorted(named) if not list(ROOT.glob(path))] == []
