"""How long a plan will take and how much memory it needs, by the rows of earlier runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from lightning_bench.case import DTYPE_BYTES, TIMED, Case
from lightning_bench.families.work import Work
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.record import Record
from lightning_bench.run.plan import Plan
from lightning_bench.words import counted

# Rows further apart that do not say when their run began are of two runs: no shape takes as long.
_LONGEST_GAP_S = 600.0

_LONGEST = "only sampling, at its longest; starting, checking and warming up come on top"


@dataclass(frozen=True)
class Estimate:
    """Seconds that a plan will take, None where nothing tells, and what that goes by."""

    seconds: float | None
    basis: str

    def on(self, slots: int) -> Estimate:
        """Return the estimate for several slots that are never idle."""
        if slots == 1 or self.seconds is None:
            return self
        return Estimate(self.seconds / slots, f"{self.basis}, on {slots} slots")


def estimated_time(plan: Plan, cases: Sequence[Case], earlier: Iterable[Record]) -> Estimate:
    """Estimate the time of some cases of the plan, started workers included.

    It goes by the times at which earlier runs began and wrote their rows: those of this metric, protocol and
    kind of device, and of them those of the same device and of the same suite if there are any. A case of a
    whole model goes by rows of its model: of the same case, else of its provider, else of any. Without such
    rows a sweep of speed or of models is taken to sample as long as its limits let it.
    """
    rows = [
        row
        for row in earlier
        if (row.metric, row.protocol, row.device) == (plan.metric, plan.protocol, plan.device)
        and row.time_utc
    ]
    if any(case.shape.model_run.model for case in cases):
        return _of_models(plan, cases, rows)
    rows = [row for row in rows if row.worked]
    rows = _those([row.device_name == plan.machine.device_name for row in rows], rows)
    rows = _those([row.suite == plan.suite for row in rows], rows)
    pace = _seconds_per_case(rows)
    if pace is not None:
        other = "" if rows[0].suite == plan.suite else ", whose cases may take another time"
        return Estimate(pace * len(cases) * plan.processes, _basis(rows) + other)
    if plan.metric in TIMED:
        return Estimate(len(cases) * _longest_s(plan), f"{_LONGEST}: no earlier row says how long")
    if plan.metric == "energy":
        limits = plan.limits
        each = limits.windows * (limits.window_s + 1.5 * limits.rest_s)
        return Estimate(
            len(cases) * each, "windows and rests only: no earlier row says how long the rest takes"
        )
    return Estimate(None, f"no earlier row of {plan.metric} says how long")


def needed_mib(plan: Plan, case: Case) -> float:
    """Return what a case takes at least, MiB: its inputs, output and, backward, their gradients.

    In training they are the weights, their gradients and the optimizer's two moments of each, or a rank's
    part of them, to generate the weights and what is kept of all tokens.
    """
    run = case.shape.model_run
    if run.model:
        size, new = MODELS[run.model], run.new_tokens
        weights = DTYPE_BYTES[case.shape.dtype] * size.parameters
        kept = size.cache_bytes(case.shape, case.shape.seq_len + new)
        parts = case.shape.ranks if run.parallel == "fsdp2" else 1
        return (weights + kept if new else 4 * weights / parts) / 2**20
    family = plan.providers[case.provider].provider.family
    whole = replace(case.shape, ranks=0)  # which the first of several ranks has for the oracle
    return Work.of(family, whole, case.direction).plan_bytes / 2**20


def least_flops(plan: Plan, case: Case) -> float:
    """Return the operations that a case needs at least: of what may take long, what takes longest.

    Those of a generation are taken to be those of training on as many tokens.
    """
    run, shape = case.shape.model_run, case.shape
    if run.model:
        return MODELS[run.model].step_flops(replace(shape, seq_len=shape.seq_len + run.new_tokens))
    return Work.of(plan.providers[case.provider].provider.family, shape, case.direction).min_flops


def recorded_peaks_mib(plan: Plan, earlier: Iterable[Record]) -> dict[str, tuple[float, str]]:
    """Return the largest peak of memory that earlier rows have of each case, MiB, and its device.

    Rows of the plan's protocol count that `lbench` has measured: a published row has no time.
    """
    wanted = {plan.case_id(case) for case in plan.cases}
    peaks: dict[str, tuple[float, str]] = {}
    for row in earlier:
        counts = row.case_id in wanted and row.protocol == plan.protocol and row.time_utc
        if counts and row.peak_mib is not None:
            peaks[row.case_id] = max(peaks.get(row.case_id, (0.0, "")), (row.peak_mib, row.device_name))
    return peaks


def _of_models(plan: Plan, cases: Sequence[Case], rows: Sequence[Record]) -> Estimate:
    """Estimate the time of cases of whole models by rows of theirs."""
    took = _seconds_of_each(rows)
    timed = [row for row in rows if id(row) in took]
    seconds = 0.0
    used: dict[int, Record] = {}
    without: dict[str, int] = {}
    for case in cases:
        if own := _of_model(plan, case, timed):
            used |= {id(row): row for row in own}
            seconds += plan.processes * sum(took[id(row)] for row in own) / len(own)
        else:
            model = case.shape.model_run.model
            without[model] = without.get(model, 0) + 1
            seconds += _longest_s(plan)
    if not used:
        return Estimate(seconds, f"{_LONGEST}: no earlier row of {', '.join(without)} says how long")
    basis = _basis(list(used.values()))
    if without:
        of = counted(sum(without.values()), "case")
        basis += f"; no earlier row of {', '.join(without)} ({of}): {_LONGEST}"
    return Estimate(seconds, basis)


def _of_model(plan: Plan, case: Case, rows: Sequence[Record]) -> list[Record]:
    """Return the rows that tell how long a case takes: those of its model that are most like it."""
    name = plan.providers[case.provider].provider.name
    own = [row for row in rows if row.model == case.shape.model_run.model]
    own = _those([row.device_name == plan.machine.device_name for row in own], own)
    own = _those([row.suite == plan.suite for row in own], own)
    own = _those([row.provider == name for row in own], own)
    return _those([row.case_id == plan.case_id(case) for row in own], own)


def _seconds_of_each(rows: Sequence[Record]) -> dict[int, float]:
    """Return the seconds per process that rows with a figure took, by the `id` of each.

    They are those since the row before, or since the run began: whole models run one after the other.
    """
    runs: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        runs[row.run_utc].append(row)
    found: dict[int, float] = {}
    for begun, written in runs.items():
        slots = _slots(written)
        times = [begun] * bool(begun) + sorted(row.time_utc for row in written)
        before = dict(zip(times[1:], times, strict=False))
        for row in written:
            gap = _seconds_between(before[row.time_utc], row.time_utc) if row.time_utc in before else 0.0
            if row.worked and (begun or 0 < gap <= _LONGEST_GAP_S):
                found[id(row)] = slots * gap / (row.processes or 1)
    return found


def _longest_s(plan: Plan) -> float:
    """Return the longest time that a case samples, s."""
    return plan.processes * plan.limits.sample_limit_s


def _basis(rows: Sequence[Record]) -> str:
    """Return in words which rows an estimate goes by."""
    models = ", ".join(sorted({row.model for row in rows if row.model}))
    suites = ", ".join(sorted({row.suite for row in rows}))
    names = ", ".join(sorted({row.device_name for row in rows}))
    many = f"by {counted(len(rows), 'earlier row')} of {f'{models} in ' if models else ''}"
    return f"{many}{suites} on {names}"


def _those(wanted: Sequence[bool], rows: list[Record]) -> list[Record]:
    """Return the rows that are wanted, or all if none is."""
    return [row for row, is_wanted in zip(rows, wanted, strict=True) if is_wanted] or rows


def _seconds_per_case(rows: list[Record]) -> float | None:
    """Return the mean seconds per case and process of the runs that wrote the rows."""
    runs: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        runs[row.run_utc].append(row)
    older = _gaps(runs.pop("", []))
    spans = [_span(begun, written) for begun, written in runs.items()]
    seconds = sum(span for span, _ in (*spans, *older))
    return seconds / sum(many for _, many in (*spans, *older)) if seconds else None


def _span(begun: str, rows: list[Record]) -> tuple[float, int]:
    """Return the seconds that the slots of a run had until its last row, and how many cases they measured."""
    seconds = _slots(rows) * _seconds_between(begun, max(row.time_utc for row in rows))
    return seconds, sum(row.processes or 1 for row in rows)


def _slots(rows: Sequence[Record]) -> int:
    """Return how many slots a run had."""
    return max(int(row.executor.split()[-1]) if row.executor else 1 for row in rows)


def _seconds_between(before: str, after: str) -> float:
    return (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds()


def _gaps(rows: list[Record]) -> list[tuple[float, int]]:
    """Return the same between rows of runs whose beginnings are unknown; a shape's rows come together."""
    times = sorted((datetime.fromisoformat(row.time_utc), row.processes or 1) for row in rows)
    gaps = [((after - before).total_seconds(), many) for (before, _), (after, many) in pairwise(times)]
    return [(gap, many) for gap, many in gaps if gap <= _LONGEST_GAP_S]
