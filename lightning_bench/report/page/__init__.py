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
from lightning_bench.report.page.masthead import masthead, sentences
from lightning_bench.report.page.page_data import (
    AXIS_NAMES,
    KIND_LABELS,
    axis_texts,
    machines,
    page_data,
    providers,
    sources,
)
from lightning_bench.report.page.plot_choices import hero
from lightning_bench.report.page.summary import crossings, standings
from lightning_bench.report.page.views import views_of

if TYPE_CHECKING:
    from lightning_bench.record import Record, Row
    from lightning_bench.report.published.prose import Finding
    from lightning_bench.report.tables.grid import Grid

_HERE = Path(__file__).parent
_SCRIPTS = (
    "base.js",
    "address.js",
    "tables.js",
    "marks.js",
    "chart.js",
    "bars.js",
    "plots.js",
    "exports.js",
    "cases.js",
    "filters.js",
    "main.js",
)
_SENTENCES = 10


def page(
    grids: Sequence[Grid],
    *,
    heading: str,
    remarks: Sequence[str],
    rows: Sequence[Row] = (),
    findings: Sequence[Finding] = (),
) -> str:
    """Return the document. `rows` are what its summary is of; text of a CSV is escaped, in the data too.

    The same rows give the same bytes: no date of today is in them. Samples are read beside the CSVs.
    """
    views, shown = views_of(grids)
    samples, unread = samples_of(rows_in(shown))
    script = "(() => {\n'use strict';\n" + "\n".join(_read(name) for name in _SCRIPTS) + "})();\n"
    style = _read("page.css")
    switched = {kind for view in views if len(view.kinds) > 1 for kind in view.kinds}
    leaders, crossed = standings(rows), crossings(rows)
    top = hero(views)
    remarks = [*remarks, *(f"Left out: {sentence}." for sentence in unread)]
    suite = top[0].suite if top else ""
    told = sentences(leaders, crossed, f"{suite}, protocol lbench", most=max(0, _SENTENCES - len(remarks)))
    suites = list(dict.fromkeys(view.suite for view in views))
    records = [record for view in views for record in view.records]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            about=masthead(records, heading, compared=not rows),
            remarks=remarks,
            sentences=told,
            hero=top,
            findings=findings,
            standings=[list(members) for _, members in groupby(leaders, lambda standing: standing.sweep)],
            crossings=crossed,
            suites=[(suite, [view for view in views if view.suite == suite]) for suite in suites],
            first_suite=suite or (suites[0] if suites else ""),
            axis_names=AXIS_NAMES,
            axis_texts=axis_texts,
            kinds=[(kind, label) for kind, label in KIND_LABELS.items() if kind in switched],
            providers=list(dict.fromkeys(c.provider for view in views for c in view.columns)),
            machines=_named(
                [view.records[0] for view in views if "against" not in view.kinds],
                "machine_id",
                "device_name",
            ),
            runs=_named(records, "harness_commit", "harness_version"),
            listings=[
                ("Machines and versions", *machines(shown)),
                ("Providers", *providers(shown)),
                ("Files", *sources(shown, samples)),
            ],
            data=page_data(views, shown, samples),
            script=Markup(script),
            style=Markup(style),
            policy=(
                f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'"
            ),
        )
    )


def _named(records: Sequence[Record], column: str, more: str) -> list[tuple[str, str]]:
    """Return the values of a column that rows differ in, with what to call each."""
    found = {getattr(r, column): getattr(r, more) for r in records if getattr(r, column)}
    return [(value, f"{value} ({text})" if text else value) for value, text in found.items()]


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
