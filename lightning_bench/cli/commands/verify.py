"""`lbench verify`: whether recorded times hold when a sample of them is measured again on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.shared.common_options import OUTPUT_PANEL, Output, Results, parse_share
from lightning_bench.cli.shared.option_groups import grouped
from lightning_bench.cli.shared.slot_options import GpuChoice
from lightning_bench.errors import ExitCode, UsageError
from lightning_bench.words import counted

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine import Machine
    from lightning_bench.record import Record
    from lightning_bench.run.chosen_slots import Chosen
    from lightning_bench.run.plan import Plan
    from lightning_bench.run.verify import Candidates, Verification


@grouped
def verify(
    *,
    context: typer.Context,
    results: Results = None,
    sample: Annotated[int, typer.Option(metavar="N", min=1, help="How many rows to measure again.")] = 20,
    at_least: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Exit with 1 if fewer new times are in the stated intervals: 95%."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="What the sample is drawn from.")
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES", help="file.py:NAME or hub:... of rows whose provider has no other name."
        ),
    ] = None,
    gpus: GpuChoice,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV to keep the new rows in; an existing file is set aside.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    output: Output,
) -> None:
    """Measure a random sample of recorded times again and say how many hold."""
    import secrets

    from lightning_bench.machine.scratch import scratch_folder
    from lightning_bench.record import read_rows
    from lightning_bench.record.lock import refuse_target
    from lightning_bench.run.verify import candidates, found_providers, plans, verification
    from lightning_bench.run.verify import sample as drawn

    limit = None if at_least is None else parse_share("--at-least", at_least)
    if out is not None:
        refuse_target(out)
    records = [row.record for row in read_rows(results or [Path("results")]).rows]
    slots = gpus.chosen(context, None, instead="verify times of a CPU without --gpus")
    specs, machines = found_providers(provider or []), _machines(slots)
    found = candidates(records, machines, specs)
    if not found.records:
        raise UsageError(f"there is no time that can be measured again here{_left_out(found)}")
    number = secrets.randbits(31) if seed is None else seed
    chosen = drawn(found.records, sample, number)
    sink = output.sink()
    sink.note(f"{counted(len(chosen), 'row')} of {len(found.records)}, seed {number}{_left_out(found)}")
    with scratch_folder() as folder:
        again = plans(chosen, machines, specs)
        now = _measured(sink, again, slots, out or folder / "verify.csv")
    result = verification(chosen, now)
    _show(sink, result, number, out)
    if limit is not None and result.share < limit:
        raise typer.Exit(ExitCode.FOUND)


def _machines(slots: Chosen) -> dict[str, Machine]:
    """Return the machine of each device whose times can be measured again: of the slots if there are any."""
    if slots.machine is not None:
        return {slots.machine.device: slots.machine}
    from lightning_bench.cli.shared.device import resolve_device
    from lightning_bench.machine import describe_machine

    return {device: describe_machine(device) for device in {"cpu", resolve_device(None)}}


def _left_out(found: Candidates) -> str:
    """Return how many rows are left out and why, the most frequent reasons first."""
    if not found.left_out:
        return ""
    parts = [f"{count} {reason}" for reason, count in found.left_out.most_common(4)]
    more = len(found.left_out) - len(parts)
    return f"; left out: {'; '.join(parts)}{f'; and {more} more reasons' if more > 0 else ''}"


def _measured(sink: Sink, plans: Sequence[Plan], slots: Chosen, path: Path) -> list[Record]:
    from lightning_bench.cli.shared.busy import warn_if_busy
    from lightning_bench.record import ResultFile
    from lightning_bench.run.progress import make_watcher
    from lightning_bench.run.sweep import crew_of, run_sweep

    now: list[Record] = []
    with ResultFile(path, fresh=True) as file:
        if file.moved:
            sink.say(f"the earlier results are now {file.moved}")
        for plan in plans:
            warn_if_busy(sink, plan.device, slots.gpus)
            with (
                slots.executor(crew_of(plan)) as executor,
                make_watcher(sink.err, f"{plan.suite} again", quiet=sink.quiet) as watcher,
            ):
                now += run_sweep(plan, file, watcher, executor=executor).records
        file.check_unchanged()
    return now


def _show(sink: Sink, result: Verification, seed: int, out: Path | None) -> None:
    from lightning_bench.record.identities import unlike

    then, now = ([getattr(each, side) for each in result.repetitions] for side in ("then", "now"))
    differing = unlike({"then": then, "now": now})
    if sink.as_json:
        sink.data(
            {
                "seed": seed,
                "rows": len(result.repetitions),
                "inside": result.inside,
                "share": result.share,
                **dict(
                    zip(
                        ("change_median", "change_p90", "change_largest"),
                        result.changes or [None] * 3,
                        strict=True,
                    )
                ),
                "differing": differing,
                "repetitions": [
                    {
                        "case_id": each.then.case_id,
                        "then_ms": each.then.median_ms,
                        "ci_low_ms": each.then.ci_low_ms,
                        "ci_high_ms": each.then.ci_high_ms,
                        "now_ms": each.now.median_ms,
                        "status": each.now.status,
                        "inside": each.inside,
                    }
                    for each in result.repetitions
                ],
            }
        )
        return
    sink.grid(
        ["then, ms", "interval, ms", "now, ms", "change", "inside", "case"],
        [
            [
                f"{each.then.median_ms:.4g}",
                f"{each.then.ci_low_ms or 0:.4g} … {each.then.ci_high_ms or 0:.4g}",
                each.now.status if each.now.median_ms is None else f"{each.now.median_ms:.4g}",
                "" if each.change is None else f"{100 * each.change:+.1f} %",
                "yes" if each.inside else "no",
                each.then.case_id,
            ]
            for each in result.repetitions
        ],
    )
    for sentence in differing:
        sink.say(sentence)
    sink.say(
        f"{result.inside} of {counted(len(result.repetitions), 'new time')} ({100 * result.share:.1f} %) "
        "are in the 95 % interval that the row states"
    )
    if result.changes is not None:
        median, most, largest = (f"{100 * change:.2f} %" for change in result.changes)
        sink.say(f"changes: median {median}, 90th percentile {most}, largest {largest}")
    if out is not None:
        sink.say(f"results: {out}")
