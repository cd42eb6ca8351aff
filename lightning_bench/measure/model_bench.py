"""A job on whole models: each case judged at a small size, then run by itself, unit after unit.

A unit is a training step or the generation of new tokens; it consists of phases.
"""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import torch

from lightning_bench.case import Case
from lightning_bench.measure.autotuned import AutotuneWatch
from lightning_bench.measure.device.clocks import ClockReading, summarize_clocks
from lightning_bench.measure.device.energy import LEAST_SECONDS, energy_per_token_j
from lightning_bench.measure.device.lap_clock import LapClock, make_lap_clock
from lightning_bench.measure.device.memory import MIB, Peak
from lightning_bench.measure.foreign import LoadFigures
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.job import CaseEnded, CaseSamples, Emit, Enter, Figures, Job, Outcome
from lightning_bench.measure.outcomes import Outcomes
from lightning_bench.measure.sampling import Sampler, StopRule, summarize
from lightning_bench.measure.session import Session
from lightning_bench.measure.speed_row import with_load
from lightning_bench.models.model_sizes import MODELS, ModelSize
from lightning_bench.providers.registry.base import Provider
from lightning_bench.record import Status

_TURN_S, _MOST_IN_TURN = 0.5, 10

_now = time.perf_counter


class ModelRunner(Protocol):
    """A whole model at work."""

    @property
    def tokens(self) -> int:
        """Tokens of a unit, by which its rate is counted."""

    @property
    def held_bytes(self) -> int:
        """Bytes that stay between units."""

    def units(self, count: int, clock: LapClock) -> list[list[float]]:
        """Do units one after the other without waiting. Return the times of each one's phases, ms.

        The device has finished when this returns.
        """


Runner = TypeVar("Runner", bound=ModelRunner)


@dataclass
class ModelFigures(Generic[Runner]):
    """What a case has given so far. Times in ms, energy in J per token."""

    runner: Runner
    sampler: Sampler
    first_s: float = 0.0
    phases: list[list[float]] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    readings: list[ClockReading] = field(default_factory=list)
    memory: Peak | None = None
    token_energy_j: float | None = None

    @property
    def phase_ms(self) -> list[float]:
        """The median time of each phase."""
        return [statistics.median(phase) for phase in zip(*self.phases, strict=True)]


