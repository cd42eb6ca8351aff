"""A report: which tables the command line asked for, and the text of each format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning_bench.errors import UsageError
from lightning_bench.providers.nicknames import plain_name
from lightning_bench.record import Row
from lightning_bench.report.collect import Collected, collect, published_folder
from lightning_bench.report.formats.export import table_csv
from lightning_bench.report.formats.latex import latex
from lightning_bench.report.formats.markdown import findings_markdown, markdown
from lightning_bench.report.newest import newest
from lightning_bench.report.tables.grid import Grid, grids
from lightning_bench.report.tables.groups import group
from lightning_bench.report.tables.kinds import FIGURE_KINDS, TableKind, chosen_kinds, page_kinds
from lightning_bench.words import choice, counted

if TYPE_CHECKING:
    from lightning_bench.report.published.prose import Finding

FormatName = Literal["md", "tex", "html", "csv"]

_BOLD = "Bold: the best of its family in a row."
_STAR = "*: unstable, the figure is not to be relied on."
_LEGEND = f"{_BOLD} {_STAR}"


@dataclass(frozen=True)
class Report:
    """Tables with what is above them; `messages` are for the user and not part of it.

    `remarks` are what a document says first; `spoken` are those of a terminal.
    """

    heading: str
    remarks: list[str]
    grids: list[Grid]
    messages: list[str]
    rows: list[Row]
    """The rows of the tables, for plots and the page's summary; none in a comparison."""
    page_grids: Callable[[], list[Grid]]
    """Makes the page's tables: those of `grids` and every kind that they can be switched to."""
    findings: list[Finding] = field(default_factory=list)
    """What the published tables measured; only in a comparison."""

    def spoken(self, *, has_bold: bool) -> list[str]:
        """Return the remarks without a legend of what the tables lack, or the terminal cannot show."""
        cells = [cell for grid in self.grids for line in grid.cells for cell in line]
        legend = [_BOLD] if has_bold and any(cell.best for cell in cells) else []
        legend += [_STAR] if any(cell.text.endswith("*") for cell in cells) else []
        signs = filter(None, [" ".join(legend)])
        return [*(remark for remark in self.remarks if remark not in (_LEGEND, _STAR)), *signs]


FORMATS: dict[FormatName, Callable[[Report], str]] = {
    "md": lambda report: markdown(report.grids, heading=report.heading, remarks=report.remarks),
    "tex": lambda report: latex(report.grids, heading=report.heading, remarks=report.remarks),
    "html": lambda report: _page(report),
    "csv": lambda report: table_csv(report.grids),
}
"""The text of each format's file: see `files_of`."""

FINDINGS_NAME = "what-they-measured.md"


def files_of(report: Report, formats: Sequence[FormatName]) -> Iterator[tuple[str, str]]:
    """Yield names and texts of a report's files: tables.FORMAT, index.html, the findings beside tables.md."""
    for name in formats:
        yield "index.html" if name == "html" else f"tables.{name}", FORMATS[name](report)
    if report.findings and "md" in formats:
        yield FINDINGS_NAME, findings_markdown(report.findings)


def make_report(
    paths: Sequence[str | Path],
    *,
    metrics: Sequence[str] = (),
    providers: Sequence[str] = (),
    baseline: str | None = None,
    mix: bool = False,
    newest_of: str | None = None,
) -> Report:
    """Return the tables of these files and folders, of all `providers` if none is named.

    Raises UsageError if no row has what they show, and for a provider without rows.
    With a host in `newest_of`, only the run that ended last on it is shown and, unless `metrics` asks for
    more, only its figure.
    """
    kinds = chosen_kinds(metrics)
    collected = collect(paths)
    rows, messages = _of_providers(_of_metrics(collected, kinds), providers), collected.skipped
    if newest_of is not None:
        shown = newest(rows, newest_of)
        rows, messages = shown.rows, [*messages, *shown.messages]
        kinds = kinds or (FIGURE_KINDS[rows[0].record.metric],)
    if baseline is not None:
        _check_baseline(rows, baseline)
    groups = group(rows, mix=mix)
    tables = grids(groups, kinds, baseline)
    if not tables:
        raise UsageError(
            "none of the tables asked for has a figure in these rows; leave out --metric to see all"
            if metrics
            else _without_figures(rows)
        )

    def page_grids() -> list[Grid]:
        return [grid for each in groups for grid in grids([each], page_kinds(each.rows[0].record), baseline)]

    replaced = collected.replaced if newest_of is None else []
    remarks = [*_remarks(rows), *replaced, _LEGEND]
    return Report("Results", remarks, tables, messages, rows, page_grids)


