"""``lbench compare``: is anything slower, larger or broken? Two CSVs, two commits, or two providers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.shared import options
from lightning_bench.errors import LbenchError, UsageError

if TYPE_CHECKING:
    from collections import Counter

    from lightning_bench.compare.noise import Noises
    from lightning_bench.compare.result import Verdict
    from lightning_bench.compare.sides import Side

_VERDICT = "Verdict"
_REF = "Measuring another commit (--ref)"


def compare(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[BASE HEAD | SUITE]",
            help="Two CSVs of lbench, or folders of CSVs in which each is a run of its own. With --against: "
            "one. With --ref: a suite; default: paper on a GPU, quick on a CPU.",
        ),
    ] = None,
    ref: Annotated[
        str | None,
        typer.Option(
            metavar="GIT_REF", help="Measure this commit against the working tree.", rich_help_panel=_REF
        ),
    ] = None,
    pairs: Annotated[
        int,
        typer.Option(min=2, help="Passes, each with a fresh process a side.", rich_help_panel=_REF),
    ] = 16,
    metric: Annotated[
        str, typer.Option(help="speed,memory or one of them.", rich_help_panel=_REF)
    ] = "speed,memory",
    kernels: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the repository that goes first on the import path. Default: kernels, else src, "
            "else the root.",
            rich_help_panel=_REF,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for base.csv and head.csv of what --ref measures. Default: not kept.",
            rich_help_panel=_REF,
        ),
    ] = None,
    provider: options.ProviderOption = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="PROVIDER", help="Hold --provider against this one, within one run."),
    ] = None,
    seq_len: options.SeqLen = None,
    head_dim: options.HeadDim = None,
    value_dim: options.ValueDim = None,
    dtype: options.DtypeOption = None,
    batch: options.Batch = None,
    heads: options.Heads = None,
    direction: options.DirectionOption = None,
    device: options.DeviceOption = None,
    time_limit: options.TimeLimit = None,
    threshold: Annotated[
        str,
        typer.Option(help="The change in time that must not pass, as 3% or 0.03.", rich_help_panel=_VERDICT),
    ] = "3%",
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="VERDICTS",
            help="What makes the exit code 1. Default: SLOWER,GREW,BROKEN,MISSING.",
            rich_help_panel=_VERDICT,
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=REASON",
            help="Accept what is worse in cases that match, as 'lightning2/bwd/*=why', or one verdict of "
            "them, as 'SLOWER:lightning2/bwd/*=why'. Repeatable.",
            rich_help_panel=_VERDICT,
        ),
    ] = None,
    across_machines: Annotated[
        bool,
        typer.Option(
            "--across-machines", help="Compare other machines and versions too.", rich_help_panel=_VERDICT
        ),
    ] = False,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CSV",
            help="Of `lbench calibrate`. Default: *-calibration.csv below results/ and beside the inputs.",
            rich_help_panel=_VERDICT,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show SAME and AMBIGUOUS cells too.", rich_help_panel="Output")
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown for a pull request.", rich_help_panel="Output")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.", rich_help_panel="Output")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Give every cell a verdict; exit code 0: nothing worse, 1: worse, 2: usage, 3: nothing compared."""
    from lightning_bench.cli.commands.compare_out import show
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.compare.judge import compare as judge
    from lightning_bench.compare.result import NothingComparedError, accept, parse_allow, parse_fail_on

    if as_json and as_markdown:
        raise UsageError("--json and --markdown do not go together: give one")
    limit = parse_share(threshold)
    failing, allowed = parse_fail_on(fail_on), parse_allow(allow or [])
    paths = inputs or []
    sink = Sink(as_json=as_json, quiet=quiet)
    axes = (seq_len, head_dim, value_dim, dtype, batch, heads, direction, device, time_limit, out, kernels)
    if ref is not None:
        from lightning_bench.cli.commands.compare_ref import measure

        if against is not None:
            raise UsageError("--against compares within one run: give a CSV instead of --ref")
        if len(paths) > 1:
            raise UsageError("--ref takes one suite, not two inputs")
        try:
            base, head = measure(
                sink,
                ref,
                str(paths[0]) if paths else None,
                axes=(provider, seq_len, head_dim, value_dim, dtype, batch, heads, direction),
                device=device,
                time_limit=time_limit,
                metrics=metric,
                pairs=pairs,
                kernels=kernels,
                out=out,
            )
        except UsageError:
            raise
        except LbenchError as error:
            raise NothingComparedError(str(error)) from error
    elif any(axis is not None for axis in axes):
        raise UsageError(
            "axes, --device, --time-limit, --out and --kernels go with --ref: CSVs are measured already"
        )
    else:
        base, head = _sides(paths, provider, against)
    noises = _noises(calibration, paths if ref is None else [])
    comparison = judge(
        base, head, threshold=limit, noises=noises, across_machines=across_machines, fail_on=failing
    )
    comparison = accept(comparison, allowed)
    show(sink, comparison, everything=everything, as_markdown=as_markdown, junit=junit)
    if comparison.exit_code == 3:
        sink.error(_why_nothing(comparison.counts))
    raise typer.Exit(comparison.exit_code)


