"""`lbench report`: result CSVs to tables, plots and a page; reads only CSVs and never imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from lightning_bench.case import Metric
from lightning_bench.cli.shared.axis_options import split
from lightning_bench.cli.shared.common_options import Quiet, Results, known
from lightning_bench.cli.shared.completion import list_of, one_of, provider_names
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.words import counted

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.report.document import FormatName, Report
    from lightning_bench.report.plots import PlotFormat


def _all_formats() -> list[str]:
    from lightning_bench.report.document import FORMATS
    from lightning_bench.report.plots import PLOT_FORMATS

    return [*FORMATS, *PLOT_FORMATS]


def _metrics() -> list[str]:
    from lightning_bench.report.tables.kinds import KIND_NAMES

    return [*get_args(Metric), *KIND_NAMES]


def report(
    results: Results = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for tables.md, tables.tex, tables.csv, index.html and plots/. Default: print text.",
        ),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMATS",
            autocompletion=list_of(_all_formats),
            help="md,tex,html,csv, and with --out plots: png,svg,pdf. Without --out one format, on stdout. "
            "Default with --out: md,tex,html,csv,png.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            autocompletion=one_of(_metrics),
            help="speed, memory, check, train, generate, energy, or single tables: ms, speedup, tflops, "
            "gbps, floor, graph, per_token, tokens, tgs, mfu, peak, phases, train_energy, generated, "
            "prefill, decode, held, cache, generate_energy, call_energy, token_energy, power. Default: all. "
            "A page can always be switched among all of a metric.",
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            autocompletion=list_of(provider_names),
            help="Only these providers, with commas between them. Default: all.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="PROVIDER",
            autocompletion=one_of(provider_names),
            help="What speedups are against. Default: flash2 if it has rows.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="TABLES",
            autocompletion=one_of(("published",)),
            help="published: the papers' tables, cell by cell, beside these rows.",
        ),
    ] = None,
    mix: Annotated[
        bool,
        typer.Option(
            "--mix", help="Let machines, protocols and suites share a table, with a note that they do."
        ),
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every table of everything in results/, and not its newest run alone."),
    ] = False,
    show: Annotated[
        bool,
        typer.Option("--open", help="Open the page in the browser; without --out, from a temporary file."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make tables, plots and a page of results.

    Without arguments, print the newest run of this machine in results/. On a terminal long output goes
    through $PAGER, less if that is not set.
    """
    from lightning_bench.cli.shared.pager import paged
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine.identity import host_identity
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
        short = not (results or everything or out or chosen)
        document = make_report(
            paths,
            metrics=metric or (),
            providers=[name for name in split(provider) if name],
            baseline=baseline,
            mix=mix,
            newest_of=host_identity() if short else None,
        )
    else:
        known("--against", against, ("published",))
        if baseline is not None or mix or provider is not None:
            raise UsageError(
                "--baseline, --mix and --provider do not go with --against: its tables are the published ones"
            )
        document = make_comparison(paths, metrics=metric or ())
    sink = Sink(quiet=quiet)
    for message in document.messages:
        sink.say(message)
    if out is not None:
        _write(document, out, chosen, pictures, baseline, sink)
        if show:
            _open(out / "index.html", sink)
    elif chosen:
        sink.raw(FORMATS[chosen[0]](document))
    else:
        for remark in document.spoken(has_bold=sink.out.is_terminal):
            sink.say(remark)
        with paged(sink):
            for grid, after in zip_longest(document.grids, document.grids[1:]):
                sink.paper_table(grid, after)


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


def _write(
    document: Report,
    out: Path,
    chosen: list[FormatName],
    pictures: list[PlotFormat],
    baseline: str | None,
    sink: Sink,
) -> None:
    """Write tables and page while other processes draw the plots, and say how far both are."""
    from lightning_bench.report.document import files_of

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: give the name of a folder")
    try:
        drawn = _drawn(document, out / "plots", pictures, baseline, sink) if pictures else iter(())
        for name, text in files_of(document, chosen):
            out.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
            sink.say(f"wrote {out / name}")
        count = sum(len(files) for files in drawn)
    except OSError as error:
        raise LbenchError(f"cannot write to {out}: {error.strerror}; give another --out") from error
    if pictures:
        sink.say(f"wrote {counted(count, 'plot')} in {out / 'plots'}" if count else _why_no_plot(document))


def _why_no_plot(document: Report) -> str:
    from lightning_bench.report.plots.plot_files import why_no_plot

    return f"no plots: {why_no_plot(document.rows)}"


def _drawn(
    document: Report, folder: Path, pictures: list[PlotFormat], baseline: str | None, sink: Sink
) -> Iterator[list[Path]]:
    """Start to draw; if machines or protocols differ, each pair of them has its own folder."""
    from lightning_bench.record.discover import file_name
    from lightning_bench.report.collect import frame_of, rows_by
    from lightning_bench.report.plots.plot_files import draw, drawings_of
    from lightning_bench.report.tables.grid import DEFAULT_BASELINE

    # heads 0: a whole model's figure, which has no shape to plot against
    shaped = frame_of(row for row in document.rows if row.record.heads)
    groups = rows_by(shaped, ["machine_id", "protocol"])
    wanted = baseline or DEFAULT_BASELINE
    drawings = []
    for (machine, by_protocol), rows in groups.items():
        against = wanted if any(row.record.provider == wanted for row in rows) else None
        own = folder / file_name(f"{machine}-{by_protocol}")
        drawings += drawings_of(rows, folder if len(groups) == 1 else own, against)
    if drawings:
        sink.say(f"drawing up to {counted(len(drawings), 'plot')}")
    return sink.tracked(draw(drawings, pictures), len(drawings), "plots")


def _open(path: Path, sink: Sink) -> None:
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        sink.say(f"no browser could be started: open {path} yourself")
