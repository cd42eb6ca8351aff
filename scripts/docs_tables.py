"""The tables of docs/ and results/ that code and CSVs determine: written between marks, never typed.

    python -m scripts.docs_tables             # says which tables are not what the code and the CSVs say
    python -m scripts.docs_tables --write     # writes them

A table begins with `<!-- NAME: made by scripts/docs_tables.py -->` and ends with `<!-- end of NAME -->`.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

from lightning_bench.record import Record, read_records
from lightning_bench.record.row import COLUMNS
from scripts import committed_table, context_table, measured_tables, systems_table, two_gpu_tables

ROOT = Path(__file__).parents[1]
SUITES = ROOT / "suites"
DECODE = ROOT / "results" / "h200" / "decode-bandwidth.csv"


def columns_table() -> str:
    """Return a line for each column of a result file, in its order, with type and meaning."""
    hints = get_type_hints(Record)
    lines = (
        (f"`{field.name}`", _type_in_words(hints[field.name]), COLUMNS[field.name])
        for field in fields(Record)
    )
    return _markdown(("column", "type", "meaning"), lines)


def suites_table() -> str:
    """Return a line for each bundled suite: its title, cases, duration and needs, as its file says."""
    return _markdown(
        ("suite", "what it measures", "cases", "takes"), map(_suite, sorted(SUITES.glob("*.toml")))
    )


def decode_table() -> str:
    """Return a line for each shape of results/h200/decode-bandwidth.csv."""
    head = ("batch", "heads", "head_dim", "step, ms", "GB/s", "× bandwidth of a copy of as many bytes")
    with DECODE.open(newline="") as file:
        lines = [
            (
                row["batch"],
                row["heads"],
                row["head_dim"],
                f"{float(row['step_median_ms']):.4f}",
                f"{float(row['step_gbps']):.0f}",
                f"{float(row['ratio_to_copy_same']):.2f}",
            )
            for row in csv.DictReader(file)
        ]
    return _markdown(head, lines)


def _made_of(head: Sequence[str], lines: Callable[[], Iterable[Sequence[str]]]) -> Callable[[], str]:
    """Return what makes a table of lines that are read when it is asked for."""
    return lambda: _markdown(head, lines())


_OF_LINES: dict[str, tuple[str, Sequence[str], Callable[[], Iterable[Sequence[str]]]]] = {
    "sweeps": ("scale", measured_tables.SWEEPS_HEAD, measured_tables.sweep_lines),
    "context": ("scale", context_table.HEAD, context_table.lines),
    "again": ("scale", two_gpu_tables.AGAIN_HEAD, two_gpu_tables.again_lines),
    "context-measured": ("scale", two_gpu_tables.CONTEXT_HEAD, two_gpu_tables.context_lines),
    "overlap": ("scale", two_gpu_tables.OVERLAP_HEAD, two_gpu_tables.overlap_lines),
    "shared": ("train", two_gpu_tables.SHARED_HEAD, two_gpu_tables.shared_lines),
    "serving": ("serving-measured", measured_tables.SERVING_HEAD, measured_tables.serving_lines),
    "rivals": ("serving-measured", measured_tables.RIVALS_HEAD, measured_tables.rival_lines),
    "host": ("library", measured_tables.HOST_HEAD, measured_tables.host_lines),
    "training": ("train", measured_tables.TRAINING_HEAD, measured_tables.training_lines),
    "generation": ("generate", measured_tables.GENERATION_HEAD, measured_tables.generation_lines),
    "energy": ("energy", measured_tables.ENERGY_HEAD, measured_tables.energy_lines),
}
"""Page of docs/, head and lines of tables that are made of both."""

TABLES: dict[str, tuple[Path, Callable[[], str]]] = {
    "columns": (ROOT / "docs" / "columns.md", columns_table),
    "suites": (ROOT / "docs" / "suites.md", suites_table),
    "decode": (ROOT / "docs" / "serving-measured.md", decode_table),
    "systems": (
        ROOT / "docs" / "systems.md",
        lambda: systems_table.table(read_records(systems_table.RESULTS)),
    ),
    **{
        f"{folder}-files": (
            ROOT / "results" / folder / "README.md",
            _made_of(committed_table.HEAD, partial(committed_table.lines, folder)),
        )
        for folder in ("h200", "h200-x2", "cpu")
    },
    **{
        name: (ROOT / "docs" / f"{page}.md", _made_of(head, lines))
        for name, (page, head, lines) in _OF_LINES.items()
    },
}


def replaced(text: str, name: str, table: str) -> str:
    """Return `text` with `table` between the marks of `name`; ValueError unless each mark occurs once."""
    begin, end = f"<!-- {name}: made by scripts/docs_tables.py -->\n", f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the table {name!r} needs each mark exactly once: {begin.strip()} and {end}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{table}{end}{rest.partition(end)[2]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare every table, write those that differ if asked to, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the tables into the pages")
    options = parser.parse_args(arguments)
    stale = []
    for name, (path, table) in TABLES.items():
        text = path.read_text()
        if (wanted := replaced(text, name, table())) != text:
            stale.append(f"{path.relative_to(ROOT)}: {name}")
            if options.write:
                path.write_text(wanted)
    print("\n".join(stale) or "every table is what the code and the result files say")
    return int(bool(stale) and not options.write)


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = "|" + "---|" * len(head)
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(line)} |" for line in lines), ""])


def _type_in_words(hint: object) -> str:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    if get_origin(hint) is Literal or kinds == [str]:
        return "text"
    return {int: "integer", float: "number"}[kinds[0]]  # type: ignore[index]


def _suite(path: Path) -> tuple[str, ...]:
    text = path.read_text()
    comment = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    found = re.search(r"Cases: (\d+).*?Takes: (.*?)(?:: | Needs:|$)", comment)
    if found is None:
        raise ValueError(f"{path}: the comment at its top has no `# Cases:` followed by `# Takes:`")
    title = str(tomllib.loads(text)["title"])
    link = f"[`{path.stem}`](../suites/{path.name})"
    return link, title, found[1], found[2].split(",")[0].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
