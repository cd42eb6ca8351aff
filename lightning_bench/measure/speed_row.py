"""The row of a timed case: from its samples to figures, floors, doubts and a status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

from lightning_bench.families.work import Work
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.device.clocks import summarize_clocks
from lightning_bench.measure.device.graph import NoGraphError
from lightning_bench.measure.device.timer import Timer
from lightning_bench.measure.foreign import LoadFigures
from lightning_bench.measure.gate import Gated
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseSamples, Enter, Figures, Outcome
from lightning_bench.measure.replays import WrongReplayError
from lightning_bench.measure.rounds import Task, take_turn, warm_up
from lightning_bench.measure.sampling import StopRule, contradiction, summarize
from lightning_bench.measure.session import Session
from lightning_bench.record import Status


def speed_outcome(
    gated: Gated, task: Task, session: Session, timer: Timer, replays: Callable[[], list[float]] | None
) -> Outcome:
    """Return the outcome of a case whose samples are taken.

    It is `wrong` if a median is below what the device can do, or if a replay is, and then has no times;
    `unstable` if the clocks or the spread of the samples are outside the limits. `replays` gives the times
    of CUDA-graph replays in ms, or raises NoGraphError or WrongReplayError; None if they are not wanted.
    """
    case = gated.case
    times = summarize(task.sampler.samples)
    clocks = summarize_clocks(task.readings)
    work = Work.of(gated.provider.family, case.shape, case.direction)
    ceilings = session.ceilings_of(work, times.median_ms)
    floor = work.floor_ms(ceilings)
    load = session.foreign.figures(task.key)
    figures = replace(
        with_load(gated.figures, load),
        model_flops=work.min_flops,
        model_bytes=work.min_bytes,
        floor_ms=floor,
        ceiling_gbps=ceilings.gbps,
        ceiling_of=ceilings.bandwidth_of,
        ceiling_tflops=ceilings.tflops,
        sm_clock_mhz=task.sampler.median_mhz or clocks.sm_clock_mhz,
        throttled_samples=task.sampler.throttled if task.sampler.median_mhz else None,
        power_w=clocks.power_w,
        temperature_c=clocks.temperature_c,
        throttle=clocks.throttle,
        checks=gated.audit.checks,
        empty_us=timer.empty_us(),
    )
    samples = CaseSamples(
        samples_ms=task.sampler.samples,
        turns=task.turns,
        call_ms=task.call_samples,
        samples_mhz=task.sampler.mhz if task.sampler.median_mhz else None,
        clocks=[asdict(reading) for reading in task.readings],
    )
    if reason := gated.audit.failure or gated.audit.trouble(times.median_ms):
        return Outcome(case, "wrong", reason, figures, samples)
    if task.sampler.changed:
        return Outcome(case, "wrong", "its samples are not those that were taken", figures, samples)
    impossible = work.impossible(times.median_ms, ceilings)
    doubt = session.ceilings_trouble(case.shape.dtype, work.mix)
    if impossible and not (doubt and case.shape.device == "cpu"):
        return Outcome(case, "wrong", "impossible: " + impossible, figures, samples)
    notes = []
    if timer.exposed(gated.call.fn):
        notes.append("includes waiting for launches: the call could not be enqueued ahead of the device")
    if replays is not None:
        try:
            graph_ms = replays()
        except NoGraphError as error:
            notes.append(str(error))
        except WrongReplayError as error:
            return Outcome(case, "wrong", str(error), replace(figures, checks=gated.audit.checks), samples)
        else:
            figures = replace(figures, checks=gated.audit.checks)
            samples = replace(samples, graph_ms=graph_ms)
            if reason := work.impossible(summarize(graph_ms).median_ms, ceilings):
                return Outcome(case, "wrong", "impossible: " + reason, figures, samples)
    trouble = "; ".join(
        filter(
            None,
            [
                clocks.trouble,
                load.trouble,
                contradiction(times, summarize(task.call_samples), case.shape.device),
                impossible,
                None if load.trouble and not impossible else doubt,
                task.sampler.trouble(),
            ],
        )
    )
    figures = replace(
        figures,
        median_ms=times.median_ms,
        p20_ms=times.p20_ms,
        p80_ms=times.p80_ms,
        min_ms=times.min_ms,
        mean_ms=times.mean_ms,
        ci_low_ms=times.ci_low_ms,
        ci_high_ms=times.ci_high_ms,
        median_cycles=task.sampler.median_cycles,
        samples=times.samples,
        processes=1,
        call_ms=summarize(task.call_samples).median_ms,
        graph_ms=summarize(samples.graph_ms).median_ms if samples.graph_ms else None,
        tflops=work.min_flops / times.median_ms / 1e9,
        gbps=work.min_bytes / times.median_ms / 1e6,
        floor_ratio=times.median_ms / floor,
    )
    status: Status = "unstable" if trouble else "ok"
    return Outcome(case, status, "; ".join([trouble, *notes] if trouble else notes), figures, samples)


def with_load(figures: Figures, load: LoadFigures) -> Figures:
    """Return the figures with those of the load beside the samples."""
    return replace(figures, **{name: value for name, value in vars(load).items() if name != "trouble"})


def graph_samples(gated: Gated, inputs: InputSet, rule: StopRule, timer: Timer, enter: Enter) -> list[float]:
    """Return times of CUDA-graph replays of the call, in ms.

    Raise NoGraphError if it cannot be captured, and WrongReplayError if replays are not right.
    """
    enter(gated.case.id, "samples")
    gated.audit.before_capture()
    replay = timer.capture(lambda: direction_call(gated.provider, inputs, gated.case.direction).fn)
    watch = gated.audit.of_replays(replay)
    task = Task.of(gated.case.id, replay, rule, watch)
    if watch.failure is None:
        warm_up(task, timer, rule.warm_up_limit_s)
    while watch.failure is None and not task.sampler.done:
        take_turn(task, timer)
    if watch.failure is not None:
        raise WrongReplayError(watch.failure)
    return task.sampler.samples
