"""The sweep: every case of a plan gets a row in the result file, whatever the providers do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from lightning_bench.case import Case
from lightning_bench.measure.job import USEFUL_PHASES, Job, Outcome
from lightning_bench.record import FAILED, Record, ResultFile
from lightning_bench.record.identities import IDENTITY
from lightning_bench.record.samples import encode_samples, sample_fields
from lightning_bench.run.dispatch import dispatch
from lightning_bench.run.estimate import least_flops
from lightning_bench.run.executor import Executor, Slot, Unit
from lightning_bench.run.lane import Crew, Lane
from lightning_bench.run.plan import Plan, by_shape

# Columns of a row that a machine has under the same names.
_OF_MACHINE = (
    "device_name",
    "capability",
    "driver",
    "cuda",
    "torch",
    "triton",
    "python",
    "harness_version",
    "harness_commit",
    *IDENTITY,
)


class Watcher(Protocol):
    """Receives the events of a sweep: a progress display, or a list in a test."""

    def started(self, total: int, standing: list[Record]) -> None:
        """Note that the sweep begins; the file has the `standing` rows already."""

    def entered(self, case_id: str, phase: str) -> None:
        """Note that a case enters a phase; an empty id is work for all cases of a shape."""

    def recorded(self, record: Record) -> None:
        """Note that a row has been written."""

    def measuring(self, side: str) -> None:
        """Note which of two trees the next rows are of."""

    def on_slot(self, name: str) -> None:
        """Note on which of several slots the next events happen."""

    def lost(self, name: str, reason: str) -> None:
        """Note that a slot measures nothing any more."""


@dataclass(frozen=True)
class Summary:
    """How a sweep ended: all its rows, and where the time of its slots went."""

    records: list[Record]
    seconds: float
    phases: dict[str, float]
    slots: int = 1

    @property
    def counts(self) -> Counter[str]:
        """Rows by status."""
        return Counter(record.status for record in self.records)

    @property
    def failed(self) -> bool:
        """Whether any case crashed, timed out or was wrong."""
        return any(record.status in FAILED for record in self.records)

    @property
    def overhead_percent(self) -> float:
        """Share of the time that was neither warm-up, oracle nor samples."""
        useful = sum(self.phases.get(phase, 0.0) for phase in USEFUL_PHASES)
        return 100.0 * max(0.0, 1.0 - useful / self.slot_seconds) if self.seconds else 0.0

    @property
    def slot_seconds(self) -> float:
        """Seconds that the slots had, summed over them."""
        return self.seconds * self.slots


def run_sweep(
    plan: Plan,
    out: ResultFile,
    watcher: Watcher,
    *,
    retry: bool = False,
    executor: Executor | None = None,
) -> Summary:
    """Measure what is pending and append one row per case, flushed as it ends.

    Shapes are measured one by one on the device of the plan, or on the slots of an `executor`, each shape on
    whichever is free; several slots begin with those that need the most operations, so that they end at
    about the same time.
    """
    begin = time.monotonic()
    pending, standing = plan.split(out.records, retry=retry)
    watcher.started(len(plan.cases), standing)
    sweep = Sweep(plan, out, watcher)
    sweep.note_ooms(standing)
    shapes = by_shape(pending).values()
    if executor is None:
        seconds = _one_by_one(sweep, shapes)
    else:
        units = _units(sweep, _largest_first(plan, shapes) if len(executor.slots()) > 1 else shapes)
        seconds = dispatch(executor, _SlotBooks(sweep), lambda _: next(units, None))
    slots = 1 if executor is None else len(executor.slots())
    return Summary([*standing, *sweep.records], time.monotonic() - begin, dict(seconds), slots)


def crew_of(plan: Plan) -> Crew:
    """Return what the workers of a plan are like."""
    return Crew(plan.device, plan.processes, plan.limits.memory_limit_gib, plan.sanitizer)


def _one_by_one(sweep: Sweep, shapes: Iterable[list[Case]]) -> Counter[str]:
    lane = Lane(crew_of(sweep.plan))
    try:
        for cases in shapes:
            sweep.shape(cases, lane)
    finally:
        lane.close()
    return lane.seconds


def _largest_first(plan: Plan, shapes: Iterable[list[Case]]) -> list[list[Case]]:
    return sorted(shapes, key=lambda cases: -sum(least_flops(plan, case) for case in cases))


def _units(sweep: Sweep, shapes: Iterable[list[Case]]) -> Iterator[Unit]:
    for cases in shapes:
        if job := sweep.job(cases):
            yield Unit(job)


class Sweep:
    """Makes a row of each outcome and appends it; `tag` goes into every line of samples."""

    def __init__(
        self, plan: Plan, out: ResultFile, watcher: Watcher, tag: Mapping[str, str] | None = None
    ) -> None:
        self.plan, self.out, self.watcher = plan, out, watcher
        self.records: list[Record] = []
        self._tag = sample_fields(tag or {})
        self._names = {case.id: plan.case_id(case) for case in plan.cases}
        self._common: dict[tuple[str, Slot | None], Record] = {}
        self._oom_at: dict[tuple[object, ...], int] = {}
        self._blank = Record(
            suite=plan.suite,
            metric=plan.metric,
            protocol=plan.protocol,
            status="ok",
            case_id="",
            provider="",
            family="",
            direction="fwd",
            dtype="fp32",
            batch=1,
            heads=1,
            seq_len=1,
            head_dim=1,
            value_dim=1,
            device=plan.device,
            run_utc=_now(),
        )

    def note_ooms(self, records: Iterable[Record]) -> None:
        """Note at which size providers ran out of memory, so that larger ones are not tried."""
        for record in records:
            if record.status == "oom":
                self._note_oom(record)

    def shape(self, cases: list[Case], lane: Lane) -> None:
        """Do all cases of one shape: first those that need no worker, then the rest in one job."""
        if job := self.job(cases):
            lane.measure(job, self.record, self.entered)

    def job(self, cases: list[Case]) -> Job | None:
        """Return the job of those cases of one shape that need a worker; the others get their rows."""
        runnable = []
        for case in cases:
            known = self._known(case)
            if known is None:
                runnable.append(case)
            else:
                self.record(known)
        plan = self.plan
        if not runnable:
            return None
        return Job(
            tuple(runnable), plan.metric, plan.protocol, plan.limits, plan.graph, plan.seed, plan.inputs
        )

    def entered(self, case_id: str, phase: str) -> None:
        """Tell the watcher which phase a case enters, by the id that its row will have."""
        self.watcher.entered(self._names.get(case_id, ""), phase)

    def record(self, outcome: Outcome, slot: Slot | None = None) -> None:
        """Write the row of a case, and the samples of each process that has measured it.

        On a slot of an executor the row is of that slot's machine.
        """
        figures = {name: value for name, value in vars(outcome.figures).items() if value is not None}
        ending = {"status": outcome.status, "reason": outcome.reason, "time_utc": _now()}
        record = self._row(outcome.case, slot).changed(figures | ending)
        lines = (encode_samples(record, line, self._tag) for line in outcome.sample_lines)
        self.out.append(record, lines)
        self.records.append(record)
        if record.status == "oom":
            self._note_oom(record)
        self.watcher.recorded(record)

    def _known(self, case: Case) -> Outcome | None:
        planned = self.plan.providers[case.provider]
        if planned.broken:
            return Outcome(case, "crashed", planned.broken)
        if planned.unavailable:
            return Outcome(case, "unavailable", planned.unavailable)
        if not self._oom_at:
            return None
        blank = self._row(case)
        name = _oom_axis(blank)
        smaller = self._oom_at.get(_oom_key(blank))
        if smaller is not None and smaller < getattr(blank, name):
            reason = f"not tried: out of memory already at {name} {smaller}, and memory grows with it"
            return Outcome(case, "oom", reason)
        return None

    def _note_oom(self, record: Record) -> None:
        key, size = _oom_key(record), getattr(record, _oom_axis(record))
        self._oom_at[key] = min(size, self._oom_at.get(key, size))

    def _row(self, case: Case, slot: Slot | None = None) -> Record:
        """Return the row of a case on the machine of a slot, without how it ended."""
        shape = case.shape
        return self._unmeasured(case.provider, slot).changed(
            {
                "case_id": self._names[case.id],
                "direction": case.direction,
                "dtype": shape.dtype,
                "batch": shape.batch,
                "heads": shape.heads,
                "seq_len": shape.seq_len,
                "head_dim": shape.head_dim,
                "value_dim": shape.value_dim,
                "device": shape.device,
                **shape.variant.columns,
                **shape.model_run.columns,
                "ranks": shape.ranks or None,
            }
        )

    def _unmeasured(self, spec: str, slot: Slot | None) -> Record:
        """Return what all rows of a provider on a slot have in common; the rest of it is of no case."""
        if (spec, slot) not in self._common:
            plan = self.plan
            planned = plan.providers[spec]
            machine = plan.machine if slot is None else slot.machine
            self._common[spec, slot] = self._blank.changed(
                {
                    "provider": planned.provider.name,
                    "label": planned.provider.label,
                    "family": planned.provider.family,
                    "layout": planned.provider.layout,
                    "provider_version": planned.version,
                    "machine_id": machine.id,
                    "executor": "" if slot is None else slot.executor,
                    **{name: getattr(machine, name) for name in _OF_MACHINE},
                }
            )
        return self._common[spec, slot]


class _SlotBooks:
    """Books what happens on several slots as a sweep books it on one."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def entered(self, case_id: str, phase: str, slot: Slot, unit: Unit) -> None:
        self._sweep.watcher.on_slot(slot.name)
        self._sweep.entered(case_id, phase)

    def measured(self, outcome: Outcome, slot: Slot, unit: Unit) -> None:
        self._sweep.watcher.on_slot(slot.name)
        self._sweep.record(outcome, slot)

    def idle(self, slot: Slot) -> None:
        self._sweep.watcher.on_slot(slot.name)
        self._sweep.watcher.entered("", "idle")

    def lost(self, slot: Slot, reason: str) -> None:
        self._sweep.watcher.lost(slot.name, reason)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _oom_axis(record: Record) -> Literal["batch", "seq_len"]:
    """Return the axis of a sweep along which memory can only grow."""
    return "batch" if record.metric == "generate" else "seq_len"


def _oom_key(record: Record) -> tuple[object, ...]:
    """Return everything but the size along that axis."""
    one: dict[str, Any] = {_oom_axis(record): 0}
    return record.provider, record.direction, replace(record.shape, **one)
