"""The sweep: every case of a plan gets a row in the result file, whatever the providers do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from lightning_bench.case import Case
from lightning_bench.measure.job import USEFUL_PHASES, Enter, Job, Outcome
from lightning_bench.record import FAILED, WORKED, Record, ResultFile, Status
from lightning_bench.record.identities import IDENTITY
from lightning_bench.run.across import across
from lightning_bench.run.plan import Plan, by_shape
from lightning_bench.run.sanitizer import Sanitizer
from lightning_bench.run.supervisor import Supervisor


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


@dataclass(frozen=True)
class Summary:
    """How a sweep ended: all its rows, and where its time went."""

    records: list[Record]
    seconds: float
    phases: dict[str, float]

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
        return 100.0 * max(0.0, 1.0 - useful / self.seconds) if self.seconds else 0.0


def run_sweep(plan: Plan, out: ResultFile, watcher: Watcher, *, retry: bool = False) -> Summary:
    """Measure what is pending and append one row per case, flushed as it ends."""
    begin = time.monotonic()
    pending, standing = plan.split(out.records, retry=retry)
    watcher.started(len(plan.cases), standing)
    supervisors = [
        Supervisor(plan.device, plan.limits.memory_limit_gib, sanitizer=plan.sanitizer)
        for _ in range(plan.processes)
    ]
    try:
        sweep = Sweep(plan, out, watcher, supervisors)
        sweep.note_ooms(standing)
        for cases in by_shape(pending).values():
            sweep.shape(cases)
    finally:
        for supervisor in supervisors:
            supervisor.close()
    seconds: Counter[str] = Counter()
    for supervisor in supervisors:
        seconds.update(supervisor.seconds)
    return Summary([*standing, *sweep.records], time.monotonic() - begin, dict(seconds))


class Sweep:
    """Measures shapes one by one and appends one row per case; `tag` goes into every line of samples.

    Each supervisor has a process of its own. A case that works is measured by all of them, one after the
    other, before its row is written.
    """

    def __init__(
        self,
        plan: Plan,
        out: ResultFile,
        watcher: Watcher,
        supervisors: Sequence[Supervisor],
        tag: Mapping[str, str] | None = None,
    ) -> None:
        self.plan, self.out, self.watcher, self.supervisors = plan, out, watcher, supervisors
        self.tag = dict(tag or {})
        self.records: list[Record] = []
        self._oom_at: dict[tuple[object, ...], int] = {}
        self._begun = _now()

    def note_ooms(self, records: Iterable[Record]) -> None:
        """Note at which seq_len providers ran out of memory, so that longer sequences are not tried."""
        for record in records:
            if record.status == "oom":
                self._note_oom(_oom_axis(record), record.seq_len)

    def shape(self, cases: list[Case]) -> None:
        """Do all cases of one shape: first those that need no worker, then the rest in one job."""
        runnable = []
        for case in cases:
            known = self._known(case)
            if known is None:
                runnable.append(case)
            else:
                self._record([known])
        if self.plan.sanitizer is not None:
            for case in runnable:
                self._sanitize(case, self.plan.sanitizer)
        elif runnable:
            self._measure_in_each(runnable)

    def _measure_in_each(self, cases: list[Case]) -> None:
        """Measure cases in one process after the other: in each those that worked in all before it."""
        held: dict[Case, list[Outcome]] = {case: [] for case in cases}

        def final(outcome: Outcome) -> None:
            before = held[outcome.case]
            if outcome.status in WORKED and len(before) + 1 < len(self.supervisors):
                before.append(outcome)
                return
            del held[outcome.case]
            if outcome.status in WORKED:
                self._record([*before, outcome])
            elif before:
                place = f"in process {len(before) + 1} of {len(self.supervisors)}: "
                self._record([replace(outcome, reason=place + outcome.reason)])
            else:
                self._record([outcome])

        for supervisor in self.supervisors:
            if held:
                self._measure(list(held), supervisor, final)

    def _known(self, case: Case) -> Outcome | None:
        planned = self.plan.providers[case.provider]
        if planned.broken:
            return Outcome(case, "crashed", planned.broken)
        if planned.unavailable:
            return Outcome(case, "unavailable", planned.unavailable)
        smaller = self._oom_at.get(_oom_axis(self._blank(case)))
        if smaller is not None and smaller < case.shape.seq_len:
            reason = f"not tried: out of memory already at seq_len {smaller}, and memory grows with it"
            return Outcome(case, "oom", reason)
        return None

    def _measure(self, cases: list[Case], supervisor: Supervisor, final: Callable[[Outcome], None]) -> None:
        """Run one job for all. A case that fails beside others, or loses the worker, runs again alone.

        So only the culprit is blamed, and not a later case of the same process: `crashed` and `wrong` are
        recorded only of a case that was alone in a fresh worker. On a GPU the worker itself makes sure that
        nothing else holds memory before it reports oom; on a CPU it cannot know. `final` gets what counts.
        """
        plan, job = self.plan, self._job(cases)
        certain = len(cases) == 1 and supervisor.fresh
        unproven = {"crashed", "wrong", "oom"} if plan.device == "cpu" else {"crashed", "wrong"}
        left = list(cases)
        doubtful: set[Case] = set()
        statuses: set[Status] = set()

        def on_outcome(outcome: Outcome) -> None:
            statuses.add(outcome.status)
            if outcome.status in unproven and not certain:
                doubtful.add(outcome.case)
                return
            left.remove(outcome.case)
            final(outcome)

        ending = supervisor.run(job, on_outcome, self._on_enter(cases))
        if "oom" in statuses & unproven:
            supervisor.stop()  # it may still hold the memory that was missing
        assert ending is not None or doubtful >= set(left), f"the worker forgot {left}"
        proven = ending is not None and (certain or (len(cases) == 1 and ending.status == "timeout"))
        for case in left:
            if ending is not None and proven:
                final(Outcome(case, ending.status, ending.reason))
                continue
            if case in doubtful:
                supervisor.stop()
            self._measure([case], supervisor, final)

    def _sanitize(self, case: Case, sanitizer: Sanitizer) -> None:
        """Run one case in a worker that a sanitizer watches; what is found there belongs to this case."""
        (supervisor,) = self.supervisors
        supervisor.stop()
        outcomes: list[Outcome] = []
        ending = supervisor.run(self._job([case]), outcomes.append, self._on_enter([case]))
        if ending is not None and not outcomes:
            outcomes.append(Outcome(case, ending.status, ending.reason))
        self._record([sanitizer.judged(outcomes[0], supervisor.sanitizer_report())])

    def _job(self, cases: list[Case]) -> Job:
        plan = self.plan
        return Job(tuple(cases), plan.metric, plan.protocol, plan.limits, plan.graph, plan.seed, plan.inputs)

    def _on_enter(self, cases: list[Case]) -> Enter:
        names = {case.id: self.plan.case_id(case) for case in cases}

        def on_enter(case_id: str, phase: str) -> None:
            self.watcher.entered(names.get(case_id, ""), phase)

        return on_enter

    def _record(self, outcomes: list[Outcome]) -> None:
        """Write the row of a case, and the samples of each process that has measured it."""
        outcome = across(outcomes)
        record = replace(
            self._blank(outcome.case),
            status=outcome.status,
            reason=outcome.reason,
            run_utc=self._begun,
            time_utc=_now(),
            **vars(outcome.figures),
        )
        # The last line is that of the process whose figures the row has.
        for number, each in sorted(enumerate(outcomes), key=lambda pair: pair[1].samples is outcome.samples):
            if each.samples:
                process = {"process": number} if len(outcomes) > 1 else {}
                self.out.append_samples(record, each.samples.as_line() | process | self.tag)
        self.out.append(record)
        self.records.append(record)
        if record.status == "oom":
            self._note_oom(_oom_axis(record), record.seq_len)
        self.watcher.recorded(record)

    def _note_oom(self, axis: tuple[object, ...], seq_len: int) -> None:
        self._oom_at[axis] = min(seq_len, self._oom_at.get(axis, seq_len))

    def _blank(self, case: Case) -> Record:
        """Return the row of a case without its figures."""
        plan, shape, machine = self.plan, case.shape, self.plan.machine
        planned = plan.providers[case.provider]
        provider = planned.provider
        return Record(
            suite=plan.suite,
            metric=plan.metric,
            protocol=plan.protocol,
            status="ok",
            case_id=plan.case_id(case),
            provider=provider.name,
            label=provider.label,
            family=provider.family,
            layout=provider.layout,
            provider_version=planned.version,
            direction=case.direction,
            dtype=shape.dtype,
            batch=shape.batch,
            heads=shape.heads,
            seq_len=shape.seq_len,
            head_dim=shape.head_dim,
            value_dim=shape.value_dim,
            device=shape.device,
            **shape.variant.columns,
            **shape.training.columns,
            device_name=machine.device_name,
            capability=machine.capability,
            driver=machine.driver,
            cuda=machine.cuda,
            torch=machine.torch,
            triton=machine.triton,
            python=machine.python,
            harness_version=machine.harness_version,
            harness_commit=machine.harness_commit,
            machine_id=machine.id,
            **{name: getattr(machine, name) for name in IDENTITY},
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _oom_axis(record: Record) -> tuple[object, ...]:
    """Return everything but seq_len: along it, memory can only grow."""
    return record.provider, record.direction, replace(record.shape, seq_len=0)
