"""`lbench calibrate`: how much this machine differs from itself; `lbench compare` goes by it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.shared.axis_options import Axes
from lightning_bench.cli.shared.common_options import Output, Running, parse_share
from lightning_bench.cli.shared.completion import suites
from lightning_bench.cli.shared.option_groups import grouped
from lightning_bench.cli.shared.slot_options import GpuChoice
from lightning_bench.errors import UsageError

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.comparison.noise import Calibration


@grouped
def calibrate(
    *,
    context: typer.Context,
    suite: Annotated[
        str | None,
        typer.Argument(
            metavar="SUITE",
            help="As for `lbench speed`. Default: paper on a GPU, quick on a CPU.",
            autocompletion=suites,
        ),
    ] = None,
    pairs: Annotated[
        int, typer.Option(metavar="N", min=6, help="Passes, each with two fresh processes.")
    ] = 24,
    threshold: Annotated[
        str, typer.Option(metavar="SHARE", help="The change whose false alarms are counted.")
    ] = "3%",
    axes: Axes,
    running: Running,
    gpus: GpuChoice,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV to write. Default: results/DEVICE/SUITE-calibration.csv."),
    ] = None,
    output: Output,
) -> None:
    """Measure every case against itself, side by side in fresh processes, and write the noise floor.

    With --gpus each of the GPUs measures every case.
    """
    from dataclasses import asdict

    from lightning_bench.cli.shared.side_by_side import run_side_by_side
    from lightning_bench.comparison.calibration import noise_floors
    from lightning_bench.comparison.noise import SUFFIX, write_calibration
    from lightning_bench.comparison.sides import read_side
    from lightning_bench.machine.scratch import scratch_folder
    from lightning_bench.record.lock import refuse_target
    from lightning_bench.run.planner import Planner

    limit = parse_share("--threshold", threshold)
    chosen = gpus.chosen(context, running.device, instead="calibrate a CPU without --gpus")
    planner = Planner("speed", axes.overrides(), running.settings(machine=chosen.machine))
    plan = planner.plan(planner.load(suite))
    path = out or Path("results") / plan.machine.slug / f"{plan.suite}{SUFFIX}"
    if not path.name.endswith(SUFFIX):
        raise UsageError(f"--out {path} does not end with {SUFFIX}: lbench compare would not find it")
    refuse_target(path)  # now, and not when every pass has been measured
    sink = output.sink()
    with scratch_folder() as folder:
        paths = [folder / "a.csv", folder / "b.csv"]
        run_side_by_side(sink, [plan, plan], [(), ()], paths, ["first", "second"], pairs, chosen)
        rows = noise_floors(read_side(paths[0]), read_side(paths[1]), threshold=limit, pairs=16)
    write_calibration(path, rows)
    if sink.as_json:
        sink.data([asdict(row) for row in rows])
    else:
        _show(sink, rows)
    sink.say(
        "noise: standard deviation of one process's figure, sides measured in turns; apart: over the "
        "whole calibration; finds: the smallest change that is found in 95 % of runs"
    )
    false_alarms = 100 * rows[0].sweep_false_alarm_rate
    sink.say(f"at a threshold of {100 * limit:g} %, {false_alarms:.2f} % of sweeps raise a false SLOWER")
    coarse = sum(row.resolution_percent > 100 * limit for row in rows)
    if coarse:
        sink.say(f"{coarse} of {len(rows)} cases cannot resolve {100 * limit:g} % on this machine")
    if lost := len({case.id for case in plan.cases}) * chosen.count - len(rows):
        sink.say(f"{lost} cases of the suite are not calibrated: they have no figure in every pass")
    sink.say(f"calibration: {path}")


def _show(sink: Sink, rows: list[Calibration]) -> None:
    sink.grid(
        [
            "noise",
            "apart",
            f"finds ({rows[0].resolution_pairs} pairs)",
            "two runs",
            "false alarms",
            "case",
        ],
        [
            [
                f"{row.pair_noise_percent:.2f} %",
                f"{row.run_noise_percent:.2f} %",
                _change(row.resolution_percent),
                _change(row.resolution_two_runs_percent),
                f"{100 * row.false_alarm_rate:.2f} %",
                row.case_id,
            ]
            for row in rows
        ],
    )


def _change(percent: float) -> str:
    return f"{percent:.1f} %" if percent < 1000 else "> ×11"
