"""Sides that were not measured on one device, or not in one run: a remark, whatever the verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CASE = "lightning2/fwd/b1"


@pytest.mark.parametrize("other", ["g1", "g2", ""])
def test_another_gpu_is_remarked(sides: Any, lbench: Callable[..., Any], tmp_path: Path, other: str) -> None:
    base = sides.write(tmp_path / "base.csv", {CASE: 1.0}, passes=4, gpu_uuid="g1", host="h1")
    head = sides.write(tmp_path / "head.csv", {CASE: 1.0}, passes=4, gpu_uuid=other, host="h2", seed=1)
    remarks = json.loads(lbench("compare", base, head, "--json").out)["remarks"]
    text = "not all rows are of one device: gpu_uuid differs: g1 (base), g2 (head)"
    assert (text in remarks) == (other == "g2")
    assert not any("host differs" in remark for remark in remarks)


def test_two_providers_of_two_runs_are_remarked(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path
) -> None:
    """An edited kernel is measured again, and what it is compared with is not: they did not take turns."""
    path, other = tmp_path / "both.csv", "flash2/fwd/b1"
    options = ("--provider", "lightning2", "--against", "flash2", "--json")
    said = "1 case measured in two runs, one for each provider, and not in turns: "
    sides.write(path, {CASE: 1.0, other: 2.0}, run_utc="first")
    assert said not in lbench("compare", path, *options).out
    sides.write(path, {CASE: 1.0}, run_utc="second", provider_version="0.1.0+bbbb")
    assert said in lbench("compare", path, *options).out
    sides.write(path, {other: 2.0}, run_utc="second")
    assert said not in lbench("compare", path, *options).out
