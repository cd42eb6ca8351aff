"""The examples of docs/ run as they are, its links lead somewhere, its generated tables are current.

Examples for a GPU are interpreted where there is none.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import lightning_kernels
from lightning_bench.record import read_records
from scripts import docs_tables
from tests.support.documents import DOCS, anchors, block, links
from tests.support.forked_workers import FORKING_LBENCH, run_forked
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

OWN_KERNEL = (DOCS / "own-kernel.md").read_text()
SUITE = block((DOCS / "suites.md").read_text(), "toml", "[[group]]")
LIBRARY = (DOCS / "library.md").read_text()
SERVING = (DOCS / "serving.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", LIBRARY + SERVING, re.DOTALL)
EXAMPLES = [code for code in BLOCKS if "lightning_kernels" in code]
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "CONTRIBUTING.md"]


@pytest.mark.slow
def test_the_provider_and_the_suite_of_the_docs_run(tmp_path: Path) -> None:
    provider = block(OWN_KERNEL, "python", "class Mine")
    assert len([line for line in provider.splitlines() if line.strip()]) <= 10
    (tmp_path / "mine.py").write_text(provider)
    (tmp_path / "my.toml").write_text(SUITE)
    for extra, names in (
        (["--out", "suite.csv"], {"lightning2-torch", "sdpa-math"}),
        (["--out", "mine.csv", "--provider", "mine.py:Mine"], {"mine"}),
    ):
        done = run_forked("check", "my.toml", "--device", "cpu", *extra, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        records = read_records(tmp_path / extra[1])
        assert {r.provider for r in records} == names
        assert {r.status for r in records} == {"ok"}


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_the_entry_point_of_the_docs_is_found(tmp_path: Path) -> None:
    points = tomllib.loads(block(OWN_KERNEL, "toml", "entry-points"))["project"]["entry-points"]
    ((group, entries),) = points.items()
    ((name, target),) = entries.items()
    module, _, _ = target.partition(":")
    code = tmp_path / "site" / Path(*module.split(".")).with_suffix(".py")
    code.parent.mkdir(parents=True)
    code.write_text(block(OWN_KERNEL, "python", "class Mine"))
    info = tmp_path / "site" / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    (tmp_path / "my.toml").write_text(SUITE)
    done = subprocess.run(
        [*FORKING_LBENCH, "check", "my.toml", "--provider", name, "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    (csv,) = (tmp_path / "results" / "cpu").glob("*.csv")
    assert {(r.provider, r.status) for r in read_records(csv)} == {("mine", "ok")}


def test_the_library_examples_are_these() -> None:
    first_words = [re.findall(r"from lightning_kernels import (.*)", code) for code in EXAMPLES]
    named = {name for words in first_words for name in words[0].split(", ")}
    assert named >= {
        "lightning_attn2",
        "lightning_attn2_step",
        "lightning_attn2_torch",
        "lightning_attn2_serve",
        "ContextParallel",
    }
    assert len(EXAMPLES) == 9


RUN_EACH = """
import json, os, sys, traceback
import torch

torch.set_num_threads(1)
for number, (code, interpreted) in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if child == 0:
        if interpreted:
            from tests.support.quick_interpreter import quicken_interpreter

            os.environ["TRITON_INTERPRET"] = "1"
            quicken_interpreter()
        try:
            exec(compile(code, f"<example {number}>", "exec"), {"__name__": "__main__"})
            failure = ""
        except BaseException:
            failure = traceback.format_exc()
        with open(f"{number}.txt", "w") as file:
            file.write(failure)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run each example of the library in a process forked from one that has imported torch.

    The folder has a file NUMBER.txt for each that came to its end: a traceback, or nothing.
    """
    folder = tmp_path_factory.mktemp("examples")
    given = []
    for code in EXAMPLES:
        interpreted = "cuda" in code and not torch.cuda.is_available()
        if interpreted:  # the interpreter has no bf16
            code = code.replace('"cuda"', '"cpu"').replace("bfloat16", "float16")
        given.append((code + "assert o.isfinite().all()\n", interpreted))
    subprocess.run(
        [sys.executable, "-c", RUN_EACH],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        input=json.dumps(given),
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_library_runs(number: int, failures: Path) -> None:
    assert (failures / f"{number}.txt").read_text() == ""


def test_every_function_of_the_library_is_described() -> None:
    assert [name for name in lightning_kernels.__all__ if f"`{name}`" not in LIBRARY] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page.read_text()):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name} links {link}, which does not exist"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{page.name} links {link}: no such heading"


@pytest.mark.parametrize("name", docs_tables.TABLES)
def test_generated_tables_are_current(name: str) -> None:
    path, table = docs_tables.TABLES[name]
    text = path.read_text()
    assert docs_tables.replaced(text, name, table()) == text, "run `python -m scripts.docs_tables --write`"


def test_a_table_whose_marks_are_missing_is_an_error() -> None:
    with pytest.raises(ValueError, match="'columns' needs each mark exactly once"):
        docs_tables.replaced("<!-- columns: made by scripts/docs_tables.py -->\n", "columns", "")