_OF_MODELS = " (Those of whole models, which no kernel can be held against: lbench report results/published.)"


def make_comparison(paths: Sequence[str | Path], *, metrics: Sequence[str] = ()) -> Report:
    """Return the published tables, each cell beside what these files and folders have for it."""
    from lightning_bench.report.published.against import against
    from lightning_bench.report.published.evidence import faults_in, main_machine
    from lightning_bench.report.published.findings import findings  # Jinja2: for a comparison and a page only
    from lightning_bench.report.published.training_table import training_tables

    published = collect([published_folder()]).rows
    collected = collect(paths)
    theirs = {row.record.machine_id for row in published}
    kinds = chosen_kinds(metrics)
    measured = [row for row in collected.rows if row.record.machine_id not in theirs]
    wanted = {kind.metric for kind in kinds} if kinds else {"speed", "memory", "train"}
    trained = training_tables(measured, published) if "train" in wanted else []
    measured = [row for row in measured if row.record.metric != "train"]
    if trained and not measured:  # of the tables of attention none is meant
        return _comparison_of_models(trained, collected)
    kept = [row for row in published if row.record.metric in wanted and row.record.heads]
    tables = [*against(measured, kept), *trained]
    if not tables:
        raise UsageError(
            "no published table is of that metric and measured here; allowed with --against: speed, memory, "
            "and train if these rows have a model of the published table"
        )
    remarks = [
        f"{len(kept)} published figures of attention, each beside what {counted(len(measured), 'row')} "
        f"measured here have for its cell.{'' if trained else _OF_MODELS}",
        _STAR,
    ]
    judged = main_machine(measured)
    if len(judged) < len(measured):
        remarks.append(
            "What the published tables measured is told from the rows of one machine, which has most: "
            f"{judged[0].record.device_name} {judged[0].record.machine_id}."
        )
    found = findings(published, judged, faults_in(paths))
    return Report(
        "Published and measured here",
        [*remarks, *collected.replaced],
        tables,
        collected.skipped,
        [],
        lambda: [each.upright for each in tables],
        found,
    )


def _comparison_of_models(tables: list[Grid], collected: Collected) -> Report:
    return Report(
        "Published and measured here",
        ["Training of whole models, each published figure beside those of the models here.", _STAR],
        tables,
        [*collected.skipped, *collected.replaced],
        [],
        lambda: [each.upright for each in tables],
    )


def _page(report: Report) -> str:
    from lightning_bench.report.page import page

    return page(
        report.page_grids(),
        heading=report.heading,
        remarks=report.remarks,
        rows=report.rows,
        findings=report.findings,
    )


def _of_metrics(collected: Collected, kinds: Sequence[TableKind] | None) -> list[Row]:
    if kinds is None:
        return collected.rows
    wanted = {kind.metric for kind in kinds}
    rows = [row for row in collected.rows if row.record.metric in wanted]
    if not rows:
        have = ", ".join(dict.fromkeys(row.record.metric for row in collected.rows))
        raise UsageError(f"no row here is of --metric {', '.join(sorted(wanted))}; the rows are of: {have}")
    return rows


def _without_figures(rows: Sequence[Row]) -> str:
    """Return that no row has a figure, and why not the first of each status."""
    counts = Counter(row.record.status for row in rows)
    reasons = {row.record.status: row.record.reason for row in reversed(rows)}
    whys = "; ".join(f"{count} {status}: {reasons[status]}" for status, count in counts.items())
    return f"none of {counted(len(rows), 'row')} has a figure ({whys})"


def _of_providers(rows: list[Row], providers: Sequence[str]) -> list[Row]:
    present = list(dict.fromkeys(row.record.provider for row in rows))
    if lacking := [name for name in providers if name not in present]:
        instead = choice(plain_name(lacking[0]), present)
        raise UsageError(f"--provider {lacking[0]!r} has no row here; {instead}")
    return [row for row in rows if not providers or row.record.provider in providers]


def _check_baseline(rows: Sequence[Row], baseline: str) -> None:
    names = list(dict.fromkeys(row.record.provider for row in rows if row.record.metric == "speed"))
    if baseline not in names:
        allowed = choice(plain_name(baseline), names) if names else "no row here is of speed"
        raise UsageError(f"--baseline {baseline!r} is in no row of speed here; {allowed}")


def _remarks(rows: Sequence[Row]) -> list[str]:
    statuses = Counter(row.record.status for row in rows)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    remarks = [f"{counted(len(rows), 'row')}: {counts}."]
    if not any(row.record.worked for row in rows):
        remarks.append("No row here has a figure: the notes under each table say why.")
    return remarks
