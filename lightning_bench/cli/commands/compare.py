"""`lbench compare`: is anything slower, larger or broken? Two CSVs, two commits, or two providers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.commands.compare_out import Shown
from lightning_bench.cli.commands.compare_ref import RefOptions
from lightning_bench.cli.shared.axis_options import Axes
from lightning_bench.cli.shared.common_options import Output, Running, parse_share
from lightning_bench.cli.shared.completion import list_of, one_of, provider_names, suites
from lightning_bench.cli.shared.option_groups import grouped
from lightning_bench.cli.shared.slot_options import GpuChoice
from lightning_bench.errors import ExitCode, UsageError
from lightning_bench.words import choice, counted

if TYPE_CHECKING:
    from lightning_bench.cli.commands.compare_ref import Measured
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.comparison.result import Comparison
    from lightning_bench.comparison.sides import Side
    from lightning_bench.run.chosen_slots import Chosen

_VERDICT_PANEL = "Verdict"


def _verdicts() -> tuple[str, ...]:
    from lightning_bench.comparison.result import VERDICTS

    return VERDICTS


@dataclass(frozen=True)
class VerdictOptions:
    """What counts as worse, and what that is judged by."""

    threshold: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="The change in time that must not pass, as 3% or 0.03.",
            rich_help_panel=_VERDICT_PANEL,
        ),
    ] = "3%"
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="VERDICTS",
            autocompletion=list_of(_verdicts),
            help="What makes the exit code 1. Default: SLOWER,GREW,BROKEN,MISSING.",
            rich_help_panel=_VERDICT_PANEL,
        ),
    ] = None
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=REASON",
            help="Accept what is worse in cases that match, as 'lightning2/bwd/*=why', or one verdict of "
            "them, as 'SLOWER:lightning2/bwd/*=why'. Repeatable.",
            rich_help_panel=_VERDICT_PANEL,
        ),
    ] = None
    across_machines: Annotated[
        bool,
        typer.Option(
            "--across-machines",
            help="Compare other machines and versions too.",
            rich_help_panel=_VERDICT_PANEL,
        ),
    ] = False
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CSV",
            help="Of `lbench calibrate`. Default: *-calibration.csv below results/ and beside the inputs.",
            rich_help_panel=_VERDICT_PANEL,
        ),
    ] = None


@grouped
def compare(
    *,
    context: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[BASE HEAD | SUITE]",
            autocompletion=suites,
            help="Two CSVs of lbench, folders of CSVs, each of which is one run, or two files of nvbench, "
            "pytest-benchmark (JSON) or triton's perf_report (CSV). With --against: one CSV of lbench. "
            "With --ref: a suite; default: paper on a GPU, quick on a CPU.",
        ),
    ] = None,
    commit: RefOptions,
    axes: Axes,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="PROVIDER",
            autocompletion=one_of(provider_names),
            help="Compare --provider with this one, within one run.",
        ),
    ] = None,
    running: Running,
    gpus: GpuChoice,
    verdicts: VerdictOptions,
    shown: Shown,
    output: Output,
) -> None:
    """Give every cell a verdict; exit code 0: nothing worse, 1: worse, 3: not decided."""
    from lightning_bench.cli.commands.compare_out import show
    from lightning_bench.comparison.judge import compare_sides
    from lightning_bench.comparison.noise import read_noises
    from lightning_bench.comparison.result import Comparison, accept, parse_allow, parse_fail_on
    from lightning_bench.record.lock import refuse_file

    if output.as_json and shown.as_markdown:
        raise UsageError("--json and --markdown do not go together: give one")
    threshold = parse_share("--threshold", verdicts.threshold)
    fail_on, allowed = parse_fail_on(verdicts.fail_on), parse_allow(verdicts.allow or [])
    paths = inputs or []
    sink = output.sink()
    if shown.junit is not None:
        refuse_file(shown.junit)
    if commit.ref is not None:
        if against is not None:
            raise UsageError("--against compares within one run: give a CSV instead of --ref")
        measured = _measured_sides(sink, paths, commit, axes, running, gpus.chosen(context, running.device))
        base, head, untouched = measured.base, measured.head, measured.untouched
    else:
        untouched = ""
        if (
            (commit.out, commit.kernels, commit.from_diff) != (None, None, False)
            or replace(axes, provider=None) != Axes()
            or (running, gpus) != (Running(), GpuChoice())
        ):
            raise UsageError(
                "axes, --device, --gpus, --time-limit, --out, --kernels and --from-diff go with --ref: "
                "CSVs are measured already"
            )
        base, head = _sides(paths, axes.provider_names, against)
    if untouched:
        comparison = Comparison(base.name, head.name, threshold, [], [], untouched=untouched)
    else:
        comparison = compare_sides(
            base,
            head,
            threshold=threshold,
            noises=read_noises(verdicts.calibration, beside=paths if commit.ref is None else []),
            across_machines=verdicts.across_machines,
            fail_on=fail_on,
        )
        comparison = accept(comparison, allowed)
    show(sink, comparison, shown)
    if comparison.exit_code == ExitCode.UNDECIDED:
        sink.error(_why_undecided(comparison))
    raise typer.Exit(comparison.exit_code)


def _measured_sides(
    sink: Sink, suites: list[Path], commit: RefOptions, axes: Axes, running: Running, chosen: Chosen
) -> Measured:
    """Return both commits' sides, measured now."""
    from lightning_bench.cli.commands.compare_ref import measure

    if len(suites) > 1:
        raise UsageError("--ref takes one suite, not two inputs")
    return measure(sink, str(suites[0]) if suites else None, commit, axes, running, chosen)


