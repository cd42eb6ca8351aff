"""Fixtures of the tests of measuring: one session on this CPU, and jobs measured in it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_bench.measure.session import Session
from tests.support.forked_ranks import fork_ranks
from tests.support.measure_jobs import Measure, measure_in


@pytest.fixture(scope="module", autouse=True)
def young() -> None:
    """Keep collections of garbage after jobs short: skip the objects of modules imported so far."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def session() -> Session:
    return Session("cpu")


@pytest.fixture
def measure(tmp_path: Path, session: Session) -> Measure:
    """Measure providers of the zoo by their names."""
    return measure_in(tmp_path, session)


@pytest.fixture
def forked_ranks() -> Iterator[None]:
    """Fork the ranks that this process starts."""
    undo = fork_ranks()
    yield
    undo()
