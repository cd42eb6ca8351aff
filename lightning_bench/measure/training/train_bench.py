"""A job of metric train: each case checked at a small size, then trained by itself, step after step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from lightning_bench.case import Case
from lightning_bench.families.work import CEILING_TOLERANCE
from lightning_bench.machine.data_sheet import mfu_percent
from lightning_bench.machine.mix import EVEN
from lightning_bench.measure.autotuned import AutotuneWatch
from lightning_bench.measure.device.clocks import ClockReading, summarize_clocks
from lightning_bench.measure.device.energy import LEAST_SECONDS, Energy, energy_per_token_j, make_energy
from lightning_bench.measure.device.lap_clock import make_lap_clock
from lightning_bench.measure.device.memory import MIB, Peak
from lightning_bench.measure.foreign import LoadFigures
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.job import CaseEnded, CaseSamples, Emit, Enter, Figures, Job, Outcome
from lightning_bench.measure.outcomes import Outcomes
from lightning_bench.measure.sampling import Sampler, StopRule, summarize
from lightning_bench.measure.session import Session
from lightning_bench.measure.speed_row import with_load
from lightning_bench.measure.training.model_gate import judge_model
from lightning_bench.measure.training.trainer import Trainer
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers.registry.base import Provider
from lightning_bench.record import Status

_WARM_UP_STEPS = (
    1  # after one that compiles and one whose memory is measured: the allocator and clocks settle
)
_TURN_S, _MOST_IN_TURN = 0.5, 10
_LAST_LOSSES = 3

_now = time.perf_counter


@dataclass
class _Run:
    """What a case has given so far. Times in ms, energy in J over the tokens of `energy_tokens`."""

    trainer: Trainer
    sampler: Sampler
    first_s: float = 0.0
    phases: list[list[float]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    readings: list[ClockReading] = field(default_factory=list)
    memory: Peak | None = None
    token_energy_j: float | None = None


class TrainBench:
    """The state of one job: its cases are trained one after the other, with the device to themselves.

    `compiled` is called when torch.compile has done what changes the process.
    """

    def __init__(
        self, session: Session, job: Job, enter: Enter, emit: Emit, compiled: Callable[[], None]
    ) -> None:
        self.session, self.job, self.enter, self._compiled = session, job, enter, compiled
        self.outcomes = Outcomes(session, job, enter, emit)
        self._energy: Energy = make_energy(session.device)
        limits = job.limits
        self._rule = StopRule(
            ci_percent=limits.ci_percent,
            min_samples=limits.min_samples,
            max_samples=limits.max_samples,
            sample_limit_s=limits.sample_limit_s,
        )

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
                self.outcomes.emit(self._measured(case, provider))
            torch.compiler.reset()  # what was compiled for the last case holds its weights

    def _measured(self, case: Case, provider: Provider) -> Outcome:
        figures = self._judged(case, provider)
        self.enter(case.id, "warm-up")
        tuned = AutotuneWatch()
        run = self._warmed_up(case, provider)
        self._sample(case, run)
        config = " ".join(filter(None, [figures.provider_config, tuned.chosen()]))
        figures = replace(figures, provider_config=config)
        if reason := GUARD.replaced():
            raise CaseEnded("wrong", reason)
        return self._outcome(case, run, figures)

    def _judged(self, case: Case, provider: Provider) -> Figures:
        """Return the figures of the small model. Raise CaseEnded if it is not right."""
        size = MODELS[case.shape.training.model]
        for layer in (0, 1):
            if reason := provider.unsupported(size.layer_shape(case.shape, layer), case.direction):
                raise CaseEnded("unsupported", f"layer {layer} of {size.layers}: {reason}")
        self.enter(case.id, "oracle")
        errors = judge_model(size, provider, case.shape.dtype, case.shape, self.job.seed)
        figures = Figures(
            provider_config=provider.config(case.shape, case.direction),
            error_o=errors.logits,
            error_dgate=errors.gradient,
            error_budget=errors.budget,
            seed=self.job.seed,
            parameters=size.parameters,
        )
        if errors.failure:
            raise CaseEnded("wrong", errors.failure, figures)
        return figures

    def _warmed_up(self, case: Case, provider: Provider) -> _Run:
        """Take the first steps: one that compiles, one whose memory is measured, and some more."""
        clock = make_lap_clock(self.session.device)
        run = _Run(Trainer(case.shape, provider, self.job.seed), Sampler(self._rule))
        self.session.meter.settle()
        begin = _now()
        run.losses += run.trainer.steps(1, clock)[1]
        run.first_s = _now() - begin
        if case.shape.training.compile:
            self._compiled()
        losses, run.memory = self.session.meter.measure(lambda: run.trainer.steps(1, clock)[1])
        run.losses += losses + run.trainer.steps(_WARM_UP_STEPS, clock)[1]
        return run

    def _sample(self, case: Case, run: _Run) -> None:
        """Take turns of steps until the rule says that they are enough."""
        clock, foreign = make_lap_clock(self.session.device), self.session.foreign
        most, slot = self._rule.max_samples, 1
        begin, joules = _now(), self._energy.read_j()
        while not run.sampler.done:
            self.enter(case.id, "samples")
            foreign.begins(case.id)
            turn = _now()
            phases, losses = run.trainer.steps(min(slot, max(1, most - len(run.phases))), clock)
            run.sampler.add([sum(step) for step in phases], _now() - turn)
            foreign.ends(case.id)
            run.phases += phases
            run.losses += losses
            run.turns.append(len(phases))
            reading = self.session.clocks.read()
            if reading is not None:
                run.readings.append(reading)
            slot = max(1, min(_MOST_IN_TURN, int(1e3 * _TURN_S / run.sampler.median_ms)))
        seconds, after = _now() - begin, self._energy.read_j()
        foreign.settle()
        tokens = run.trainer.tokens * len(run.phases)
        run.token_energy_j = energy_per_token_j(joules, after, seconds, tokens)

    def _outcome(self, case: Case, run: _Run, figures: Figures) -> Outcome:
        losses = torch.stack(run.losses).double().tolist()
        clocks, load = summarize_clocks(run.readings), self.session.foreign.figures(case.id)
        figures = replace(
            with_load(figures, load),
            first_loss=losses[0],
            loss=statistics.fmean(losses[-_LAST_LOSSES:]),
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
        if reason := loss_failure(losses):
            return Outcome(case, "wrong", reason, figures, samples)
        checks = (
            f"small model against fp64; loss {losses[0]:.3g} to {figures.loss:.3g} in {len(losses)} steps"
        )
        untimed = replace(figures, checks=checks)
        figures = self._timed(case, run, untimed)
        if case.shape.device == "cuda" and (reason := too_fast(figures.tflops, figures.ceiling_tflops)):
            return Outcome(case, "wrong", reason, untimed, samples)
        trouble = self._trouble(run, load, clocks.trouble)
        status: Status = "unstable" if trouble else "ok"
        notes = [f"no energy: {why}"] if (why := self._energy_missing(run)) else []
        return Outcome(case, status, "; ".join([*trouble, *notes]), figures, samples)

    def _timed(self, case: Case, run: _Run, figures: Figures) -> Figures:
        """Add the figures of the steps."""
        shape, device = case.shape, self.session.device
        times, ceilings = summarize(run.sampler.samples), self.session.ceilings(shape.dtype, EVEN)
        flops = run.trainer.size.step_flops(shape)
        tflops = flops / times.median_ms / 1e9
        name = torch.cuda.get_device_name() if device == "cuda" else ""
        forward, backward, optimizer = (statistics.median(step) for step in zip(*run.phases, strict=True))
        assert run.memory is not None
        held = run.memory.before if device == "cuda" else run.trainer.held_bytes
        return replace(
            figures,
            **asdict(times),
            processes=1,
            tokens_per_s=1e3 * run.trainer.tokens / times.median_ms,
            mfu_percent=mfu_percent(tflops, name, shape.dtype),
            forward_ms=forward,
            backward_ms=backward,
            optimizer_ms=optimizer,
            compile_s=max(0.0, run.first_s - times.median_ms / 1e3),
            energy_per_token_j=run.token_energy_j,
            model_flops=flops,
            tflops=tflops,
            ceiling_tflops=ceilings.tflops,
            peak_mib=(held + run.memory.peak) / MIB,
            reserved_mib=None if run.memory.reserved is None else run.memory.reserved / MIB,
        )

    def _trouble(self, run: _Run, load: LoadFigures, clocks: str | None) -> list[str]:
        """Return why the figures are not to be relied on."""
        return [each for each in (clocks, load.trouble, run.sampler.trouble()) if each]

    def _energy_missing(self, run: _Run) -> str:
        """Return why the row has no energy; "" if it has, and on a CPU, where none ever has."""
        if self.session.device == "cpu" or run.token_energy_j is not None:
            return ""
        return self._energy.missing or f"the steps took less than {LEAST_SECONDS:g} s"


def too_fast(tflops: float | None, ceiling_tflops: float | None) -> str | None:
    """Return why a rate of model operations cannot be true beside that of a matmul, or None if it can."""
    if not tflops or not ceiling_tflops or tflops <= CEILING_TOLERANCE * ceiling_tflops:
        return None
    return f"impossible: {tflops:.0f} TFLOP/s is above the {ceiling_tflops:.0f} that a matmul reaches here"


def loss_failure(losses: list[float]) -> str | None:
    """Return why losses, one per step in nats, are not those of a model that learns; None if they are."""
    for number, loss in enumerate(losses, start=1):
        if not abs(loss) < float("inf"):  # NaN too
            return f"the loss of step {number} of {len(losses)} is {loss}"
    last = statistics.fmean(losses[-_LAST_LOSSES:])
    if last >= losses[0]:
        return f"the loss did not fall: {losses[0]:.4g} in step 1, {last:.4g} after {len(losses)} steps"
    return None
