"""A lane: the workers of one slot, and which failures they confirm before a case has its outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_bench.case import Case, Device
from lightning_bench.machine.place import Place
from lightning_bench.measure.job import Enter, Job, Outcome
from lightning_bench.record import WORKED, Status
from lightning_bench.run.across import across
from lightning_bench.run.sanitizer import Sanitizer
from lightning_bench.run.supervisor import Supervisor

Final = Callable[[Outcome], None]
"""Called once per case, with what the processes that have measured it agree on."""


@dataclass(frozen=True)
class Crew:
    """What the workers of a lane are like: plain data, since a lane may run on another host.

    As many `processes` measure each case, one after the other. There is a group of them for each of
    `import_paths`, the folders that go first on the import path of its workers.
    """

    device: Device
    processes: int = 1
    memory_limit_gib: float | None = None
    sanitizer: Sanitizer | None = None
    import_paths: tuple[tuple[Path, ...], ...] = ((),)


class Lane:
    """Measures one job at a time in the workers of a crew, which see only the device of `place`.

    Each supervisor has a process of its own. A case that works is measured by all of its side, one after
    the other.
    """

    def __init__(self, crew: Crew, place: Place | None = None) -> None:
        self._crew = crew
        self._sides = [
            [
                Supervisor(crew.device, crew.memory_limit_gib, path, sanitizer=crew.sanitizer, place=place)
                for _ in range(crew.processes)
            ]
            for path in crew.import_paths
        ]

    @property
    def seconds(self) -> Counter[str]:
        """Seconds of all workers so far, by phase."""
        total: Counter[str] = Counter()
        for supervisor in self._supervisors:
            total.update(supervisor.seconds)
        return total

    def prepare(self) -> None:
        """Start every worker anew, without waiting for it."""
        for supervisor in self._supervisors:
            supervisor.prepare()

    def measure(self, job: Job, final: Final, on_enter: Enter, side: int = 0) -> None:
        """Measure the cases of a job; LbenchError if a worker cannot start."""
        if self._crew.sanitizer is None:
            self._measure_in_each(job, self._sides[side], final, on_enter)
            return
        for case in job.cases:
            self._sanitize(replace(job, cases=(case,)), self._crew.sanitizer, final, on_enter)

    def abandon(self) -> None:
        """Kill the workers from another thread; what `measure` does then ends with AbandonedError."""
        for supervisor in self._supervisors:
            supervisor.abandon()

    def close(self) -> None:
        """Stop the workers."""
        for supervisor in self._supervisors:
            supervisor.close()

    @property
    def _supervisors(self) -> list[Supervisor]:
        return [supervisor for side in self._sides for supervisor in side]

    def _measure_in_each(
        self, job: Job, supervisors: Sequence[Supervisor], final: Final, on_enter: Enter
    ) -> None:
        """Measure cases in one process after the other: in each those that worked in all before it."""
        held: dict[Case, list[Outcome]] = {case: [] for case in job.cases}

        def on_outcome(outcome: Outcome) -> None:
            before = held[outcome.case]
            if outcome.status in WORKED and len(before) + 1 < len(supervisors):
                before.append(outcome)
                return
            del held[outcome.case]
            if outcome.status in WORKED:
                final(across([*before, outcome]))
            elif before:
                place = f"in process {len(before) + 1} of {len(supervisors)}: "
                final(replace(outcome, reason=place + outcome.reason))
            else:
                final(outcome)

        for supervisor in supervisors:
            if held:
                self._confirm(replace(job, cases=tuple(held)), supervisor, on_outcome, on_enter)

    def _confirm(self, job: Job, supervisor: Supervisor, final: Final, on_enter: Enter) -> None:
        """Run one job for all. A case that fails beside others, or loses the worker, runs again alone.

        So only the culprit is blamed, and not a later case of the same process: `crashed` and `wrong` are
        recorded only of a case that was alone in a fresh worker. On a GPU the worker itself makes sure that
        nothing else holds memory before it reports oom; on a CPU it cannot know. `final` gets what counts.
        """
        certain = len(job.cases) == 1 and supervisor.fresh
        unproven = {"crashed", "wrong", "oom"} if self._crew.device == "cpu" else {"crashed", "wrong"}
        left = list(job.cases)
        doubtful: set[Case] = set()
        statuses: set[Status] = set()

        def on_outcome(outcome: Outcome) -> None:
            statuses.add(outcome.status)
            if outcome.status in unproven and not certain:
                doubtful.add(outcome.case)
                return
            left.remove(outcome.case)
            final(outcome)

        ending = supervisor.run(job, on_outcome, on_enter)
        if "oom" in statuses & unproven:
            supervisor.stop()  # it may still hold the memory that was missing
        assert ending is not None or doubtful >= set(left), f"the worker forgot {left}"
        proven = ending is not None and (certain or (len(job.cases) == 1 and ending.status == "timeout"))
        for case in left:
            if ending is not None and proven:
                final(Outcome(case, ending.status, ending.reason))
                continue
            if case in doubtful:
                supervisor.stop()
            self._confirm(replace(job, cases=(case,)), supervisor, final, on_enter)

    def _sanitize(self, job: Job, sanitizer: Sanitizer, final: Final, on_enter: Enter) -> None:
        """Run one case in a worker that a sanitizer watches; what is found there belongs to this case."""
        ((supervisor,),) = self._sides
        supervisor.stop()
        outcomes: list[Outcome] = []
        ending = supervisor.run(job, outcomes.append, on_enter)
        if ending is not None and not outcomes:
            outcomes.append(Outcome(job.cases[0], ending.status, ending.reason))
        final(sanitizer.judged(outcomes[0], supervisor.sanitizer_report()))
