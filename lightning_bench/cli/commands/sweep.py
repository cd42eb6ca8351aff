"""`lbench speed`, `lbench memory`, `lbench check` and `lbench energy`: run suites to a CSV and a table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from lightning_bench.case import Metric, ProtocolName
from lightning_bench.cli.shared.axis_options import Axes, split
from lightning_bench.cli.shared.common_options import (
    KERNEL_PANEL,
    OUTPUT_PANEL,
    RUNNING_PANEL,
    DryRun,
    Fresh,
    Output,
    Processes,
    Retry,
    Running,
    known,
)
from lightning_bench.cli.shared.completion import list_of, one_of, provider_names, suites
from lightning_bench.cli.shared.option_groups import grouped
from lightning_bench.cli.shared.slot_options import Slots
from lightning_bench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.run.chosen_slots import Chosen
    from lightning_bench.run.executor import Executor
    from lightning_bench.run.plan import Plan
    from lightning_bench.run.sanitizer import Sanitizer
    from lightning_bench.run.shard import SweepShard
    from lightning_bench.run.sweep import Summary


_SANITIZER_PANEL = "Under compute-sanitizer (check only)"


@dataclass(frozen=True)
class KernelOptions:
    """A kernel of one's own, and what it is compared with at the shapes of a suite of its family."""

    kernel: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            metavar="FILE:NAME",
            help="Measure a plain function, or a provider, of a file. Give --family for a function.",
            rich_help_panel=KERNEL_PANEL,
        ),
    ] = None
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="PROVIDERS",
            autocompletion=list_of(provider_names),
            help="Providers to measure beside --kernel, in turns, at the same shapes.",
            rich_help_panel=KERNEL_PANEL,
        ),
    ] = None


def _tools() -> tuple[str, ...]:
    from lightning_bench.run.sanitizer import TOOLS

    return TOOLS


@dataclass(frozen=True)
class SweepOptions:
    """How the cases are measured, and which of them are left to do."""

    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="PROTOCOL",
            autocompletion=one_of(get_args(ProtocolName)),
            help="lbench (trusted) or paper (what the papers' scripts measured).",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None
    graph: Annotated[
        bool | None,
        typer.Option(
            "--graph/--no-graph",
            help="Also time CUDA-graph replay (speed only). Default: as the suite has it.",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None
    retry: Retry = False
    fresh: Fresh = False
    processes: Processes = None
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One process and ±5 %: a first look.", rich_help_panel=RUNNING_PANEL),
    ] = False
    dry_run: DryRun = False
    sanitizer: Annotated[
        str | None,
        typer.Option(
            "--sanitizer",
            metavar="TOOL",
            autocompletion=one_of(_tools),
            help="Run each worker under it: memcheck, racecheck, initcheck or synccheck.",
            rich_help_panel=_SANITIZER_PANEL,
        ),
    ] = None
    compute_sanitizer: Annotated[
        Path | None,
        typer.Option(
            "--compute-sanitizer",
            metavar="PATH",
            help="The program for --sanitizer. Default: on PATH, in a CUDA toolkit or in its wheel.",
            rich_help_panel=_SANITIZER_PANEL,
        ),
    ] = None


@grouped
def sweep(
    *,
    context: typer.Context,
    suite: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SUITE",
            autocompletion=suites,
            help="Names from `lbench suites`, or paths ending in .toml. "
            "Default: paper on a GPU, quick on a CPU, and with --kernel one of its family.",
        ),
    ] = None,
    own: KernelOptions,
    axes: Axes,
    running: Running,
    slots: Slots,
    how: SweepOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV to append to. Default: results/DEVICE/SUITE-METRIC.csv.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    output: Output,
) -> None:
    """Measure every case of the suites, one row each."""
    from lightning_bench.cli.commands.sweep_plan import show_plans
    from lightning_bench.cli.shared.busy import warn_if_busy, warn_if_interpreted
    from lightning_bench.run.planner import Planner, measuring_limits

    metric = cast(Metric, context.info_name)
    if how.graph and metric != "speed":
        raise UsageError("--graph goes only with `lbench speed`")
    if metric != "speed" and (how.quick or how.processes is not None):
        raise UsageError("--processes and --quick go only with `lbench speed`")
    if metric == "energy" and how.protocol == "paper":
        raise UsageError("--protocol paper has no energy: leave it out")
    protocol = None if how.protocol is None else known("--protocol", how.protocol, get_args(ProtocolName))
    chosen = slots.chosen_part(context, running.device)
    settings = replace(
        running.settings(elsewhere=how.dry_run, machine=chosen.machine),
        protocol="lbench" if metric == "energy" else protocol,
        graph=how.graph,
        sanitizer=_sanitizer(how, metric),
        limits=measuring_limits(quick=how.quick, processes=how.processes),
    )
    planner = Planner(metric, axes.overrides(split(own.kernel), split(own.against)), settings)
    loaded = [planner.load(name) for name in suite or (None,)]
    plans = [chosen.part(planner.plan(suite)) for suite in loaded]
    sink = output.sink()
    if how.dry_run:
        show_plans(sink, plans, chosen.count)
        return
    if metric in ("speed", "energy"):
        warn_if_busy(sink, plans[0].device, chosen.gpus)
        warn_if_interpreted(sink)
    measure(sink, plans, chosen, out, fresh=how.fresh, retry=how.retry)