class ModelBench(ABC, Generic[Runner]):
    """The state of one job: its cases run one after the other, with the device to themselves.

    `compiled` is called when torch.compile has done what changes the process.
    """

    warm_ups: int
    """Units before the samples, after one that compiles and one whose memory is measured."""

    def __init__(
        self, session: Session, job: Job, enter: Enter, emit: Emit, compiled: Callable[[], None]
    ) -> None:
        self.session, self.job, self.enter, self._compiled = session, job, enter, compiled
        self.outcomes = Outcomes(session, job, enter, emit)
        self._rule = StopRule.of(job.limits)

    @abstractmethod
    def judged(self, case: Case, size: ModelSize, provider: Provider) -> Figures:
        """Return the figures of the small model. Raise CaseEnded if it is not right."""

    @abstractmethod
    def made(self, case: Case, size: ModelSize, provider: Provider) -> Runner:
        """Return the model of the case."""

    @abstractmethod
    def finished(self, case: Case, run: ModelFigures[Runner], figures: Figures) -> tuple[Figures, str | None]:
        """Return the figures with what the units have computed, and why that cannot be right, or None."""

    @abstractmethod
    def timed(self, case: Case, run: ModelFigures[Runner], figures: Figures) -> tuple[Figures, str | None]:
        """Return the figures with those of the phases, and why no device is so fast, or None."""

    def run(self) -> None:
        """Measure every case of the job."""
        loaded = self.outcomes.loaded()
        if loaded:
            self.enter("", "warm-up")
            self.session.measure_ceilings(self.job.shape.dtype, [])
        for case, provider in loaded:
            self.session.release()
            self.session.assert_clean(0)
            with self.outcomes.of(case):
                self.outcomes.emit(self.measured(case, provider))
            torch.compiler.reset()  # what was compiled for the last case holds its weights

    def measured(self, case: Case, provider: Provider) -> Outcome:
        """Judge, warm up and sample a case. Raise CaseEnded, and what its provider raises."""
        size = MODELS[case.shape.model_run.model]
        for layer in (0, 1):
            if reason := provider.unsupported(size.layer_shape(case.shape, layer), case.direction):
                raise CaseEnded("unsupported", f"layer {layer} of {size.layers}: {reason}")
        self.enter(case.id, "oracle")
        config = provider.config(case.shape, case.direction)
        figures = replace(
            self.judged(case, size, provider),
            provider_config=config,
            seed=self.job.seed,
            parameters=size.parameters,
        )
        self.enter(case.id, "warm-up")
        tuned = AutotuneWatch()
        run = self._warmed_up(case, self.made(case, size, provider))
        self.sample(case, run)
        figures = replace(figures, provider_config=" ".join(filter(None, [config, tuned.chosen()])))
        if reason := GUARD.replaced():
            raise CaseEnded("wrong", reason)
        return self._outcome(case, run, figures)

    def _warmed_up(self, case: Case, runner: Runner) -> ModelFigures[Runner]:
        """Do the first units: one that compiles, one whose memory is measured, and some more."""
        clock = make_lap_clock(self.session.device)
        run = ModelFigures(runner, Sampler(self._rule))
        self.session.meter.settle()
        begin = _now()
        runner.units(1, clock)
        run.first_s = _now() - begin
        if case.shape.model_run.compile:
            self._compiled()
        _, run.memory = self.session.meter.measure(lambda: runner.units(1, clock))
        runner.units(self.warm_ups, clock)
        return run

    def sample(self, case: Case, run: ModelFigures[Runner]) -> None:
        """Take turns of units until the rule says that they are enough."""
        clock, foreign = make_lap_clock(self.session.device), self.session.foreign
        most, slot = self._rule.max_samples, 1
        begin, joules = _now(), self.session.energy.read_j()
        while not run.sampler.done:
            self.enter(case.id, "samples")
            foreign.begins(case.id)
            turn = _now()
            phases = run.runner.units(min(slot, max(1, most - len(run.phases))), clock)
            run.sampler.add([sum(unit) for unit in phases], _now() - turn)
            foreign.ends(case.id)
            run.phases += phases
            run.turns.append(len(phases))
            reading = self.session.clocks.read()
            if reading is not None:
                run.readings.append(reading)
            slot = max(1, min(_MOST_IN_TURN, int(1e3 * _TURN_S / run.sampler.median_ms)))
        seconds, after = _now() - begin, self.session.energy.read_j()
        foreign.settle()
        tokens = run.runner.tokens * len(run.phases)
        run.token_energy_j = energy_per_token_j(joules, after, seconds, tokens)

    def _outcome(self, case: Case, run: ModelFigures[Runner], figures: Figures) -> Outcome:
        clocks, load = summarize_clocks(run.readings), self.session.foreign.figures(case.id)
        figures = replace(
            with_load(figures, load),
            sm_clock_mhz=clocks.sm_clock_mhz,
            power_w=clocks.power_w,
            temperature_c=clocks.temperature_c,
            throttle=clocks.throttle,
        )
        samples = CaseSamples(
            samples_ms=run.sampler.samples,
            turns=run.turns,
            call_ms=[],
            clocks=[asdict(reading) for reading in run.readings],
        )
        figures, reason = self.finished(case, run, figures)
        if reason:
            return Outcome(case, "wrong", reason, figures, samples)
        timed, reason = self.timed(case, run, self._with_times(run, figures))
        if reason and case.shape.device == "cuda":
            return Outcome(case, "wrong", reason, figures, samples)
        trouble = self._trouble(run, load, clocks.trouble)
        status: Status = "unstable" if trouble else "ok"
        notes = [f"no energy: {why}"] if (why := self._energy_missing(run)) else []
        return Outcome(case, status, "; ".join([*trouble, *notes]), timed, samples)

    def _with_times(self, run: ModelFigures[Runner], figures: Figures) -> Figures:
        """Add the times of whole units, their rate, energy and memory."""
        times = summarize(run.sampler.samples)
        assert run.memory is not None
        held = run.memory.before if self.session.device == "cuda" else run.runner.held_bytes
        return replace(
            figures,
            **asdict(times),
            processes=1,
            tokens_per_s=1e3 * run.runner.tokens / times.median_ms,
            compile_s=max(0.0, run.first_s - times.median_ms / 1e3),
            energy_per_token_j=run.token_energy_j,
            peak_mib=(held + run.memory.peak) / MIB,
            reserved_mib=None if run.memory.reserved is None else run.memory.reserved / MIB,
        )

    def _trouble(self, run: ModelFigures[Runner], load: LoadFigures, clocks: str | None) -> list[str]:
        """Return why the figures are not to be relied on."""
        return [each for each in (clocks, load.trouble, run.sampler.trouble()) if each]

    def _energy_missing(self, run: ModelFigures[Runner]) -> str:
        """Return why the row has no energy; "" if it has, and on a CPU, which rarely has a counter."""
        if self.session.device == "cpu" or run.token_energy_j is not None:
            return ""
        return self.session.energy.missing or f"the samples took less than {LEAST_SECONDS:g} s"
