"""The report as one HTML file, with its script, style and data in it: nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lightning_bench.record.samples import samples_of
from lightning_bench.report.collect import rows_in
from lightning_bench.report.page.page_data import (
    KIND_LABELS,
    machines,
    page_data,
    providers,
    sections_of,
    sources,
)
from lightning_bench.report.page.summary import crossings, standings

if TYPE_CHECKING:
    from lightning_bench.record import Row
    from lightning_bench.report.published.prose import Finding
    from lightning_bench.report.tables.grid import Grid

_HERE = Path(__file__).parent
_SCRIPTS = ("base.js", "filters.js", "tables.js", "plots.js", "cases.js", "main.js")


def page(
    grids: Sequence[Grid],
    *,
    heading: str,
    remarks: Sequence[str],
    rows: Sequence[Row] = (),
    findings: Sequence[Finding] = (),
) -> str:
    """Return the document. `rows` are what its summary is of; text of a CSV is escaped, in the data too.

    The same rows give the same bytes: no date is in them. Samples are read beside the CSVs.
    """
    sections, shown = sections_of(grids)
    samples, unread = samples_of(rows_in(shown))
    script = "(() => {\n'use strict';\n" + "\n".join(_read(name) for name in _SCRIPTS) + "})();\n"
    style = _read("page.css")
    switched = {grid.kind for section in sections if len(section.grids) > 1 for grid in section.grids}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            heading=heading,
            remarks=[*remarks, *(f"Left out: {sentence}." for sentence in unread)],
            findings=findings,
            standings=[
                list(members) for _, members in groupby(standings(rows), lambda standing: standing.sweep)
            ],
            crossings=crossings(rows),
            sections=sections,
            kinds=[(kind, label) for kind, label in KIND_LABELS.items() if kind in switched],
            providers=list(dict.fromkeys(c.provider for grid in grids for c in grid.columns)),
            listings=[
                ("Machines and versions", *machines(shown)),
                ("Providers", *providers(shown)),
                ("Files", *sources(shown, samples)),
            ],
            data=page_data(sections, shown, samples),
            script=Markup(script),
            style=Markup(style),
            policy=(
                f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'"
            ),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Kinds, columns and samples stay in their order, and their text small; tojson escapes <, > and &.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    return environment


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression by which a content security policy lets this text run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