def measure(
    sink: Sink, plans: Sequence[Plan], chosen: Chosen, out: Path | None, *, fresh: bool, retry: bool
) -> None:
    """Measure the plans into their files, print what came of it, and leave with the exit code."""
    from lightning_bench.run.sweep import crew_of

    started: set[Path] = set()
    failed = False
    results = []
    for plan in plans:
        path = out or default_out(plan, chosen.shard)
        with chosen.executor(crew_of(plan)) as executor:
            summary = _run(sink, plan, path, executor, fresh=fresh and path not in started, retry=retry)
        started.add(path)
        failed |= summary.failed
        results.append((plan, path, summary))
    if sink.as_json:
        sink.data([_as_data(*result) for result in results])
    raise typer.Exit(ExitCode.FOUND if failed else ExitCode.OK)


def default_out(plan: Plan, shard: SweepShard | None = None) -> Path:
    """Return `results/DEVICE/SUITE-METRIC.csv`.

    With protocol `paper` the name ends in `-published.csv`, with a sanitizer in `-TOOL.csv`, and that of a
    shard in `-shard1of4.csv`.
    """
    ending = "-published" if plan.protocol == "paper" else ""
    if plan.sanitizer is not None:
        ending += f"-{plan.sanitizer.tool}"
    if shard is not None:
        ending += f"-shard{shard.number}of{shard.count}"
    return Path("results") / plan.machine.slug / f"{plan.suite}-{plan.metric}{ending}.csv"


def _sanitizer(how: SweepOptions, metric: Metric) -> Sanitizer | None:
    """Return the tool that is asked for; UsageError for one that is unknown, not installed or of no use."""
    from lightning_bench.run.sanitizer import TOOLS, find_sanitizer

    if how.sanitizer is None:
        if how.compute_sanitizer is not None:
            raise UsageError(f"--compute-sanitizer goes only with --sanitizer: {', '.join(TOOLS)}")
        return None
    if metric != "check":
        raise UsageError(
            "--sanitizer goes only with `lbench check`: under it, times and memory are not the kernels' own"
        )
    return find_sanitizer(known("--sanitizer", how.sanitizer, TOOLS), how.compute_sanitizer)


def _run(
    sink: Sink, plan: Plan, path: Path, executor: Executor | None, *, fresh: bool, retry: bool
) -> Summary:
    from lightning_bench.report.tables.grid import sweep_grids
    from lightning_bench.run.shown import sweep_file

    name = f"{plan.suite} {plan.metric}"
    try:
        summary = sweep_file(
            plan,
            path,
            console=sink.err,
            say=sink.say,
            quiet=sink.quiet,
            fresh=fresh,
            retry=retry,
            executor=executor,
        )
    except KeyboardInterrupt:
        command = shlex.join(["lbench", *(word for word in sys.argv[1:] if word != "--fresh")])
        sink.note(f"interrupted; {path} is whole. To go on: {command}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not sink.quiet and not sink.as_json:
        for grid in sweep_grids(summary.records):
            sink.paper_table(grid)
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    sink.say(f"{name}: {counts} in {summary.seconds:.0f} s")
    if summary.seconds >= 1.0:
        sink.say(f"time: {phase_shares(summary, plan.metric)}")
    sink.say(f"results: {path}")
    return summary


def phase_shares(summary: Summary, metric: Metric) -> str:
    """Return the phases' shares of the time in per cent, largest first, without those of at most 1 %.

    What is overhead is told of times only: a check or a measurement of memory has no samples.
    """
    from lightning_bench.measure.job import USEFUL_PHASES

    shares = {phase: round(100 * part / summary.slot_seconds) for phase, part in summary.phases.items()}
    largest = sorted(shares.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{phase} {share} %" for phase, share in largest if share > 1)
    if metric in ("check", "memory"):
        return parts
    words = ", ".join(sorted(USEFUL_PHASES))
    return f"{parts}; {summary.overhead_percent:.0f} % of it is overhead: all but {words}"


def _as_data(plan: Plan, path: Path, summary: Summary) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "suite": plan.suite,
        "metric": plan.metric,
        "protocol": plan.protocol,
        "results": str(path),
        "seconds": summary.seconds,
        "phases_s": summary.phases,
        "overhead_percent": summary.overhead_percent,
        "counts": dict(summary.counts),
        "records": [asdict(record) for record in summary.records],
    }
