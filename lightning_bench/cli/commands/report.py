"""`lbench report`: result CSVs to tables, plots and a page; reads only CSVs and never imports torch."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.shared.common_options import Quiet, Results, known
from lightning_bench.errors import LbenchError, UsageError

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.report.document import FormatName, Report
    from lightning_bench.report.plots import PlotFormat


def report(
    results: Results = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for tables.md, tables.tex, tables.csv, index.html and plots/. Default: print text."
        ),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="md,tex,html,csv, and with --out plots: png,svg,pdf. Without --out one format, on stdout. "
            "Default with --out: md,tex,html,csv,png.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="speed, memory, check, or single tables: ms, speedup, tflops, gbps, floor, per_token, "
            "tokens. Default: all. A page can always be switched among all of a metric."
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="PROVIDER", help="What speedups are against. Default: flash2 if it has rows."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="published: the papers' tables, cell by cell, beside these rows.")
    ] = None,
    mix: Annotated[
        bool,
        typer.Option(
            "--mix", help="Let machines, protocols and suites share a table, with a note that they do."
        ),
    ] = False,
    show: Annotated[
        bool,
        typer.Option("--open", help="Open the page in the browser; without --out, from a temporary file."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make tables, plots and a page of results."""
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.report.document import FORMATS, make_comparison, make_report

    if show and out is None:
        if formats is not None:
            raise UsageError("--open shows only the page: leave out --format, or give --out")
        out, formats = Path(mkdtemp(prefix="lbench-")), "html"
    chosen, pictures = _formats(formats, out, plots=against is None)
    if show and "html" not in chosen:
        raise UsageError("--open shows the page: add html to --format")
    paths = results or [Path("results")]
    if against is None:
        document = make_report(paths, metrics=metric or (), baseline=baseline, mix=mix)
    else:
        known("--against", against, ("published",))
        if baseline is not None or mix:
            raise UsageError(
                "--baseline and --mix do not go with --against: its ratios are to what was published"
            )
        document = make_comparison(paths, metrics=metric or ())
    sink = Sink(quiet=quiet)
    for warning in document.messages:
        sink.say(f"left out: {warning}")
    if out is not None:
        for path in _write(document, out, chosen):
            sink.say(f"wrote {path}")
        if pictures:
            sink.say(
                f"wrote {len(_plot(document, out / 'plots', pictures, baseline))} plots in {out / 'plots'}"
            )
        if show:
            _open(out / "index.html", sink)
    elif chosen:
        sink.raw(FORMATS[chosen[0]](document))
    else:
        for remark in document.remarks:
            sink.say(remark)
        for grid in document.grids:
            sink.paper_table(grid)


def _formats(text: str | None, out: Path | None, *, plots: bool) -> tuple[list[FormatName], list[PlotFormat]]:
    """Return the formats of tables and of plots.

    UsageError for an unknown format, for more than stdout can take, and for plots where none are made.
    """
    from lightning_bench.report.document import FORMATS
    from lightning_bench.report.plots import PLOT_FORMATS

    if text is None:
        return (list(FORMATS), ["png"] if plots else []) if out is not None else ([], [])
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if wrong := [name for name in names if name not in (*FORMATS, *PLOT_FORMATS)]:
        raise UsageError(
            f"--format {wrong[0]!r} is not known; allowed: {', '.join([*FORMATS, *PLOT_FORMATS])}"
        )
    pictures = [name for name in PLOT_FORMATS if name in names]
    if out is None and pictures:
        raise UsageError(f"--format {pictures[0]} needs --out, a folder for the plots")
    if out is None and len(names) > 1:
        raise UsageError("stdout takes one --format; give --out for several")
    if pictures and not plots:
        raise UsageError(f"--against makes only tables: leave out --format {pictures[0]}")
    return [name for name in FORMATS if name in names], pictures


def _plot(document: Report, folder: Path, pictures: list[PlotFormat], baseline: str | None) -> list[Path]:
    """Write the plots; if machines or protocols differ, each pair of them has its own folder."""
    from lightning_bench.record.discover import file_name
    from lightning_bench.report.collect import frame_of, rows_by
    from lightning_bench.report.plots.plot_files import plot_set
    from lightning_bench.report.tables.grid import DEFAULT_BASELINE

    # heads 0: a whole model's figure, which has no shape to plot against
    shaped = frame_of(row for row in document.rows if row.record.heads)
    groups = rows_by(shaped, ["machine_id", "protocol"])
    written = []
    for (machine, by_protocol), rows in groups.items():
        wanted = baseline or DEFAULT_BASELINE
        against = wanted if any(row.record.provider == wanted for row in rows) else None
        try:
            own = folder / file_name(f"{machine}-{by_protocol}")
            written += plot_set(rows, pictures, folder if len(groups) == 1 else own, against)
        except OSError as error:
            raise LbenchError(f"cannot write to {folder}: {error.strerror}; give another --out") from error
    return written


def _open(path: Path, sink: Sink) -> None:
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        sink.say(f"no browser could be started: open {path} yourself")


def _write(document: Report, out: Path, chosen: list[FormatName]) -> list[Path]:
    from lightning_bench.report.document import files_of

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: give the name of a folder")
    written = []
    for name, text in files_of(document, chosen).items():
        path = out / name
        try:
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        except OSError as error:
            raise LbenchError(f"cannot write {path}: {error.strerror}; give another --out") from error
        written.append(path)
    return written
