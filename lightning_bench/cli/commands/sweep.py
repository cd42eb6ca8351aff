"""``lbench speed``, ``lbench memory`` and ``lbench check``: run suites to a CSV and a table."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import typer

from lightning_bench.case import Metric, ProtocolName
from lightning_bench.cli.shared import options
from lightning_bench.cli.shared.planner import Planner, axis_overrides
from lightning_bench.errors import UsageError

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.run.plan import Plan
    from lightning_bench.run.sweep import Summary


def sweep(
    context: typer.Context,
    suites: options.Suites = None,
    provider: options.ProviderOption = None,
    seq_len: options.SeqLen = None,
    head_dim: options.HeadDim = None,
    value_dim: options.ValueDim = None,
    dtype: options.DtypeOption = None,
    batch: options.Batch = None,
    heads: options.Heads = None,
    direction: options.DirectionOption = None,
    device: options.DeviceOption = None,
    time_limit: options.TimeLimit = None,
    protocol: options.ProtocolOption = None,
    graph: options.Graph = False,
    retry: options.Retry = False,
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    out: options.Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure every case of the suites, one row each."""
    from lightning_bench.cli.shared.device import resolve_device
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.suite import default_suite, load_suite

    metric = cast(Metric, context.info_name)
    if graph and metric != "speed":
        raise UsageError("--graph goes with `lbench speed` alone")
    if protocol is not None and protocol not in get_args(ProtocolName):
        allowed = ", ".join(get_args(ProtocolName))
        raise UsageError(f"--protocol {protocol!r} is not known; allowed: {allowed}")

    overrides = axis_overrides(provider, seq_len, head_dim, value_dim, dtype, batch, heads, direction)
    wanted = None if device is None else resolve_device(device)
    names = suites or [default_suite(wanted or resolve_device(None))]
    loaded = [load_suite(name) for name in names]
    planner = Planner(metric, cast("ProtocolName | None", protocol), overrides, wanted, time_limit, graph)
    plans = [planner.plan(suite) for suite in loaded]
    sink = Sink(as_json=as_json, quiet=quiet)
    if dry_run:
        _show_plans(sink, plans)
        return
    runs = [(plan, out or default_out(plan)) for plan in plans]
    started: set[Path] = set()
    failed = False
    results = []
    for plan, path in runs:
        summary = _run(sink, plan, path, fresh=fresh and path not in started, retry=retry)
        started.add(path)
        failed |= summary.failed
        results.append((plan, path, summary))
    if as_json:
        sink.data([_as_data(*result) for result in results])
    raise typer.Exit(1 if failed else 0)


def default_out(plan: Plan) -> Path:
    """results/DEVICE/SUITE-METRIC.csv; protocol paper has a file of its own, ending in -published."""
    ending = "-published" if plan.protocol == "paper" else ""
    return Path("results") / plan.machine.slug / f"{plan.suite}-{plan.metric}{ending}.csv"


def _run(sink: Sink, plan: Plan, path: Path, *, fresh: bool, retry: bool) -> Summary:
    from lightning_bench.cli.shared.progress import make_watcher
    from lightning_bench.record import ResultFile
    from lightning_bench.report.tables.grid import sweep_grids
    from lightning_bench.run.sweep import run_sweep

    with ResultFile(path, fresh=fresh) as file:
        for sentence in (file.repaired, file.moved and f"the earlier results are now {file.moved}"):
            if sentence:
                sink.say(str(sentence))
        name = f"{plan.suite} {plan.metric}"
        try:
            with make_watcher(sink.err, name, quiet=sink.quiet) as watcher:
                summary = run_sweep(plan, file, watcher, retry=retry)
        except KeyboardInterrupt:
            again = shlex.join(["lbench", *(word for word in sys.argv[1:] if word != "--fresh")])
            sink.err.print(f"interrupted; {path} is whole. To go on: {again}", soft_wrap=True, markup=False)
            raise typer.Exit(130) from None
    if not sink.quiet and not sink.as_json:
        for grid in sweep_grids(summary.records):
            sink.paper_table(grid)
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    sink.say(f"{name}: {counts} in {summary.seconds:.0f} s")
    if summary.seconds >= 1.0:
        sink.say(f"time: {_shares(summary)}")
    sink.say(f"results: {path}")
    return summary


def _shares(summary: Summary) -> str:
    """Where the time went, in whole per cent, what is next to nothing left out."""
    shares = {phase: round(100 * part / summary.seconds) for phase, part in summary.phases.items()}
    largest = sorted(shares.items(), key=lambda one: -one[1])
    parts = [f"{phase} {share} %" for phase, share in largest if share > 1]
    return ", ".join(parts) + f"; overhead {summary.overhead_percent:.0f} %"


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


def _show_plans(sink: Sink, plans: list[Plan]) -> None:
    from lightning_bench.families.work import Work

    rows = [
        {
            "suite": plan.suite,
            "case_id": plan.case_id(case),
            "needs_mib": Work.of(
                plan.providers[case.provider].provider.family, case.shape, case.direction
            ).plan_bytes
            / 2**20,
            "here": plan.providers[case.provider].unavailable or "yes",
        }
        for plan in plans
        for case in plan.cases
    ]
    if sink.as_json:
        sink.data(rows)
        return
    sink.grid(
        ["suite", "case", "MiB", "here"],
        [[str(r["suite"]), str(r["case_id"]), f"{r['needs_mib']:.1f}", str(r["here"])] for r in rows],
    )
    most = max(float(cast(float, r["needs_mib"])) for r in rows)
    sink.say(f"{len(rows)} cases; the largest needs at least {most:.1f} MiB for its inputs and outputs")