def parse_share(text: str) -> float:
    """``3%``, ``3 %`` or ``0.03``; UsageError for what is no share between 0 and 1."""
    number = text.strip()
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UsageError(f"--threshold {text!r} is no share of a time; allowed: such as 3% or 0.03")
    return share


def _sides(paths: list[Path], provider: list[str] | None, against: str | None) -> tuple[Side, Side]:
    from dataclasses import replace

    from lightning_bench.compare.judge import one_provider
    from lightning_bench.compare.sides import read_side

    names = [part.strip() for text in provider or [] for part in text.split(",")]
    if against is not None:
        if len(names) != 1 or len(paths) != 1:
            raise UsageError(
                "--against compares two providers of one run: "
                "lbench compare RESULTS.csv --provider lightning2 --against fla-chunk"
            )
        side = read_side(paths[0])
        there = sorted({run.record.provider for run in side.runs})
        if lacking := [name for name in (names[0], against) if name not in there]:
            has = ", ".join(there) or "none"
            raise UsageError(f"{paths[0]} has no rows of {', '.join(lacking)}; it has {has}")
        return one_provider(side, against, f"{names[0]} against {against}"), one_provider(
            side, names[0], f"{names[0]} against {against}"
        )
    if len(paths) != 2:
        raise UsageError(
            f"{len(paths)} inputs; give two CSVs (lbench compare base.csv head.csv), "
            "or a commit to measure (lbench compare --ref main)"
        )
    base, head = read_side(paths[0]), read_side(paths[1])
    if names:
        there = sorted({run.record.provider for side in (base, head) for run in side.runs})
        if lacking := [name for name in names if name not in there]:
            raise UsageError(f"no rows of {', '.join(lacking)}; there are {', '.join(there) or 'none'}")

        def chosen(side: Side) -> Side:
            return replace(side, runs=[run for run in side.runs if run.record.provider in names])

        base, head = chosen(base), chosen(head)
    return base, head


def _noises(given: list[Path] | None, beside: list[Path]) -> Noises:
    from lightning_bench.compare.noise import Noises, find_calibrations, read_calibration

    files = given if given is not None else find_calibrations(beside)
    return Noises(row for file in files for row in read_calibration(file))


def _why_nothing(counts: Counter[Verdict]) -> str:
    if counts["INCOMPARABLE"]:
        return (
            "nothing was compared: machine, protocol or versions differ in every cell (INCOMPARABLE above); "
            "measure both sides on one machine, or give --across-machines"
        )
    return (
        "nothing was compared: the inputs have no case in common, or none that works on either side; "
        "measure the same suite on both sides (`lbench check` says what is wrong)"
    )
