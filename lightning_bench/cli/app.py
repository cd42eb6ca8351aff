"""The Typer application: the commands, the functions behind them and their one-line helps."""

from __future__ import annotations

from typing import Annotated

import typer

from lightning_bench.cli.commands.calibrate import calibrate
from lightning_bench.cli.commands.ceilings import ceilings
from lightning_bench.cli.commands.compare import compare
from lightning_bench.cli.commands.env import env
from lightning_bench.cli.commands.history import history
from lightning_bench.cli.commands.profile import profile
from lightning_bench.cli.commands.providers import providers
from lightning_bench.cli.commands.report import report
from lightning_bench.cli.commands.suites import suites
from lightning_bench.cli.commands.sweep import sweep
from lightning_bench.cli.commands.verify import verify

app = typer.Typer(
    name="lbench",
    help="Benchmarks of attention kernels that can be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Set LBENCH_TRACEBACK=1 to see the traceback of an error.",
)


def _version(value: bool) -> None:
    if value:
        from lightning_bench import __version__

        typer.echo(f"lbench {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that precede a command."""


app.command("speed", help="Measure how long each case takes, correctness first.")(sweep)
app.command("memory", help="Measure how much memory each case adds.")(sweep)
app.command("check", help="Check each case against fp64, without timing it.")(sweep)
app.command("report", help="Make the papers' tables, plots and a page from result CSVs.")(report)
app.command("compare", help="Say whether anything is slower, larger or broken, for CI.")(compare)
app.command("calibrate", help="Measure this machine against itself: the noise that compare allows for.")(
    calibrate
)
app.command("verify", help="Measure a sample of recorded times again: do they hold on this machine?")(verify)
app.command("history", help="Show one cell's figure over commits or dates and mark changes.")(history)
app.command("suites", help="Show the bundled suites, or what one would run.")(suites)
app.command("providers", help="Show the providers, and why one cannot run here.")(providers)
app.command("env", help="Show this machine as every row records it.")(env)
app.command("ceilings", help="Measure what this device reaches at its best, once.")(ceilings)
app.command("profile", help="Show where the time and the memory of one case go, and why.")(profile)
