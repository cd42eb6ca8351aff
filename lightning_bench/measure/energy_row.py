"""The row of a case of metric energy: from its windows to joules per call and token, and a status."""

from __future__ import annotations

import statistics
from dataclasses import asdict, replace

from lightning_bench.case import Case
from lightning_bench.families.work import Work
from lightning_bench.machine.mix import EVEN
from lightning_bench.measure.device.clocks import summarize_clocks
from lightning_bench.measure.energy_windows import SPREAD_LIMIT_PERCENT, EnergyTask
from lightning_bench.measure.gate import Gated
from lightning_bench.measure.job import CaseSamples, Figures, Outcome
from lightning_bench.measure.session import Session
from lightning_bench.measure.speed_row import with_load
from lightning_bench.record import Status


def energy_outcome(gated: Gated, task: EnergyTask, session: Session) -> Outcome:
    """Return the outcome of a case whose windows are taken.

    It is `wrong` if its last results were, or if it computes more per second than the device can; `unstable`
    if its windows differ, or for the clocks and foreign load beside them.
    """
    case = gated.case
    clocks, load = summarize_clocks(task.readings), session.foreign.figures(task.key)
    figures = replace(
        with_load(gated.figures, load),
        checks=gated.audit.checks,
        sm_clock_mhz=clocks.sm_clock_mhz,
        temperature_c=clocks.temperature_c,
        throttle=clocks.throttle,
    )
    samples = CaseSamples(
        samples_ms=[window.call_ms for window in task.windows],
        turns=[1] * len(task.windows),
        call_ms=[],
        clocks=[asdict(reading) for reading in task.readings],
        energy=[asdict(window) for window in task.windows],
    )
    if gated.audit.failure:
        return Outcome(case, "wrong", gated.audit.failure, figures, samples)
    timed = with_windows(case, figures, task)
    assert timed.median_ms is not None
    work = Work.of(gated.provider.family, case.shape, case.direction)
    if reason := work.too_many_flops(timed.median_ms, session.ceilings(case.shape.dtype, EVEN)):
        return Outcome(case, "wrong", f"impossible: {reason}", figures, samples)
    trouble = [why for why in (clocks.trouble, load.trouble, spread_trouble(task)) if why]
    status: Status = "unstable" if trouble else "ok"
    return Outcome(case, status, "; ".join(trouble), timed, samples)


def with_windows(case: Case, figures: Figures, task: EnergyTask) -> Figures:
    """Add what the windows give, each figure the median over them."""
    windows, shape = task.windows, case.shape
    times = [window.call_ms for window in windows]
    call_mj = statistics.median(window.call_mj for window in windows)
    return replace(
        figures,
        median_ms=task.median_ms,
        min_ms=min(times),
        mean_ms=statistics.fmean(times),
        samples=len(windows),
        processes=1,
        call_mj=call_mj,
        token_mj=call_mj / (shape.batch * shape.seq_len),
        rest_w=statistics.median(window.rest_w for window in windows),
        energy_spread_percent=task.spread_percent,
        power_w=sum(window.joules for window in windows) / sum(window.seconds for window in windows),
    )


def spread_trouble(task: EnergyTask) -> str | None:
    """Return why the windows are not to be relied on, or None."""
    if task.spread_percent <= SPREAD_LIMIT_PERCENT:
        return None
    each = ", ".join(f"{window.call_mj:.4g}" for window in task.windows)
    return f"its windows differ by {task.spread_percent:.1f} %: {each} mJ per call"
