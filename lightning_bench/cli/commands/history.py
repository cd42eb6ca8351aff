"""`lbench history`: one cell's figure over commits or days, change points marked. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from lightning_bench.case import ProtocolName
from lightning_bench.cli.shared.common_options import Output, Results, known, parse_share
from lightning_bench.cli.shared.completion import case_ids, machine_ids, one_of
from lightning_bench.cli.shared.option_groups import grouped
from lightning_bench.errors import UsageError
from lightning_bench.words import counted


def _figures() -> tuple[str, ...]:
    from lightning_bench.history.series import FIGURES

    return FIGURES


@grouped
def history(
    *,
    results: Results = None,
    case: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN", autocompletion=one_of(case_ids), help="A case_id, or a pattern that fits one."
        ),
    ] = None,
    figure: Annotated[
        str, typer.Option(metavar="COLUMN", autocompletion=one_of(_figures), help="The column to follow.")
    ] = "median_ms",
    by: Annotated[
        str,
        typer.Option(
            metavar="UNIT",
            autocompletion=one_of(("commit", "day", "run")),
            help="commit: one point per commit and version; day; run: one point per row.",
        ),
    ] = "commit",
    machine: Annotated[
        str | None,
        typer.Option(metavar="MACHINE_ID", autocompletion=one_of(machine_ids), help="Where it ran."),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="PROTOCOL",
            autocompletion=one_of(get_args(ProtocolName)),
            help="lbench or paper, whose figures do not mix in one history.",
        ),
    ] = "lbench",
    committed: Annotated[
        bool,
        typer.Option("--committed", help="Also the rows that earlier git commits have of these CSVs."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it: .png, .svg or .pdf.")
    ] = None,
    least: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="The smallest change of level that counts, as 2%. Default: twice the noise that was "
            "calibrated, else assumed.",
        ),
    ] = None,
    output: Output,
) -> None:
    """Show how a figure changed from commit to commit."""
    from dataclasses import asdict

    from lightning_bench.comparison.noise import Noises, find_calibrations, read_calibration
    from lightning_bench.history import series as figures
    from lightning_bench.history.changes import FEWEST
    from lightning_bench.history.committed import is_shallow

    unit: figures.By = known("--by", by, get_args(figures.By))
    known("--protocol", protocol, get_args(ProtocolName))
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {plot} does not end with .png, .svg or .pdf")
    smallest = None if least is None else parse_share("--least", least)
    paths = results or [Path("results")]
    rows = figures.read_history(paths, committed=committed)
    rows = rows[rows["protocol"] == protocol]
    chosen = figures.choose_case(rows, figure, case, machine)
    noises = Noises(row for file in find_calibrations(paths) for row in read_calibration(file))
    series = figures.trace_figure(rows, chosen, figure, unit, smallest, noises)
    sink = output.sink()
    if committed and is_shallow(paths):
        sink.say("this clone lacks earlier commits: `git fetch --unshallow` brings them")
    if sink.as_json:
        sink.data(asdict(series))
    else:
        sink.grid(
            [by, figure, "range", "rows", "change", "version"],
            [
                [
                    point.label,
                    f"{point.figure:.4g}",
                    f"{point.low:.4g} … {point.high:.4g}",
                    str(point.rows),
                    "" if point.change is None else f"{100 * (point.change - 1):+.1f} %",
                    point.version,
                ]
                for point in series.points
            ],
            title=f"{series.case_id} on {series.device_name}",
        )
    changes = sum(point.change is not None for point in series.points)
    days = 1 if by == "run" else len({point.time_utc[:10] for point in series.points})
    judged = len(series.points) if days == 1 else days
    if judged < 2 * FEWEST:
        of_days = "" if days == 1 else f" of {counted(days, 'day')}, whose points share its level"
        sink.say(
            f"{counted(len(series.points), 'point')}{of_days}: a change needs three on each side to be told "
            "from noise"
        )
    else:
        sink.say(
            f"{len(series.points)} points, {counted(changes, 'change')} of level "
            f"by {series.least_percent:.2g} % or more"
        )
    if plot is not None:
        try:
            plot.parent.mkdir(parents=True, exist_ok=True)
            figures.plot_history(series).savefig(plot, dpi=150)
        except OSError as error:
            raise UsageError(f"cannot write {plot}: {error.strerror}") from error
        sink.say(f"wrote {plot}")
