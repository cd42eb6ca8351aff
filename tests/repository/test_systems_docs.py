"""docs/systems.md and docs/own-kernel.md say what the definitions of the families and the CSV say."""

from __future__ import annotations

import re

import pytest

from lightning_bench.case import FAMILIES
from lightning_bench.families import QKV, definition_of
from lightning_bench.providers import BUILT_IN, get_provider
from lightning_bench.record import Record
from scripts import systems_table
from tests.support.paths import ROOT

DOCS = (ROOT / "docs" / "systems.md").read_text()
OWN_KERNEL = (ROOT / "docs" / "own-kernel.md").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_equation_and_paper_stands_there(family: str) -> None:
    one = definition_of(family)
    link = f"[{one.paper}](https://arxiv.org/abs/{one.paper})"
    line = f"| `{family}` | {one.equation} | {link} |"
    assert line in DOCS.splitlines(), f"add this line to the first table of docs/systems.md: {line}"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_input_stands_there(family: str) -> None:
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|([^|]*)\|[^|]*\|$", DOCS.split("## Inputs")[1], re.MULTILINE)
    named: dict[str, dict[str, str]] = {}
    current = ""
    for label, inputs, axes in rows:
        current = label.strip().strip("`") or current
        for name in inputs.split(","):
            named.setdefault(current, {})[name.strip().removeprefix("slopes ")] = axes.strip()
    for name, spec in definition_of(family).inputs.items():
        if name in QKV:
            continue
        text = named.get(family, {}).get(name)
        wanted = f"{' '.join(spec.axes)}, {spec.dtype or 'case'}"
        assert text in (wanted, ""), f"docs/systems.md, Inputs: {family} needs a row `{name} | {wanted}`"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_arguments_of_a_function_stand_there(family: str) -> None:
    line = f"| `{family}` | {', '.join(definition_of(family).arguments)} |"
    assert line in OWN_KERNEL.splitlines(), f"add this line to the table of docs/own-kernel.md: {line}"


def test_every_provider_of_a_system_stands_there() -> None:
    plain = {"linear_decay", "linear", "softmax"}
    for name in BUILT_IN:
        if get_provider(name).family not in plain and not name.endswith("-torch"):
            named = f"`{name}`" in DOCS
            assert named, f"name provider {name} in the table Providers of docs/systems.md"


def test_the_table_names_every_provider_of_the_suite() -> None:
    from lightning_bench.suite import Overrides, expand, load_suite

    listed = {name for names in systems_table.SYSTEMS.values() for name in names}
    missing = {case.provider for case in expand(load_suite("systems"), Overrides(), "cuda")} - listed
    assert not missing, f"add {sorted(missing)} to SYSTEMS in scripts/systems_table.py"
    shapes = {(c.shape.batch, c.shape.seq_len) for c in expand(load_suite("systems"), Overrides(), "cuda")}
    assert shapes == set(systems_table.SHAPES)


def record(**changes: object) -> Record:
    given: dict[str, object] = {
        "metric": "speed",
        "protocol": "lbench",
        "status": "ok",
        "case_id": "fla-kda-chunk/bwd/b8-h16-n2048-d64-e64-bf16-cuda",
        "provider": "fla-kda-chunk",
        "family": "kda",
        "direction": "bwd",
        "dtype": "bf16",
        "batch": 8,
        "heads": 16,
        "seq_len": 2048,
        "head_dim": 64,
        "value_dim": 64,
        "device": "cuda",
        "median_ms": 1.0,
        "floor_ratio": 2.04,
    }
    return Record(**(given | changes))  # type: ignore[arg-type]


def test_cells_are_time_per_token_and_floor_or_the_status() -> None:
    line = "| KDA | `fla-kda-chunk` | cuda | – | 61 ns, 2.0× | – | – |"
    assert line in systems_table.table([record()])
    assert systems_table.cell(record(status="unstable")) == "61 ns, 2.0×*"
    assert systems_table.cell(record(status="wrong", median_ms=None)) == "wrong"
    assert systems_table.cell(None) == "–"
    assert "2.0×" not in systems_table.table([record(protocol="paper")])
