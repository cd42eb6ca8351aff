"""One job on one bench: load, check and measure the cases of a shape, each to its outcome."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch

from lightning_bench.case import Case, Distribution, Family
from lightning_bench.families.work import Work
from lightning_bench.measure import paper
from lightning_bench.measure.audit import NEW_MOST, new_contents
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.device.call_watch import NoCallWatch
from lightning_bench.measure.device.timer import Timer
from lightning_bench.measure.energy_row import energy_outcome
from lightning_bench.measure.energy_windows import EnergyRounds, EnergyTask, WindowRule
from lightning_bench.measure.gate import Gated, InputsChangedError, pass_gate
from lightning_bench.measure.generation.generate_bench import GenerateBench
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded, Emit, Enter, Figures, Job, Outcome
from lightning_bench.measure.memory_row import call_memory, memory_figures, paper_figures
from lightning_bench.measure.oracle import Reference
from lightning_bench.measure.outcomes import Outcomes, is_oom
from lightning_bench.measure.ranks.ranked_calls import RankedCalls, ranked_calls
from lightning_bench.measure.rounds import Task, run_rounds, warm_up
from lightning_bench.measure.sampling import StopRule
from lightning_bench.measure.second import consult_second
from lightning_bench.measure.session import Session
from lightning_bench.measure.speed_row import graph_samples, speed_outcome, with_load
from lightning_bench.measure.training.train_bench import TrainBench
from lightning_bench.measure.watch import Watch
from lightning_bench.providers import load_error
from lightning_bench.providers.registry.base import Provider


def run_job(session: Session, job: Job, enter: Enter, emit: Emit) -> bool:
    """Measure a job; `emit` gets one outcome per case, `enter` the case id and the phase before the work.

    Return whether this process may measure another. Raises PoisonedError when that cannot be done in this
    process: cases without an outcome then must run again in another.
    """
    session.assert_clean(0)
    session.foreign.job_begins()
    watch = Watch(enter, emit, alone=len(job.cases) == 1)
    bench: TrainBench | GenerateBench | _Bench
    if job.metric == "train":
        bench = TrainBench(session, job, watch.enter, watch.emit, watch.excuse)
    elif job.metric == "generate":
        bench = GenerateBench(session, job, watch.enter, watch.emit, watch.excuse)
    else:
        bench = _Bench(session, job, watch.enter, watch.emit, watch.excuse)
    try:
        bench.run()
        return watch.reusable()
    finally:
        del bench
        session.release()


@dataclass(frozen=True)
class _Other:
    """Inputs that nothing has seen while it was timed, and what is right on them."""

    distribution: Distribution
    seed: int
    inputs: InputSet
    references: dict[Family, Reference]


_Ready = tuple[Gated, Task]
"""A case that has passed the gate, and its call, warmed up."""


def _at_once() -> None:
    """Wait for a CPU, which has finished when a call returns."""


class _Bench:
    """The state of one job: shared inputs and references, released when it ends."""

    def __init__(
        self, session: Session, job: Job, enter: Enter, emit: Emit, excuse: Callable[[], None]
    ) -> None:
        self.session, self.job, self.enter, self._excuse = session, job, enter, excuse
        self.outcomes = Outcomes(session, job, enter, emit)
        self._references: dict[Family, Reference] = {}
        self._others: dict[int, _Other] = {}
        self._moved = False
        self._rule = StopRule.of(job.limits)
        self._ranked: RankedCalls | None = None
        self._timer: Timer = session.timer

    def run(self) -> None:
        """Measure every case of the job."""
        loaded = self.outcomes.loaded()
        if not loaded:
            return
        if self.job.metric == "energy" and (reason := self.session.energy.missing):
            for case, _ in loaded:
                self.outcomes.emit(Outcome(case, "unavailable", reason))
            return
        interleave = self.job.metric in ("speed", "energy") and self.job.protocol == "lbench"
        if interleave:
            self.enter("", "warm-up")
            works = (Work.of(provider.family, case.shape, case.direction) for case, provider in loaded)
            self.session.measure_ceilings(self.job.shape.dtype, [work.mix for work in works])
            self.session.timer.empty_us()  # compiles what the timer itself runs, too
        with ExitStack() as stack:
            try:
                self._start_ranks(loaded, stack)
            except CaseEnded as ended:
                for case, _ in loaded:
                    self.outcomes.emit(Outcome(case, ended.status, ended.reason))
                return
            self._measure(loaded, interleave=interleave)

    def _start_ranks(self, loaded: list[tuple[Case, Provider]], stack: ExitStack) -> None:
        """Start the ranks that share the sequences, if any. Raise CaseEnded if there can be none."""
        shape, job = self.job.shape, self.job
        if not shape.is_split:
            return
        if job.metric == "energy" or job.protocol == "paper":
            what = "energy" if job.metric == "energy" else "protocol paper"
            raise CaseEnded("unsupported", f"{what} is measured on one device: no --ranks")
        self.enter("", "start")
        stack.callback(self._excuse)  # threads of torch, which the ranks share on a CPU
        providers = {case.provider: provider for case, provider in loaded}
        calls = ranked_calls([case for case, _ in loaded], providers, job.seed)
        self._ranked = stack.enter_context(calls)
        self._timer = self._ranked.timer(self.session.timer)
        self._excuse()
        self.outcomes.note_threads()

    def _measure(self, loaded: list[tuple[Case, Provider]], *, interleave: bool) -> None:
        self.enter("", "inputs")
        try:
            self._inputs = self._drawn(0)
        except (RuntimeError, MemoryError) as error:
            if not is_oom(error):
                raise
            for case, _ in loaded:
                self.outcomes.emit(Outcome(case, "oom", "the inputs alone do not fit: " + load_error(error)))
            return
        if interleave:
            self._interleaved(loaded, self._time if self.job.metric == "speed" else self._take_windows)
            return
        for case, provider in loaded:
            with self.outcomes.of(case):
                self._by_itself(case, provider)

    def _interleaved(
        self, loaded: list[tuple[Case, Provider]], measure: Callable[[list[_Ready]], None]
    ) -> None:
        """Measure all cases in shuffled rounds; what does not fit beside the others runs alone afterwards."""
        ready: list[_Ready] = []
        beside, alone = (loaded, []) if len(loaded) > 1 else ([], loaded)
        for case, provider in beside:
            try:
                with self.outcomes.of(case, oom_ends=False):
                    ready.append(self._prepare(case, provider))
            except (RuntimeError, MemoryError):  # out of memory beside the others
                alone.append((case, provider))
                self.session.release()
        measure(ready)
        ready.clear()
        self._others.clear()
        for case, provider in alone:
            if self._ranked is not None:
                self._ranked.forget()
            self.session.release()
            self.session.assert_clean(self._own_bytes())
            with self.outcomes.of(case):
                measure([self._prepare(case, provider)])

    def _own_bytes(self) -> int:
        references = sum(reference.held_bytes for reference in self._references.values())
        parts = 0 if self._ranked is None else self._ranked.held_bytes
        return references + self._inputs.held_bytes + parts

    def _prepare(self, case: Case, provider: Provider) -> tuple[Gated, Task]:
        """Take a case through the gate and warm it up."""
        gated = self._gate(case, provider)
        self.enter(case.id, "warm-up")
        task = Task.of(case.id, gated.call.fn, self._rule, gated.audit)
        warm_up(task, self._timer, self._rule.warm_up_limit_s)
        return gated, task

    def _time(self, ready: list[_Ready]) -> None:
        session = self.session
        run_rounds(
            [task for _, task in ready],
            self._timer,
            session.clocks,
            seed=self.job.seed,
            enter=self.enter,
            foreign=session.foreign,
        )
        sampled = {task.key: task.sampler for gated, task in ready if gated.audit.failure is None}
        self._time_anew(
            ready,
            {key: new_contents(len(sampler.samples)) for key, sampler in sampled.items()},
            {key: sampler.median_ms for key, sampler in sampled.items()},
        )
        failed = self._judge_anew([gated for gated, _ in ready])
        for gated, task in ready:
            if gated.case in failed:
                continue
            self.enter(gated.case.id, "samples")
            with self.outcomes.of(gated.case):
                if self.job.graph:
                    self._restore()
                replays = partial(graph_samples, gated, self._inputs, self._rule, self._timer, self.enter)
                wanted = replays if self.job.graph else None
                self.outcomes.emit(speed_outcome(gated, task, session, self._timer, wanted))

    def _take_windows(self, ready: list[_Ready]) -> None:
        session, limits = self.session, self.job.limits
        tasks = [EnergyTask(task.key, task.fn, task.estimate_ms, gated.audit) for gated, task in ready]
        rounds = EnergyRounds(
            WindowRule(limits.windows, limits.window_s, limits.rest_s),
            session.energy,
            session.clocks,
            session.foreign,
            torch.cuda.synchronize if session.device == "cuda" else _at_once,
        )
        rounds.run(tasks, seed=self.job.seed, enter=self.enter)
        # The contents stay as they are in a window: who keeps results would need next to no energy.
        medians = {task.key: task.median_ms for task in tasks if task.watch.failure is None}
        self._time_anew(ready, dict.fromkeys(medians, NEW_MOST), medians)
        failed = self._judge_anew([gated for gated, _ in ready])
        for (gated, _), task in zip(ready, tasks, strict=True):
            if gated.case not in failed:
                with self.outcomes.of(gated.case):
                    self.outcomes.emit(energy_outcome(gated, task, session))

    def _time_anew(
        self, ready: list[_Ready], contents: Mapping[str, int], median_ms: Mapping[str, float]
    ) -> None:
        """Time calls on contents that are new, and again: what is kept of a call shows in the difference.

        `contents` says how many, by the key of a task, and `median_ms` how long its calls have taken.
        """
        working = [(gated, task) for gated, task in ready if gated.audit.failure is None]
        timed: dict[str, list[tuple[float, float]]] = {task.key: [] for _, task in working}
        for gated, task in working:
            self._moved = True
            self.enter(task.key, "samples")  # once: it wakes the parent process, which may slow the next call
            gated.audit.tries_zeros()
            for _ in range(contents[task.key]):
                gated.call.run()
                times = []
                # Moved by 0, the contents stay, and caches and allocator are in like states for both calls.
                for tokens in (1 + secrets.randbelow(max(1, self.job.shape.seq_len - 1)), 0):
                    self._inputs.roll(tokens)
                    gated.call.renew()
                    times += self._timer.sample(task.fn, 1, NoCallWatch())
                timed[task.key].append((times[0], times[1]))
            gated.audit.failure = GUARD.replaced() or gated.audit.failure
        for gated, task in working:
            gated.audit.note_new_contents(timed[task.key], median_ms[task.key])

    def _judge_anew(self, ready: list[Gated]) -> set[Case]:
        """Judge the same calls on inputs that they have not seen. Return cases that have an outcome now."""
        failed: set[Case] = set()
        try:
            for number, distribution in enumerate(self.job.inputs[1:], start=1):
                other = self._other(number, distribution)
                self._moved = True
                self._inputs.take(other.inputs)
                for gated in ready:
                    if gated.audit.failure is None and gated.case not in failed:
                        failed |= self._judge_on(other, gated)
        except (RuntimeError, MemoryError) as error:
            if not is_oom(error):  # else the column `checks` does not name what could not be judged
                raise
        return failed

    def _judge_on(self, other: _Other, gated: Gated) -> set[Case]:
        family = gated.provider.family
        if family not in other.references:
            self.enter("", "oracle")
            other.references[family] = Reference(
                family, other.inputs, gradients=self._gradients, seed=other.seed, every_pair=False
            )
        self.enter(gated.case.id, "check")
        before = len(self.outcomes.emitted)
        with self.outcomes.of(gated.case, oom_ends=False):
            gated.audit.judge_anew(other.references[family], other.distribution)
        return {gated.case} if len(self.outcomes.emitted) > before else set()

    def _other(self, number: int, distribution: Distribution) -> _Other:
        if number not in self._others:
            self.enter("", "inputs")
            self._others[number] = _Other(distribution, self.job.seed + number, self._drawn(number), {})
        return self._others[number]

    def _drawn(self, number: int) -> InputSet:
        return InputSet(self.job.shape, self.job.seed + number, self.job.inputs[number])

    @property
    def _gradients(self) -> bool:
        return any(case.direction != "fwd" for case in self.job.cases)

    def _by_itself(self, case: Case, provider: Provider) -> None:
        """Do all but interleaved timing: only the check, memory, or either metric of protocol paper."""
        gated = self._gate(case, provider)
        if self.job.metric == "check":
            self._judge_anew([gated])
            if gated.audit.failure:
                raise CaseEnded("wrong", gated.audit.failure, gated.figures)
        figures = replace(gated.figures, checks=gated.audit.checks)
        del gated  # the gate's graph must not be held while memory is measured
        if self.job.metric == "memory":
            self.enter(case.id, "samples")
            figures = self._with_memory(case, provider, figures)
        elif self.job.metric == "speed":
            self.enter(case.id, "samples")
            call = paper.build_call(provider, self._inputs, case.direction)
            foreign = self.session.foreign
            foreign.begins(case.id)
            figures = replace(figures, mean_ms=paper.mean_ms(call, self.session.device))
            foreign.ends(case.id)
            load = foreign.figures(case.id)
            figures = with_load(figures, load)
            if load.trouble:
                self.outcomes.emit(Outcome(case, "unstable", load.trouble, figures))
                return
        self.outcomes.emit(Outcome(case, "ok", "", figures))

    def _with_memory(self, case: Case, provider: Provider, figures: Figures) -> Figures:
        if self.job.protocol == "paper":
            return paper_figures(figures, case, provider, self._inputs, self.session)
        if self._ranked is not None:
            memory = self._ranked.memory(case, self._inputs)
        else:
            memory = call_memory(provider, self._inputs, case.direction, self.session.meter)
        return memory_figures(figures, case, provider, memory)

    def _restore(self) -> None:
        """Give the inputs the values back, in place, that calls were judged on."""
        if self._moved:
            self._inputs.take(self._drawn(0))
            self._moved = False

    def _gate(self, case: Case, provider: Provider) -> Gated:
        self._restore()
        reference = self._reference(provider.family)
        build = partial(direction_call, provider, self._inputs, case.direction)
        if self._ranked is not None:
            build = partial(self._ranked.call, case, self._inputs)
        try:
            return pass_gate(case, provider, self._inputs, reference, self.enter, build)
        except InputsChangedError:
            self._moved = True
            self._restore()
            raise

    def _reference(self, family: Family) -> Reference:
        if family not in self._references:
            self.enter("", "oracle")
            reference = Reference(family, self._inputs, gradients=self._gradients, seed=self.job.seed)
            consult_second(family, reference)
            self._references[family] = reference
            if self.session.device == "cuda":
                torch.cuda.synchronize()
        return self._references[family]