def _sides(paths: list[Path], names: list[str], against: str | None) -> tuple[Side, Side]:
    """Return two runs, or two providers of one; UsageError for wrong files or a missing provider."""
    from lightning_bench.comparison.judge import two_providers
    from lightning_bench.exchange.imports import read_any_side
    from lightning_bench.providers.nicknames import plain_name

    if against is not None:
        if len(names) != 1 or len(paths) != 1:
            raise UsageError(
                "--against compares two providers of one run: "
                "lbench compare RESULTS.csv --provider lightning2 --against fla-chunk"
            )
        return two_providers(paths[0], names[0], against)
    if len(paths) != 2:
        raise UsageError(
            f"{counted(len(paths), 'input')}; give two CSVs (lbench compare base.csv head.csv), one CSV and "
            "two of its providers (--provider lightning2 --against fla-chunk), or a commit to measure "
            "(lbench compare --ref main)"
        )
    base, head = read_any_side(paths[0]), read_any_side(paths[1])
    if names:
        present = sorted({run.record.provider for side in (base, head) for run in side.runs})
        if lacking := [name for name in names if name not in present]:
            raise UsageError(f"no rows of {', '.join(lacking)}; {choice(plain_name(lacking[0]), present)}")
        base, head = (
            replace(side, runs=[run for run in side.runs if run.record.provider in names])
            for side in (base, head)
        )
    return base, head


def _why_undecided(comparison: Comparison) -> str:
    from lightning_bench.comparison.result import ENERGY, SAME_ROW

    counts = comparison.counts
    elsewhere = [cell for cell in comparison.cells if cell.verdict == "INCOMPARABLE" and not cell.accepted]
    same = [cell for cell in elsewhere if cell.detail == SAME_ROW]
    if same and len(same) == len(elsewhere):
        return (
            f"{counted(len(same), 'cell')} with the same rows on both sides, which says nothing: "
            "measure head anew, or give another file"
        )
    if elsewhere and all(cell.detail == ENERGY for cell in elsewhere):
        return (
            "energy is not compared: `lbench report` has its tables, `lbench speed` times that are compared"
        )
    if elsewhere:
        which = "every cell" if len(elsewhere) == len(comparison.cells) else f"{len(elsewhere)} of the cells"
        return (
            f"machine, protocol or versions differ in {which} (INCOMPARABLE above); measure both sides on "
            "one machine, give --across-machines, or accept them by --allow 'INCOMPARABLE:PATTERN=REASON'"
        )
    if counts["AMBIGUOUS"]:
        return (
            "nothing is decided: every change is within the noise, and the noise beyond the threshold. "
            "Compare folders of more CSVs, one run each, or commits with --ref; `lbench calibrate` "
            "measures the noise"
        )
    return (
        "nothing was compared: the inputs have no case in common, or none that works on either side; "
        "measure the same suite on both sides (`lbench check` says what is wrong)"
    )
