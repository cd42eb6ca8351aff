"""docs/notebook.ipynb runs as it is committed, and shows what its text says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.forked_workers import FORKED
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def outputs(cell: Any) -> dict[str, str]:
    """Return what a cell shows, by kind; text that it prints is `stream`."""
    shown: dict[str, str] = {}
    for output in cell.outputs:
        if output.output_type == "stream":
            shown["stream"] = shown.get("stream", "") + output.text
        else:
            shown |= output.data
    return shown


def test_no_figures_are_committed() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.filterwarnings("default")  # of Jupyter's libraries, about each other
def test_it_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FORKED))  # it starts a worker in each of five cells
    NotebookClient(notebook, timeout=PATIENCE_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = {cell.source: outputs(cell) for cell in notebook.cells if cell.cell_type == "code"}

    def shown(text: str) -> dict[str, str]:
        (found,) = [output for source, output in code.items() if text in source]
        return found

    speed = shown("lb.speed(")
    assert "quick speed: 12 cases" in speed["stream"]
    assert speed["text/html"].count("<table>") == 2
    assert "attn (softmax)" in speed["text/html"]
    assert "image/png" in shown("result.plot(")
    assert "floor_ratio" in shown("result.df[")["text/html"]
    assert "attn/fwd/b1-h4-n64-d64-e64-fp32-" in shown("describe()")["text/html"]
    assert "attn against sdpa-math/fwd" in shown("lb.compare(")["text/html"]
    assert "wrong" in shown("lb.check(")["text/html"]
    assert "sdpa-math" in shown("lb.memory(")["text/html"]
    assert list(tmp_path.iterdir()) == []
