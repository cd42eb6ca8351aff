"""``lbench history``: one cell's figure over commits or dates, change points marked. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from lightning_bench.case import ProtocolName
from lightning_bench.cli.shared import options
from lightning_bench.errors import UsageError
from lightning_bench.words import counted


def history(
    results: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RESULTS", help="CSVs of lbench, or folders of them. Default: results."),
    ] = None,
    case: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="A case_id, or a pattern that fits one.")
    ] = None,
    figure: Annotated[str, typer.Option(help="The column to follow.")] = "median_ms",
    by: Annotated[
        str, typer.Option(help="commit: a point a commit and version; date: a point a row.")
    ] = "commit",
    machine: Annotated[str | None, typer.Option(metavar="MACHINE_ID", help="Where it ran.")] = None,
    protocol: Annotated[
        str, typer.Option(help="lbench or paper: figures of one are no history of the other's.")
    ] = "lbench",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it: .png, .svg or .pdf.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show how a figure changed from commit to commit."""
    from dataclasses import asdict

    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.history import series as room

    if by not in get_args(room.By):
        raise UsageError(f"--by {by!r} is not known; allowed: {', '.join(get_args(room.By))}")
    if protocol not in get_args(ProtocolName):
        raise UsageError(
            f"--protocol {protocol!r} is not known; allowed: {', '.join(get_args(ProtocolName))}"
        )
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {plot} does not end with .png, .svg or .pdf")
    every = room.read_all(results or [Path("results")])
    records = [record for record in every if record.protocol == protocol]
    case_id, machine_id = room.choose(records, figure, case, machine)
    made = room.history(records, case_id, machine_id, figure, cast(room.By, by))
    sink = Sink(as_json=as_json, quiet=quiet)
    if as_json:
        sink.data(asdict(made))
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
                for point in made.points
            ],
            title=f"{made.case_id} on {made.device_name}",
        )
    changes = sum(point.change is not None for point in made.points)
    if len(made.points) < 2 * 3:
        sink.say(
            f"{counted(len(made.points), 'point')}: a change needs three on each side to be told from noise"
        )
    else:
        sink.say(f"{len(made.points)} points, {changes} changes of level")
    if plot is not None:
        try:
            plot.parent.mkdir(parents=True, exist_ok=True)
            room.plot(made).savefig(plot, dpi=150)
        except OSError as error:
            raise UsageError(f"cannot write {plot}: {error.strerror}") from error
        sink.say(f"wrote {plot}")
