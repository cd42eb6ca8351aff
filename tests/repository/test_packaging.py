"""What pyproject.toml promises of versions is what the files of constraints hold."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.support.paths import ROOT

BOUNDS = dict(
    re.fullmatch(r"([\w-]+)>=([\d.]+)", text.split(";")[0].strip()).groups()  # type: ignore[union-attr]
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
)


def pinned(name: str) -> dict[str, str]:
    """Versions of a file of constraints by package."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split("."))


@pytest.mark.parametrize("package", BOUNDS)
def test_the_oldest_versions_are_those_that_are_promised(package: str) -> None:
    bound, lowest = release(BOUNDS[package]), release(pinned("constraints-lowest.txt")[package])
    assert lowest[: len(bound)] == bound
    assert release(pinned("constraints.txt")[package]) >= bound


def test_nothing_else_is_held_back() -> None:
    assert set(pinned("constraints-lowest.txt")) == set(BOUNDS)
